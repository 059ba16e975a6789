"""Hugging Face data sets on disk: what save_to_disk wrote, and parquet files."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hopfield_replay.analysis.images.item import Item

_CAPTIONS = ("text", "caption", "prompt")
_LABELS = ("label", "labels", "class")


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def read_saved_dataset(folder: Path) -> list[Item]:
    """The images of a data set that ``datasets.Dataset.save_to_disk`` wrote.

    Raises:
        ValueError: a folder of several splits, no column of images.
        ImportError: datasets is not installed.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = [place.name for place in sorted(folder.iterdir()) if (place / "state.json").is_file()]
        raise ValueError(f"{folder} holds the splits {', '.join(splits)}; give the folder of one of them.")
    try:
        import datasets
    except ImportError as error:
        raise ImportError('These data sets need datasets: pip install "hopfield-replay[datasets]".') from error
    try:
        table = datasets.load_from_disk(str(folder)).data
    except Exception as error:  # a dozen kinds, of damaged files
        raise ValueError(f"{folder} is not a data set that can be read ({error}).") from error
    return _items(table, folder)


def read_parquet(files: Sequence[Path]) -> list[Item]:
    """The images in parquet files of one schema.

    Raises:
        ValueError: a file that cannot be read, no column of images.
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet files need pyarrow: pip install "hopfield-replay[datasets]".') from error
    items: list[Item] = []
    for file in files:
        try:
            table = pyarrow.parquet.read_table(file, memory_map=True)
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{file} is not a parquet file that can be read ({error}).") from error
        items += _items(table, file)
    return items


def _items(table: Any, source: Path) -> list[Item]:
    schema = table.schema
    images = [field.name for field in schema if _is_image(field.type)]
    if len(images) != 1:
        raise ValueError(
            f"{source} has {len(images) or 'no'} columns of encoded images {images or ''}; one is needed. Its columns: "
            f"{', '.join(schema.names)}."
        )
    captions = _texts(table, next((name for name in _CAPTIONS if name in schema.names), None))
    labels = _texts(table, next((name for name in _LABELS if name in schema.names), None))
    names = _class_names(schema.metadata)
    items = []
    for row in range(len(table)):
        label = labels[row] if labels else None
        if names and label is not None and label.isdigit() and int(label) < len(names):
            label = names[int(label)]
        read: Callable[[], bytes] = partial(_bytes, table.column(images[0]), row, source)
        items.append(Item(f"{source.name}/{row}", read, captions[row] if captions else None, label))
    return items


def _is_image(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _texts(table: Any, column: str | None) -> list[str | None]:
    if column is None:
        return []
    return [None if value is None else str(value) for value in table.column(column).to_pylist()]


def _bytes(column: Any, row: int, source: Path) -> bytes:
    value = column[row].as_py()
    if isinstance(value, Mapping):
        if value["bytes"] is None and value["path"]:  # not embedded: a file beside the data set
            return _beside(source.parent, value["path"]).read_bytes()
        value = value["bytes"]
    if value is None:
        raise ValueError("the row holds no image")
    return bytes(value)


def _beside(folder: Path, name: str) -> Path:
    """A file below a folder; a data set of unknown origin must not name any other."""
    file = Path(folder, name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ValueError(f"it names a file outside of its folder, {name!r}")
    return file


def _class_names(metadata: Any) -> list[str]:
    """Names of the classes in the column of labels, as the data set's features say."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return next((list(features[name]["names"]) for name in _LABELS if "names" in features.get(name, {})), [])
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
