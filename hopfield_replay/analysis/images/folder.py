"""Folders of images, with captions in metadata.jsonl or in text files beside them."""

import json
from collections.abc import Sequence
from pathlib import Path

from hopfield_replay.analysis.images.item import Item, utf8_name
from hopfield_replay.utilities.captions import read_captions
from hopfield_replay.utilities.files import files_below
from hopfield_replay.utilities.images import SUFFIXES


def read_folder(folder: Path) -> list[Item]:
    """The images below a folder, by their paths; hidden files, and what lies in hidden folders, are none of them.

    Folders that are linked to are entered, but not a second time below themselves.

    Raises:
        ValueError: no images, a damaged metadata.jsonl.
    """
    files = _images(folder)
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
        if place.is_dir() and not place.name.startswith(".") and not _images(place)
    ]


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in files_below(folder, hidden=False) if file.suffix.lower() in SUFFIXES)


def _beside(files: Sequence[Path]) -> dict[Path, str]:
    texts = {file: file.with_suffix(".txt") for file in files}
    return {file: _text(text) for file, text in texts.items() if text.is_file()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").strip()  # some editors put a byte-order mark first
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); save it in that encoding.") from None


def _metadata(folder: Path) -> tuple[dict[Path, str], dict[Path, str]] | None:
    """Captions and classes of the files that the metadata.jsonl of the folder, or of one below, names."""
    captions: dict[Path, str] = {}
    labels: dict[Path, str] = {}
    sources = sorted(file for file in files_below(folder, hidden=False) if file.name == "metadata.jsonl")
    for source in sources:
        lines = source.read_bytes().split(b"\n")
        for number, name, caption in read_captions(source):
            file = source.parent / name
            if not file.is_file():
                raise ValueError(f"{source}, line {number}: there is no file {name!r} beside it.")
            if captions.setdefault(file, caption) != caption:
                raise ValueError(f"{source}, line {number}: {name} has another caption above.")
            label = json.loads(lines[number - 1].removeprefix(b"\xef\xbb\xbf")).get("label")
            if label is not None:
                labels[file] = str(label)
    return (captions, labels) if sources else None
