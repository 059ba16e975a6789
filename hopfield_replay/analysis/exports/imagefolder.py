"""Hugging Face's imagefolder: images and a metadata.jsonl."""

import json
from collections.abc import Sequence

from hopfield_replay.analysis.exports.place import Kept, Place
from hopfield_replay.analysis.exports.settings import Settings


def write_imagefolder(place: Place, kept: Sequence[Kept], settings: Settings) -> None:
    """``datasets.load_dataset("imagefolder", data_dir=...)`` reads it, and with it diffusers' text-to-image scripts."""
    lines = []
    for one in kept:
        text = one.item.caption if one.item.caption is not None else settings.prompt
        row = {"file_name": place.image(one), **({} if text is None else {"text": text}), **described(one)}
        lines.append(json.dumps(row, ensure_ascii=False))
    place.text("metadata.jsonl", "\n".join(lines) + "\n")


def described(one: Kept) -> dict[str, str | float | int]:
    """What is known of one image beside its caption."""
    label = {} if one.item.label is None else {"label": one.item.label}
    return {"rank": one.rank, "weight": one.weight, "repeats": one.repeats, **label, "source": one.item.name}
