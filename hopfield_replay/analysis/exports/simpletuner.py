"""SimpleTuner: entries for its data backend file."""

import json
from collections.abc import Sequence
from typing import Any

from hopfield_replay.analysis.exports.place import Kept, Place
from hopfield_replay.analysis.exports.settings import Settings


def write_simpletuner(place: Place, kept: Sequence[Kept], settings: Settings) -> None:
    """``multidatabackend.json``: one entry for each number of repeats, which counts from 0 there.

    The entries join those of the user's own images and text embeds.
    """
    prompt = settings.needed_prompt(kept, "SimpleTuner")
    captioned = all(one.caption is not None for one in kept)
    caption: dict[str, Any] = {"caption_strategy": "textfile"}
    if not captioned:
        caption = {"caption_strategy": "instanceprompt", "instance_prompt": prompt}
    use: dict[str, Any] = {"is_regularisation_data": True} if settings.use == "regularise" else {}
    backends = [
        {
            "id": f"hopfield-replay-{name}",
            "type": "local",
            "dataset_type": "eval" if settings.use == "validate" else "image",
            "instance_data_dir": place.at(name),
            "metadata_backend": "discovery",
            **caption,
            "repeats": count - 1,  # 0: each image once
            **use,
        }
        for name, count in place.by_repeats(kept)
    ]
    place.text("multidatabackend.json", json.dumps(backends, indent=2, ensure_ascii=False) + "\n")
