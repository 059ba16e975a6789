"""Where images lie, and who reads them there."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hopfield_replay.analysis.images.collection import ImageCollection
from hopfield_replay.analysis.images.folder import read_folder
from hopfield_replay.analysis.images.hugging_face import is_saved_dataset, read_parquet, read_saved_dataset
from hopfield_replay.analysis.images.item import Item
from hopfield_replay.analysis.images.shards import read_shards
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.images import MAX_PIXELS


def read_collection(source: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> ImageCollection:
    """Read which images there are, with captions and classes; none is decoded yet. Nothing in a file is run.

    Args:
        source: a folder of images (its subfolders are the classes; captions come from a ``metadata.jsonl`` with lines
            ``{"file_name": ..., "text": ...}`` or from text files of the same names); a folder that
            ``datasets.Dataset.save_to_disk`` wrote; a ``.parquet`` file or a folder of them with a column of encoded
            images; a webdataset ``.tar`` or a folder of them.
        max_pixels: a larger image is refused before it is decoded.

    Raises:
        ValueError: nothing there, no images, captions for some of them only, files that cannot be read.
        ImportError: what reads them is not installed.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (4, 4)).save(folder + "/black.png")
        ...     _ = Path(folder, "black.txt").write_text("a black square")
        ...     found = read_collection(folder)
        >>> found[0].name, found[0].caption
        ('black.png', 'a black square')
    """
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{os.fspath(source)!r} does not exist.")
    items = [replace(item, max_pixels=check_integer(max_pixels, "max_pixels", 1)) for item in _read(path)]
    check_captions(items, path)
    return ImageCollection(items)


def check_captions(items: Sequence[Item], source: Path) -> None:
    """Refuse captions for some of the images only.

    Raises:
        ValueError: which have none.
    """
    bare = [item.name for item in items if item.caption is None]
    if bare and len(bare) < len(items):
        raise ValueError(
            f"{len(bare)} of {len(items)} images in {source} have no caption: {', '.join(bare[:5])}. Give every image "
            "one (it may be empty), or none."
        )


def _read(path: Path) -> list[Item]:
    if path.is_file():
        if path.suffix == ".tar":
            return read_shards([path])
        if path.suffix == ".parquet":
            return read_parquet([path])
        raise ValueError(f"{path} is neither a folder of images nor a .parquet or .tar file of them.")
    if is_saved_dataset(path):
        return read_saved_dataset(path)
    for suffix, read in ((".tar", read_shards), (".parquet", read_parquet)):
        if files := sorted(path.glob(f"*{suffix}")) or sorted(path.glob(f"data/*{suffix}")):
            return read(files)
    return read_folder(path)
