"""Both versions of a model that an audit compares."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hopfield_replay.checkpoints.file import what_went_wrong
from hopfield_replay.checkpoints.module import load_module
from hopfield_replay.checkpoints.pipeline import is_adapter, load_adapter, load_pipeline
from hopfield_replay.checkpoints.version import Version, check_same_architecture


def load_versions(
    before: str | Path,
    after: str | Path,
    model: str | Callable[..., nn.Module] | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    unsafe_pickle: bool = False,
    device: str | torch.device | None = None,
) -> tuple[Version, Version]:
    """Load two versions of one model, and make sure that they are.

    Args:
        before: the first version: a checkpoint file with ``model``, or a folder that a diffusers pipeline's
            save_pretrained wrote.
        after: the second one, likewise; or LoRA weights for the pipeline of ``before``.
        model: class of the module whose checkpoints these are, see :func:`load_module`; None: pipelines.
        model_args: arguments of the class.
        unsafe_pickle: see :func:`~hopfield_replay.checkpoints.file.read_checkpoint`.
        device: where the models are put; None: the GPU if there is one.

    Returns:
        Both versions, in eval mode.

    Raises:
        ValueError: something that is not there or cannot be loaded; two architectures.
        MemoryError: both versions do not fit on the device.
        ImportError: diffusers, peft or transformers is not installed and these versions need it.

    Example:
        >>> load_versions("missing.ckpt", "missing.ckpt", "torch.nn:Linear")
        Traceback (most recent call last):
        ValueError: missing.ckpt does not exist.
    """
    if model is None:
        if model_args:
            raise ValueError("model_args (--model-args) go with a model (--model); pipelines know their own.")
        first = load_pipeline(before)
        second = load_adapter(before, after) if is_adapter(after) else load_pipeline(after)
    else:
        options: dict[str, Any] = {"model_args": model_args, "unsafe_pickle": unsafe_pickle}
        first, second = load_module(before, model, **options), load_module(after, model, **options)
    check_same_architecture(first, second)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        for version in (first, second):
            version.module.to(torch.device(place)).eval()
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"Both versions together do not fit into the memory of {place}; use another device."
        ) from error
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ValueError(f"The models cannot be put on {place} ({what_went_wrong(error)}).") from error
    return first, second


__all__ = ["load_versions"]
