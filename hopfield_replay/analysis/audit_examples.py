"""The most and the least forgotten samples, reconstructed by both versions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.analysis.audit_findings import Examples
from hopfield_replay.analysis.audit_sources import Sources
from hopfield_replay.tracker.meter import ErrorMeter


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
        ready = prepare(batch)
        clean = first.samples(ready)
        clean = clean.to(torch.promote_types(clean.dtype, torch.float32))
        denoised = [meter.reconstruct(ready, chosen[mine], step)[1] for meter in (first, second)]
        for parts, samples in zip(made, (clean, *denoised), strict=True):
            parts.append(decode(samples).cpu())
    back = torch.cat(order).argsort()
    shown = [torch.cat(parts)[back] for parts in made]
    return Examples(tuple(worst[:count].tolist()), tuple(best.tolist()), step, *shown)


__all__ = ["reconstructed_examples"]
