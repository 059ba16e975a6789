"""How a batch becomes samples, labels and conditions, and samples become the vectors of the energies."""

from hopfield_replay.encoders.columns import Column, Columns, first_labels, split_batch
from hopfield_replay.encoders.encoder import Encoder, LatentEncoder, ModuleEncoder, as_encoder, pixels, vectors_of

__all__ = [
    "Column",
    "Columns",
    "Encoder",
    "LatentEncoder",
    "ModuleEncoder",
    "as_encoder",
    "first_labels",
    "pixels",
    "split_batch",
    "vectors_of",
]
