"""A JSON list of paths, captions and weights, for scripts of one's own."""

import json
from collections.abc import Sequence

from hopfield_replay.analysis.exports.imagefolder import described
from hopfield_replay.analysis.exports.place import Kept, Place
from hopfield_replay.analysis.exports.settings import Settings


def write_json_list(place: Place, kept: Sequence[Kept], settings: Settings) -> None:
    """``replay.json``: a list of objects with ``path``, ``caption``, ``weight`` and ``repeats``, best first."""
    rows = [
        {
            "path": place.at(place.image(one, "images")),
            "caption": one.item.caption if one.item.caption is not None else settings.prompt,
            **described(one),
        }
        for one in kept
    ]
    place.text("replay.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
