"""A pipeline as a version of a model: what is measured of it, and how data gets there."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from hopfield_replay.checkpoints.version import Version, check_weights
from hopfield_replay.denoisers import find_denoiser
from hopfield_replay.encoders import LatentEncoder, split_batch
from hopfield_replay.pipelines import RECEIVED, PipelineModel, takes_prompts
from hopfield_replay.utilities.nested import identity, walk

_KNOWN = {"feature_extractor", "image_encoder", "safety_checker", "scheduler", "transformer", "unet", "vae"}


def version_of(pipeline: Any, source: str, weights: str) -> Version:
    """The version that a loaded pipeline is.

    Args:
        pipeline: of diffusers.
        source: where it was loaded from.
        weights: which these are, for people.

    Raises:
        ValueError: it works in an unknown way; weights that are not finite.
    """
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    holder = nn.Module()
    for name, part in parts.items():
        setattr(holder, name, part)
    check_weights(holder, source)
    if takes_prompts(pipeline):
        return _of_texts(pipeline, holder, source, weights)
    if beyond := sorted(set(parts) - _KNOWN):
        raise ValueError(
            f"{source} is a {type(pipeline).__name__} with {beyond}, whose inputs are unknown here. Encode the data "
            "yourself and call audit() with DiffusersDenoiser(network, scheduler)."
        )
    denoiser = find_denoiser(holder)
    if denoiser is None:
        raise ValueError(f"The pipeline in {source} holds no denoising network with a scheduler.")
    vae = parts.get("vae")
    return Version(
        source=source,
        module=holder,
        denoiser=denoiser,
        weights=weights,
        prepare=identity if vae is None else _encoding(vae),
        decode=identity if vae is None else LatentEncoder(vae).decode,
        expects_images=True,
        size=_side(pipeline),
    )


def _side(pipeline: Any) -> int | None:
    """The side of the images that a pipeline was made for."""
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    side = getattr(getattr(network, "config", None), "sample_size", None)
    factor = getattr(pipeline, "vae_scale_factor", 1) if getattr(pipeline, "vae", None) is not None else 1
    return side * factor if isinstance(side, int) else None


def _encoding(vae: Any) -> Callable[[Any], Any]:
    """Puts latents in the place of images."""

    def prepare(batch: Any) -> dict[str, Any]:
        samples, rest = split_batch(batch)
        wanted = vae.config.in_channels
        samples = samples.expand(-1, wanted, -1, -1) if samples.shape[1] == 1 else samples
        latents = LatentEncoder(vae).features(samples)
        columns = {"samples": latents, **(rest if isinstance(rest, Mapping) else {"rest": rest})}
        return {key: value for key, value in columns.items() if value is not None}

    return prepare


def _of_texts(pipeline: Any, holder: nn.Module, source: str, weights: str) -> Version:
    try:
        model = PipelineModel(pipeline)
    except ValueError as error:
        raise ValueError(f"{source} cannot be audited: {error}") from error
    sizes: dict[tuple[int, ...], tuple[int, int]] = {}

    def prepare(batch: Any) -> dict[str, Any]:
        images, rest = split_batch(batch)
        if images.ndim != 4:
            raise ValueError(
                f"{type(pipeline).__name__} needs images (n, channels, height, width), got {images.shape}."
            )
        size = (images.shape[-2], images.shape[-1])
        samples = model.encode(images)
        sizes[tuple(samples.shape[1:])] = size
        return {"samples": samples, RECEIVED: model.conditions(captions_in(rest, len(images)), size)}

    return Version(
        source=source,
        module=holder,
        denoiser=model.denoiser,
        weights=weights,
        prepare=prepare,
        decode=lambda samples: model.decode(samples, sizes[tuple(samples.shape[1:])]),
        expects_images=True,
        size=_side(pipeline),
        model=model,
    )


def captions_in(rest: Any, count: int) -> list[str]:
    """The captions in what a batch holds besides its images: its only list of texts; empty ones if there is none.

    Raises:
        ValueError: several lists of texts; not one for each image.

    Example:
        >>> captions_in({"labels": None, "text": ("a", "b")}, 2), captions_in(None, 1)
        (['a', 'b'], [''])
    """
    found = [(path, item) for path, item in walk(rest) if isinstance(item, list | tuple)]
    named = [(path, item) for path, item in found if "caption" in path or "prompt" in path or "text" in path]
    chosen = named if len(named) == 1 else found
    if len(chosen) > 1:
        raise ValueError(f"the captions could be any of {[path for path, _ in chosen]}; keep one of them in a batch.")
    texts = list(chosen[0][1]) if chosen else [""] * count
    if len(texts) != count:
        raise ValueError(f"there are {len(texts)} captions for {count} images.")
    return texts


__all__ = ["captions_in", "version_of"]
