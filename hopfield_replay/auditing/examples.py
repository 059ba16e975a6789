"""The most and the least forgotten samples, reconstructed by both versions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.auditing.report import Examples
from hopfield_replay.auditing.sources import Sources
from hopfield_replay.encoders import split_batch
from hopfield_replay.functional._paired import paired_noise
from hopfield_replay.functional.denoiser import evaluating
from hopfield_replay.meter import ErrorMeter, in_chunks_that_fit
from hopfield_replay.nested import take


@torch.no_grad()
def reconstructed_examples(
    first: ErrorMeter,
    second: ErrorMeter,
    sources: Sources,
    worst: Tensor,
    count: int,
    prepare: Callable[[Any], Any],
    decode: Callable[[Tensor], Tensor],
) -> Examples:
    """The samples at both ends of the order, reconstructed from the middle one of the timesteps."""
    step = first.timesteps[len(first.timesteps) // 2]
    count = min(count, max(1, len(worst) // 2))
    best = worst.flip(0)[: min(count, len(worst) - count)]
    chosen = torch.cat([worst[:count], best])
    made: list[list[Tensor]] = [[], [], []]
    order = []
    for mine, batch in sources.fetch(chosen):
        order.append(mine)
        clean, condition = split_batch(prepare(batch))
        clean = clean.to(torch.promote_types(clean.dtype, torch.float32))
        found = [_reconstruct(meter, clean, condition, step, chosen[mine].tolist()) for meter in (first, second)]
        for parts, samples in zip(made, (clean, *found), strict=True):
            parts.append(decode(samples).cpu())
    back = torch.cat(order).argsort()
    shown = [torch.cat(parts)[back] for parts in made]
    return Examples(tuple(worst[:count].tolist()), tuple(best.tolist()), step, *shown)


def _reconstruct(meter: ErrorMeter, clean: Tensor, condition: Any, step: float, ids: list[int]) -> Tensor:
    denoiser = meter.denoiser
    noisy = denoiser.noise(clean, step, paired_noise(clean, ids, step, meter.noise_seed))

    def measure(chunk_size: int) -> Tensor:
        found = []
        for part in torch.arange(len(noisy)).split(chunk_size):
            given = None if condition is None else take(condition, part)
            found.append(denoiser.predict_clean(noisy[part], step, given).float().to(clean.device))
        return torch.cat(found)

    with evaluating(denoiser):
        return in_chunks_that_fit(measure, meter.chunk_size)[0]


__all__ = ["reconstructed_examples"]
