"""Version: one version of a model, loaded and ready to be measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers import Denoiser
from hopfield_replay.pipelines import PipelineModel
from hopfield_replay.utilities.nested import identity


@dataclass(frozen=True, eq=False)
class Version:
    """One version of a model.

    Attributes:
        source: where it was loaded from.
        module: holds every weight that was loaded.
        denoiser: what is measured; None where only a training step could tell.
        weights: which weights these are, for people: "averaged weights", "adapter on its base", ...
        prepare: maps a batch of the data to a batch of the model: its own transfer hooks, or an autoencoder and a text
            encoder.
        decode: maps samples of the model to images.
        expects_images: whether the data must be images (n, channels, height, width).
        size: side of the images that it was made for; None: unknown, or none.
        model: of a pipeline that draws from texts; None of anything else.
        unsaved: tensors of a module that its checkpoint does not hold, by name.
        read: maps a batch of the model to what the denoiser denoises and its condition; None: by the rules for batches.
    """

    source: str
    module: nn.Module
    denoiser: Denoiser | None
    weights: str
    prepare: Callable[[Any], Any] = identity
    decode: Callable[[Tensor], Tensor] = identity
    expects_images: bool = False
    size: int | None = None
    model: PipelineModel | None = None
    unsaved: Mapping[str, Tensor] = field(default_factory=dict)
    read: Callable[[Any], tuple[Tensor, Any]] | None = None


def check_weights(module: nn.Module, source: str) -> None:
    """Refuse NaN and infinite weights: every error they give would be one, too."""
    bad = [name for name, weight in module.named_parameters() if not bool(torch.isfinite(weight).all())]
    if bad:
        raise ValueError(
            f"{source} holds NaN or infinite weights in {len(bad)} tensors (first: {bad[0]}). Its training diverged; "
            "audit an earlier checkpoint."
        )


def check_same_architecture(before: Version, after: Version) -> None:
    """Refuse two models that are no versions of one."""
    shapes = [
        {name: tuple(weight.shape) for name, weight in version.module.named_parameters()} for version in (before, after)
    ]
    differing = [name for name in sorted({*shapes[0], *shapes[1]}) if shapes[0].get(name) != shapes[1].get(name)]
    if differing:
        name = differing[0]
        held = [str(shape[name]) if name in shape else "nothing" for shape in shapes]
        raise ValueError(
            f"{before.source} and {after.source} are of different architectures: {len(differing)} weights differ in "
            f"shape, the first is {name}: {held[0]} before, {held[1]} after. An audit compares two versions of one "
            "model."
        )


__all__ = ["Version", "check_same_architecture", "check_weights"]
