"""Both versions of a model that an audit compares."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hopfield_replay.checkpoints.module import load_module
from hopfield_replay.checkpoints.pipeline import goes_onto, load_adapter, load_pipeline
from hopfield_replay.checkpoints.pipeline_version import captions_in
from hopfield_replay.checkpoints.single_file import parts_in
from hopfield_replay.checkpoints.unsaved import check_apart, check_unsaved, fixed
from hopfield_replay.checkpoints.version import Version, check_same_architecture
from hopfield_replay.encoders import split_batch
from hopfield_replay.pipelines.denoiser import RECEIVED, PipelineDenoiser
from hopfield_replay.utilities.device import check_device


def load_version(
    source: str | Path,
    model: str | Callable[..., nn.Module] | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    unsafe_pickle: bool = False,
    weights: str | None = None,
    stepwise: bool = False,
    device: str | torch.device | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    config: str | Path | None = None,
) -> Version:
    """Load one version of a model, for :func:`load_versions` with several second ones.

    Args:
        source: as ``before`` there.
        model: as there.
        model_args: as there.
        unsafe_pickle: as there.
        weights: as there.
        stepwise: as there.
        device: as there.
        variant: as there.
        dtype: as there.
        config: as there; a single file needs one.

    Raises:
        ValueError: something that is not there or cannot be loaded.
        MemoryError: it does not fit on the device.
        ImportError: diffusers, peft or transformers is not installed and this version needs it.

    Example:
        >>> load_version("missing.ckpt", "torch.nn:Linear")
        Traceback (most recent call last):
        ValueError: missing.ckpt does not exist.
    """
    place = _place(device)
    if model is None and model_args:
        raise ValueError("model_args (--model-args) go with a model (--model); pipelines know their own.")
    if model is None and weights is not None:
        raise ValueError("weights (--weights) go with a model (--model); of a pipeline's there is variant (--variant).")
    with _fitting(place):
        if model is None:
            version = load_pipeline(source, variant=variant, dtype=dtype, device=place, config=config)
        else:
            of_module: dict[str, Any] = {"unsafe_pickle": unsafe_pickle, "weights": weights, "stepwise": stepwise}
            version = load_module(source, model, model_args=model_args, **of_module)
        version.module.to(place).eval()
    return version


def load_versions(
    before: str | Path | Version,
    after: str | Path,
    model: str | Callable[..., nn.Module] | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    unsafe_pickle: bool = False,
    weights: str | None = None,
    stepwise: bool = False,
    device: str | torch.device | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    config: str | Path | None = None,
) -> tuple[Version, Version]:
    """Load two versions of one model, and make sure that they are.

    Parts of two pipelines that are equal (autoencoders, text encoders) are held once. Where the text encoders differ,
    each version's own encodes the captions for it.

    Args:
        before: the first version: a checkpoint file with ``model``, or a folder that a diffusers pipeline's
            save_pretrained wrote, or a single file of weights with ``config``; or what :func:`load_version` returned.
        after: the second one, likewise; or what was trained of the pipeline of ``before``: LoRA weights, or its network
            (see :func:`load_adapter`).
        model: class of the module whose checkpoints these are, see :func:`load_module`; None: pipelines.
        model_args: arguments of the class.
        unsafe_pickle: see :func:`~hopfield_replay.checkpoints.file.read_checkpoint`.
        weights: which of the checkpoints' weights, see :func:`load_module`.
        stepwise: see :func:`load_module`.
        device: where the models are put; None: the GPU if there is one.
        variant: of pipelines' weights, see :func:`load_pipeline`.
        dtype: of pipelines, likewise.
        config: of single files, likewise; None: the folder of ``before``.

    Returns:
        Both versions, in eval mode.

    Raises:
        ValueError: something that is not there or cannot be loaded; two architectures, or two autoencoders.
        MemoryError: both versions do not fit on the device.
        ImportError: diffusers, peft or transformers is not installed and these versions need it.

    Example:
        >>> load_versions("missing.ckpt", "missing.ckpt", "torch.nn:Linear")
        Traceback (most recent call last):
        ValueError: missing.ckpt does not exist.
    """
    place = _place(device)
    of_pipelines: dict[str, Any] = {"variant": variant, "dtype": dtype, "device": place, "config": config}
    of_modules: dict[str, Any] = {
        "model_args": model_args, "unsafe_pickle": unsafe_pickle, "weights": weights, "stepwise": stepwise
    }  # fmt: skip
    first = before
    if not isinstance(first, Version):
        first = load_version(first, model, **(of_modules | of_pipelines))
    held = {} if model is None else fixed(first.module)
    with _fitting(place):
        second = _second(first, after, of_pipelines) if model is None else load_module(after, model, **of_modules)
        check_same_architecture(first, second)
        if model is not None:
            names = f"{first.source} and {second.source}"
            check_apart(first.module, second.module, names, held)
            check_unsaved(first.unsaved, second.unsaved, names)
        second.module.to(place).eval()
    return (first, second) if first.model is None or second.model is None else _with_own_texts(first, second)


@contextmanager
def _fitting(place: torch.device | None) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"Both versions together do not fit into the memory of {place}; use another device, or pipelines in half "
            "precision (dtype, --dtype bfloat16)."
        ) from error


def _second(first: Version, after: str | Path, settings: dict[str, Any]) -> Version:
    """A second pipeline: a whole one, a single file of all its parts, or what was trained of the first one."""
    settings = {**settings, "like": first.model}
    if parts_in(after):
        folder = settings["config"] or (first.source if Path(first.source).is_dir() else None)
        return load_pipeline(after, **{**settings, "config": folder})
    return (
        load_adapter(first.source, after, **settings) if goes_onto(after) else load_pipeline(after, **settings)
    )  # fmt: skip


def _place(device: str | torch.device | None) -> torch.device | None:
    try:
        return check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except ValueError as error:
        raise ValueError(f"The models cannot be put on {device} ({error})") from error


def _with_own_texts(first: Version, second: Version) -> tuple[Version, Version]:
    """Two pipelines of which each gets the captions from its own text encoders, where these differ."""
    assert first.model is not None
    assert second.model is not None
    parts = [version.model.pipeline.components for version in (first, second)]  # type: ignore[union-attr]
    same = {
        name: parts[0][name] is parts[1].get(name) for name, part in parts[0].items() if isinstance(part, nn.Module)
    }
    if not same.get("vae", True):
        raise ValueError(
            f"{first.source} and {second.source} have different autoencoders: their latents cannot be compared. "
            "Put the autoencoder of the one into the other (pipeline.vae), if that is what it was trained with."
        )
    same.pop(first.model.component, None)
    if all(same.values()):
        return first, second
    own, encode, model, key = first.prepare, second.model.conditions, second.model.denoiser, f"{RECEIVED}_after"

    def prepare(batch: Any) -> Any:
        images, rest = split_batch(batch)
        ready = own(batch)
        return {**ready, key: encode(captions_in(rest, len(images)), (images.shape[-2], images.shape[-1]))}

    other = PipelineDenoiser(model.model, model.convention, model.schedule, model.prediction_type, received=key)
    return replace(first, prepare=prepare), replace(second, denoiser=other, prepare=prepare)


__all__ = ["load_version", "load_versions"]
