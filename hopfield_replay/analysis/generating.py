"""Images that a model generates, to choose from where there is no data."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hopfield_replay.analysis.images import ImageCollection, Item
from hopfield_replay.tracker.pipeline_sampler import PipelineSampler
from hopfield_replay.utilities.progress import track

_BATCH = 8


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """The prompts in a text file, one a line; empty lines are left out.

    Raises:
        ValueError: no such file, not UTF-8, or no prompt in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be read as a file of prompts ({error}).") from error
    prompts = [line.strip() for line in text.split("\n") if line.strip()]
    if not prompts:
        raise ValueError(f"{os.fspath(path)} holds no prompt; write one a line.")
    return prompts


def generate_images(
    pipeline: Callable[..., Any],
    prompts: Sequence[str],
    count: int,
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    **settings: Any,
) -> ImageCollection:
    """Let a text-to-image pipeline draw images, its prompts in turns, into a folder.

    Args:
        pipeline: see :class:`~hopfield_replay.tracker.PipelineSampler`.
        prompts: at least one; they become the captions.
        count: how many images, >= 1.
        folder: exists; its files are PNG, as memory holds only a few images at a time.
        seed: of the draws; the random state is as it was afterwards.
        settings: for the pipeline.

    Raises:
        ValueError: no prompts; images that are not finite.
    """
    sampler = PipelineSampler(pipeline, prompts, **settings)
    items: list[Item] = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for start in track(range(0, count, _BATCH), "Generating images"):
            drawn = sampler(min(_BATCH, count - start))
            if not bool(drawn["image"].isfinite().all()):
                raise ValueError("The pipeline generated images with NaN or infinite values; check its precision.")
            for pixels, prompt in zip(drawn["image"], drawn["text"], strict=True):
                name = f"{len(items):06d}.png"
                file = Path(folder, name)
                scaled = ((pixels + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
                Item(name, scaled).open().save(file)
                items.append(Item(name, file, caption=prompt))
    return ImageCollection(items)
