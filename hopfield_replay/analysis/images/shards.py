"""Webdataset shards: tar files in which the files of one sample share the part of their name before the first dot."""

import json
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hopfield_replay.analysis.images.item import Item, utf8_name
from hopfield_replay.utilities.images import SUFFIXES

_CAPTIONS = ("txt", "caption", "text")
_LABELS = ("cls", "label")
_SMALL = 1 << 20  # bytes; texts that are read are no longer


def read_shards(shards: Sequence[Path]) -> list[Item]:
    """The images in some shards, which stay where they are until one is opened.

    Raises:
        ValueError: no images, a file that is no plain tar.
    """
    items = [item for shard in shards for item in _read(shard)]
    if not items:
        raise ValueError(f"{shards[0]} holds no images ({', '.join(SUFFIXES)}).")
    return items


def _read(shard: Path) -> list[Item]:
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isfile():
                    name = Path(member.name).name
                    key = str(Path(member.name).parent / name.split(".")[0])
                    samples.setdefault(key, {})[name.partition(".")[2].lower()] = member
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{shard} is not a plain .tar file ({error}); unpack what is compressed.") from error
    items = []
    for key, parts in samples.items():
        images = [part for part in parts if f".{part.rpartition('.')[2]}" in SUFFIXES]
        if len(images) > 1:
            raise ValueError(f"{shard}: sample {utf8_name(key)} has several images ({', '.join(images)}).")
        if images:
            name = f"{utf8_name(shard.name)}/{utf8_name(key)}.{images[0]}"
            caption, label = _caption(shard, parts), _small(shard, parts, _LABELS)
            items.append(Item(name, _slice(shard, parts[images[0]]), caption, label))
    return items


def _caption(shard: Path, parts: dict[str, tarfile.TarInfo]) -> str | None:
    if (caption := _small(shard, parts, _CAPTIONS)) is not None:
        return caption
    if (text := _small(shard, parts, ("json",))) is None:
        return None
    try:
        row = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{shard}: {utf8_name(parts['json'].name)} is not JSON ({error}).") from None
    named = [row[name] for name in ("caption", "text", "prompt") if isinstance(row, dict) and name in row]
    return str(named[0]) if named else None


def _small(shard: Path, parts: dict[str, tarfile.TarInfo], names: Sequence[str]) -> str | None:
    for name in names:
        if name in parts:
            if parts[name].size > _SMALL:
                raise ValueError(f"{shard}: {utf8_name(parts[name].name)} is too large for a text.")
            try:
                return _slice(shard, parts[name])().decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{shard}: {utf8_name(parts[name].name)} is not UTF-8 ({error}).") from None
    return None


def _slice(shard: Path, member: tarfile.TarInfo) -> Callable[[], bytes]:
    return partial(_bytes, shard, member.offset_data, member.size)


def _bytes(shard: Path, start: int, size: int) -> bytes:
    with open(shard, "rb") as file:
        file.seek(start)
        return file.read(size)
