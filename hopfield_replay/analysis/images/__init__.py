"""Images that lie somewhere: in folders, data sets and shards, with captions and classes, decoded when needed."""

from hopfield_replay.analysis.images.collection import ImageCollection
from hopfield_replay.analysis.images.item import Item
from hopfield_replay.analysis.images.reading import read_collection

__all__ = ["ImageCollection", "Item", "read_collection"]
