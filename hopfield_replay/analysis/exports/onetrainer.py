"""Nerogar/OneTrainer: concepts."""

import json
from collections.abc import Sequence

from hopfield_replay.analysis.exports.place import Kept, Place
from hopfield_replay.analysis.exports.settings import Settings

_TYPES = {"regularise": "PRIOR_PREDICTION", "train": "STANDARD", "validate": "VALIDATION"}


def write_onetrainer(place: Place, kept: Sequence[Kept], settings: Settings) -> None:
    """``concepts.json``: one concept for each number of repeats.

    Prior prediction keeps what the model predicts for these images: they need not be its own training images.
    """
    prompt = settings.needed_prompt(kept, "OneTrainer")
    source = {"prompt_source": "sample", "prompt_path": ""}
    if any(one.caption is None for one in kept):
        place.text("prompt.txt", f"{prompt}\n")
        source = {"prompt_source": "concept", "prompt_path": place.at("prompt.txt")}
    concepts = [
        {
            "__version": 2,
            "name": f"hopfield-replay {name}",
            "path": place.at(name),
            "enabled": True,
            "type": _TYPES[settings.use],
            "include_subdirectories": False,
            "balancing": float(count),
            "balancing_strategy": "REPEATS",
            "loss_weight": 1.0,
            "text": source,
        }
        for name, count in place.by_repeats(kept)
    ]
    place.text("concepts.json", json.dumps(concepts, indent=4, ensure_ascii=False) + "\n")
