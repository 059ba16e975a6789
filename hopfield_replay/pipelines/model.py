"""PipelineModel: a text-to-image pipeline as what is measured and trained, with what goes before and after it."""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.denoisers.diffusers import schedule_of
from hopfield_replay.denoisers.schedule import VarianceSchedule
from hopfield_replay.functional.denoiser import evaluating
from hopfield_replay.pipelines.convention import Convention, read_convention
from hopfield_replay.pipelines.denoiser import PipelineDenoiser
from hopfield_replay.pipelines.layout import Layout, read_layout
from hopfield_replay.pipelines.quiet import quiet_libraries
from hopfield_replay.pipelines.rehearsal import OWN_PARTS, CannotBeReadError, Rehearsal, rehearse
from hopfield_replay.pipelines.rows import Row, cut
from hopfield_replay.utilities.device import in_chunks_that_fit

_CLIP = 77  # tokens of the text encoders that max_sequence_length is not for
_CAPTIONS = 8  # encoded together
_IMAGES = 4
_CELLS = 16  # side of the latents of a first look: every network of the families that were tried takes them
_SAME = 1e-2  # of the largest number, in which the pipeline's way and this one may differ through rounding


class PipelineModel:
    """What a text-to-image pipeline of diffusers says of itself, by steps of its own call that are watched.

    Which arguments its network gets, how it is told the time, what becomes of its output, how latents are packed and
    scaled: nothing of it is written down here by family. What is found is compared with what the pipeline itself does,
    and refused where it differs.

    Args:
        pipeline: of diffusers, whose call takes ``prompt``. Its parts are used as they are.
        guidance: the pipeline's guidance_scale; None: the one of 1 and 0 that switches guidance off. 1 is also what
            networks with built-in guidance (FLUX.1 dev) are usually fine-tuned with.

    Attributes:
        pipeline: the pipeline.
        denoiser: of its network.
        component: name of the network in the pipeline.

    Raises:
        ValueError: a pipeline that works in another way; the message says which, and what to do.

    Example:
        >>> from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
        >>> unet = UNet2DModel(8, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
        ...     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        >>> PipelineModel(DDPMPipeline(unet, DDPMScheduler()))
        Traceback (most recent call last):
        hopfield_replay.pipelines.rehearsal.CannotBeReadError: DDPMPipeline takes no prompt...
    """

    def __init__(self, pipeline: Any, *, guidance: float | None = None) -> None:
        kind = type(pipeline).__name__
        if not takes_prompts(pipeline):
            raise CannotBeReadError(f"{kind} takes no prompts. {OWN_PARTS}")
        if getattr(pipeline, "scheduler", None) is None:
            raise CannotBeReadError(f"{kind} has no scheduler. {OWN_PARTS}")
        schedule, prediction = schedule_of(pipeline.scheduler)
        self.pipeline = pipeline
        self._warned = False
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._probe = (schedule.num_timesteps or 1000) // 2
        factor = getattr(pipeline, "vae_scale_factor", 8)
        size = (_CELLS * factor, _CELLS * factor)
        whole = isinstance(schedule, VarianceSchedule)
        with evaluating(*pipeline.components.values()):
            convention, seen, self._guidance = _read(pipeline, size, schedule.num_timesteps or 1000, whole, guidance)
        self.component = convention.component
        self.denoiser = PipelineDenoiser(seen.network, convention, schedule, prediction)
        rest = {k: v for k, v in seen.arguments.items() if k not in (convention.sample, convention.time)}
        assert seen.samples is not None
        assert seen.predicted is not None
        timestep = 0.25 * (schedule.num_timesteps or 1000)
        step = int(timestep) if isinstance(schedule, VarianceSchedule) else timestep
        with torch.no_grad():
            mine = self.denoiser.predict(seen.samples, step, cut(rest, set(convention.own), 2))
        largest = float(seen.predicted.float().abs().max())
        if not torch.allclose(mine.float(), seen.predicted.float(), rtol=0.0, atol=_SAME * largest + 1e-6):
            raise CannotBeReadError(
                f"{kind}: its network, called as it seemed to be called, predicts something else than in the "
                f"pipeline's own step. {OWN_PARTS}"
            )

    @property
    def network(self) -> Any:
        """The network."""
        return self.denoiser.model

    def conditions(self, captions: Sequence[str], size: tuple[int, int]) -> list[Row]:
        """What the network is given of each caption: text embeddings, masks, sizes, places, guidance.

        Args:
            captions: encoded by the pipeline itself; what is longer than any of its text encoders reads is cut by it,
                with one warning.
            size: height and width of the images, which some networks are told.

        Raises:
            ValueError: a size that the pipeline does not take.
            MemoryError: not even one caption fits on the device.
        """
        self._warn_of_long(captions)

        def encode(chunk: int) -> list[Row]:
            rows: list[Row] = []
            for start in range(0, len(captions), chunk):
                part = list(captions[start : start + chunk])
                with evaluating(*self.pipeline.components.values()):
                    seen = rehearse(self.pipeline, part, size, self._step, guidance=self._guidance, at_door=True)
                held = self.denoiser.convention
                rest = {k: v for k, v in seen.arguments.items() if k not in (held.sample, held.time)}
                rows += cut(rest, set(held.own), len(part))
            return rows

        return in_chunks_that_fit(encode, _CAPTIONS, "The text encoders do")[0]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Samples (n, *shape), float32 on the device of the images, of images (n, channels, height, width) in [-1, 1].

        They are the mean of the autoencoder's posterior, scaled and packed so that the pipeline would decode it: an
        image has one sample.

        Raises:
            ValueError: images that the autoencoder does not take, or whose latents are not finite.
            MemoryError: not even one image fits on the device.
        """
        vae = self._vae()
        wanted = getattr(vae.config, "in_channels", 3)
        images = images.expand(-1, wanted, -1, -1) if images.shape[1] == 1 else images
        layout = self.layout((images.shape[-2], images.shape[-1]))
        weight = next(vae.parameters())

        def encode(chunk: int) -> Tensor:
            parts = []
            with evaluating(vae):
                for part in images.split(chunk):
                    given = part.to(weight.device, weight.dtype)
                    output = vae.encode(given[:, :, None] if len(layout.latent) == 4 else given)  # (c, frames, h, w)
                    parts.append(_latents(output).to(images.device, torch.float32))
            return torch.cat(parts)

        latents = in_chunks_that_fit(encode, _IMAGES, "The autoencoder does")[0]
        if tuple(latents.shape[1:]) != layout.latent:
            raise ValueError(
                f"{type(self.pipeline).__name__} decodes latents of shape {layout.latent} into images of "
                f"{images.shape[-2]} x {images.shape[-1]} pixels, but its autoencoder makes latents of "
                f"{tuple(latents.shape[1:])} of them. Resize the images to a multiple of "
                f"{2 * getattr(self.pipeline, 'vae_scale_factor', 8)}."
            )
        if not bool(latents.isfinite().all()):
            raise ValueError(
                f"the autoencoder's latents hold NaN or infinity in {weight.dtype}. Some autoencoders (Stable "
                "Diffusion XL's among them) overflow in half precision: use vae.to(torch.float32) or bfloat16."
            )
        return layout.samples(latents)

    @torch.no_grad()
    def decode(self, samples: Tensor, size: tuple[int, int]) -> Tensor:
        """Images (n, channels, height, width), float32 on the CPU, of samples for images of this height and width."""
        vae, layout, parts = self._vae(), self.layout(size), []
        weight = next(vae.parameters())
        with evaluating(vae):
            for part in layout.latents(samples).split(_IMAGES):
                made: Tensor = vae.decode(part.to(weight.device, weight.dtype)).sample
                parts.append((made[:, :, 0] if made.ndim == 5 else made).float().cpu())
        return torch.cat(parts)

    def layout(self, size: tuple[int, int]) -> Layout:
        """How samples for images of this height and width lie in what the autoencoder decodes."""
        if size not in self._layouts:
            with evaluating(*self.pipeline.components.values()):
                self._layouts[size] = read_layout(
                    self.pipeline, self.denoiser.convention, size, self._step, self._guidance
                )
        return self._layouts[size]

    def _warn_of_long(self, captions: Sequence[str]) -> None:
        limits = self._limits()
        if self._warned or not limits:
            return
        with quiet_libraries():
            long = [
                caption
                for caption in dict.fromkeys(captions)
                if all(len(tokenizer(caption)["input_ids"]) > limit for tokenizer, limit in limits)
            ]
        if long:
            self._warned = True
            warnings.warn(
                f"{len(long)} captions are longer than the {max(limit for _, limit in limits)} tokens that the text "
                f"encoders of {type(self.pipeline).__name__} read, and are cut (first: {long[0][:60]!r}...).",
                stacklevel=3,
            )

    def _limits(self) -> list[tuple[Any, int]]:
        """The tokenizers, each with the number of tokens that the pipeline lets it make of a caption."""
        default = inspect.signature(self.pipeline.__call__).parameters.get("max_sequence_length")
        most = default.default if default is not None and isinstance(default.default, int) else None
        found = []
        for part in self.pipeline.components.values():
            limit = getattr(part, "model_max_length", None)
            if isinstance(limit, int) and callable(part):
                found.append((part, limit if most is None or limit <= _CLIP else min(limit, most)))
        return found

    @property
    def _step(self) -> float:
        return self._probe if isinstance(self.denoiser.schedule, VarianceSchedule) else float(self._probe)

    def _vae(self) -> Any:
        vae = getattr(self.pipeline, "vae", None)
        if vae is None:
            raise CannotBeReadError(f"{type(self.pipeline).__name__} has no autoencoder (vae). {OWN_PARTS}")
        return vae


def _read(
    pipeline: Any, size: tuple[int, int], timesteps: int, whole: bool, guidance: float | None
) -> tuple[Convention, Rehearsal, float]:
    """The convention, the step that it was read from, and the guidance scale."""
    if guidance is not None:
        return *read_convention(pipeline, size, timesteps, whole, guidance), guidance
    try:
        return *read_convention(pipeline, size, timesteps, whole, 1.0), 1.0
    except CannotBeReadError as error:
        try:
            return *read_convention(pipeline, size, timesteps, whole, 0.0), 0.0
        except CannotBeReadError:
            raise error from None


def takes_prompts(pipeline: Any) -> bool:
    """Whether a pipeline draws from texts.

    Args:
        pipeline: anything that can be called.

    Example:
        >>> takes_prompts(lambda prompt, steps=50: None), takes_prompts(lambda steps=50: None)
        (True, False)
    """
    return "prompt" in inspect.signature(pipeline).parameters


def _latents(output: Any) -> Tensor:
    """The latents of what an autoencoder returns: the most likely ones, where it returns a distribution."""
    if hasattr(output, "latent_dist"):
        latents: Tensor = output.latent_dist.mode()
        return latents
    found: Tensor = output.latents if hasattr(output, "latents") else output.latent
    return found


__all__ = ["PipelineModel", "takes_prompts"]
