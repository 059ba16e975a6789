"""Layout: how a pipeline's samples lie in what its autoencoder decodes, read off one step of its call."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.pipelines.convention import Convention
from hopfield_replay.pipelines.rehearsal import OWN_PARTS, CannotBeReadError, rehearse

_BASE = 64  # digits of the numbers of places: small enough that scaling does not blur them


@dataclass(frozen=True, eq=False)
class Layout:
    r"""Each number of what an autoencoder decodes is one of the sample's, scaled: z_j = scale_j s_{place_j} + shift_j.

    Packing into patches, scaling, shift, statistics of latents or of a batch norm are all of this form.

    Attributes:
        place: (m,) int64, of each number of the latents in the flattened sample.
        scale: (m,)
        shift: (m,)
        latent: shape of one image's latents.
        sample: shape of one sample.

    Example:
        >>> layout = Layout(torch.tensor([1, 0]), torch.tensor([2.0, 2.0]), torch.tensor([0.0, 1.0]), (2, 1, 1), (1, 2))
        >>> latents = layout.latents(torch.tensor([[[3.0, 4.0]]]))
        >>> latents.flatten().tolist(), layout.samples(latents)
        ([8.0, 7.0], tensor([[[3., 4.]]]))
    """

    place: Tensor
    scale: Tensor
    shift: Tensor
    latent: tuple[int, ...]
    sample: tuple[int, ...]

    def latents(self, samples: Tensor) -> Tensor:
        """What the autoencoder decodes (n, *latent), from samples (n, *sample)."""
        flat = samples.flatten(1)
        place, scale, shift = (part.to(flat.device) for part in (self.place, self.scale, self.shift))
        latents: Tensor = (flat[:, place] * scale + shift).unflatten(1, self.latent)
        return latents

    def samples(self, latents: Tensor) -> Tensor:
        """The samples (n, *sample) that would be decoded from latents (n, *latent)."""
        flat = latents.flatten(1)
        place, scale, shift = (part.to(flat.device) for part in (self.place, self.scale, self.shift))
        made = torch.empty_like(flat)
        made[:, place] = (flat - shift) / scale
        samples: Tensor = made.unflatten(1, self.sample)
        return samples


def read_layout(
    pipeline: Any, convention: Convention, size: tuple[int, int], timestep: float, guidance: float
) -> Layout:
    """Let the pipeline decode samples whose numbers say where they were.

    Args:
        pipeline: see :func:`rehearse`.
        convention: of its network, which is not asked.
        size: height and width of the images.
        timestep: any.
        guidance: the pipeline's guidance_scale.

    Raises:
        CannotBeReadError: what is decoded is no rearranged and scaled sample.
    """
    kind = type(pipeline).__name__
    seen = rehearse(
        pipeline, [""], size, timestep, guidance=guidance, answer=convention.answer
    )  # only to learn the size of a sample
    assert seen.samples is not None
    shape = tuple(seen.samples.shape[1:])
    count = math.prod(shape)
    digits = max(1, math.ceil(math.log(count, _BASE)))
    index = torch.arange(count)
    draws = torch.randn(count, generator=torch.Generator().manual_seed(2))
    rows = [torch.zeros(count), torch.ones(count), draws]
    rows += [(index // _BASE**digit % _BASE) / _BASE for digit in range(digits)]
    marked = torch.stack([row.to(torch.float32) for row in rows]).unflatten(1, shape)

    def stepped(samples: Tensor) -> Tensor:
        moved: Tensor = marked.to(samples.device, samples.dtype)
        return moved

    seen = rehearse(
        pipeline, [""] * len(rows), size, timestep, guidance=guidance, answer=convention.answer, stepped=stepped
    )
    refusal = CannotBeReadError(
        f"{kind} decodes something else than its rearranged and scaled samples at {size[0]} x {size[1]} pixels. "
        f"{OWN_PARTS}"
    )
    if seen.decoded is None or len(seen.decoded) != len(rows) or seen.decoded[0].numel() != count:
        raise refusal
    found = seen.decoded.detach().to("cpu", torch.float64)
    flat = found.flatten(1)
    shift, scale = flat[0], flat[1] - flat[0]
    if not bool((scale != 0).all()):
        raise refusal
    values = (flat[3:] - shift) / scale * _BASE
    whole = values.round()
    place = sum(whole[digit].to(torch.int64) * _BASE**digit for digit in range(digits))
    assert isinstance(place, Tensor)
    if float((values - whole).abs().max()) > 0.25 or not torch.equal(place.sort().values, index):
        raise refusal
    layout = Layout(place, scale.float(), shift.float(), tuple(found.shape[1:]), shape)
    decoded = layout.latents(marked[2:3]).double()
    if not torch.allclose(decoded, found[2:3], rtol=1e-2, atol=1e-2 * float(found[2].abs().max())):
        raise refusal
    return layout


__all__ = ["Layout", "read_layout"]
