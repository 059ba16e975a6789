"""Folders of images, with captions in metadata.jsonl or in text files beside them."""

import json
from collections.abc import Sequence
from pathlib import Path

from hopfield_replay.analysis.images.item import Item, utf8_name
from hopfield_replay.utilities.images import SUFFIXES


def read_folder(folder: Path) -> list[Item]:
    """The images below a folder, by their paths; hidden files are none of them.

    Raises:
        ValueError: no images, a damaged metadata.jsonl.
    """
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)}).")
    captions, labels = _metadata(folder) or (_beside(files), {})
    places = [utf8_name(str(file.parent.relative_to(folder))) for file in files]
    several = len(set(places)) > 1
    return [
        Item(
            utf8_name(str(file.relative_to(folder))),
            file,
            captions.get(file),
            labels.get(file, place if several else None),
            "" if place == "." else place,
        )
        for file, place in zip(files, places, strict=True)
    ]


def empty_subfolders(folder: Path) -> list[str]:
    """Names of the folders directly below that hold no image."""
    return [
        utf8_name(place.name)
        for place in sorted(folder.iterdir())
        if place.is_dir()
        and not place.name.startswith(".")
        and not any(file.suffix.lower() in SUFFIXES for file in place.rglob("*"))
    ]


def _beside(files: Sequence[Path]) -> dict[Path, str]:
    texts = {file: file.with_suffix(".txt") for file in files}
    return {file: _text(text).strip() for file, text in texts.items() if text.is_file()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # some editors put a byte-order mark first
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); save it in that encoding.") from None


def _metadata(folder: Path) -> tuple[dict[Path, str], dict[Path, str]] | None:
    """Captions and classes of the files that the metadata.jsonl of the folder, or of one below, names."""
    captions: dict[Path, str] = {}
    labels: dict[Path, str] = {}
    sources = sorted(folder.rglob("metadata.jsonl"))
    for source in sources:
        for number, line in enumerate(_text(source).split("\n"), start=1):  # splitlines would also part at U+2028
            if line.strip():
                name, caption, label = _row(line, f"{source}, line {number}")
                file = source.parent / name
                if not file.is_file():
                    raise ValueError(f"{source}, line {number}: there is no file {name!r} beside it.")
                captions[file] = caption
                if label is not None:
                    labels[file] = label
    return (captions, labels) if sources else None


def _row(line: str, where: str) -> tuple[str, str, str | None]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers without end
        raise ValueError(f"{where} is not JSON ({error}).") from None
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        raise ValueError(f'{where}: expected {{"file_name": ..., "text": ...}}.')
    if not isinstance(row.get("text"), str):
        raise ValueError(f'{where}: {row["file_name"]!r} has no caption "text" (it has {sorted(row)}).')
    label = row.get("label")
    return row["file_name"], row["text"], None if label is None else str(label)
