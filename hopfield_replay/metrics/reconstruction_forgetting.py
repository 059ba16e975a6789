"""Reconstruction forgetting as a torchmetrics class."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hopfield_replay.functional._diffusion_arguments import check_ids
from hopfield_replay.functional.denoiser import Denoiser
from hopfield_replay.functional.diffusion import reconstruction_error
from hopfield_replay.metrics._rows import RowMetric

_PROJECTIONS = 16
_OTHER = 0.3  # of its norm a sample may differ, as latents do that are drawn again


class ReconstructionForgetting(RowMetric):
    """Rise of a diffusion model's reconstruction error of given samples, with paired noise; positive: forgotten.

    Call :meth:`remember` with the samples before a task, and :meth:`update` with the same samples, under the same ids,
    after it: in any order and batches, but under DDP each on the rank that remembered it. What is remembered outlives
    :meth:`reset`, and is no part of the state.

    Args:
        timesteps: T timesteps of the denoiser.
        noise_seed: whole number.
        reduction: ``"mean"`` for one number, ``"timestep"`` for one of each timestep (T,), ``"none"`` for all (n, T),
            in the order of the ranks.
        **settings: settings of torchmetrics.Metric.

    Raises:
        ValueError: an unknown reduction; on update: ids that were not remembered, or under which another sample was.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> levels = torch.linspace(0.9, 0.1, 10)
        >>> metric, x = ReconstructionForgetting([2, 5]), torch.ones(3, 4)
        >>> metric.remember(CallableDenoiser(lambda x, t: torch.ones_like(x), levels, prediction_type="sample"), x)
        >>> metric.update(CallableDenoiser(lambda x, t: torch.zeros_like(x), levels, prediction_type="sample"), x)
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = False

    def __init__(
        self,
        timesteps: Sequence[float],
        *,
        noise_seed: int = 0,
        reduction: Literal["mean", "timestep", "none"] = "mean",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if reduction not in ("mean", "timestep", "none"):
            raise ValueError(f"reduction must be 'mean', 'timestep' or 'none', got {reduction!r}.")
        self.timesteps = list(timesteps)
        self.noise_seed = noise_seed
        self.reduction = reduction
        self._before: dict[int, Tensor] = {}
        self._sketches: dict[int, Tensor] = {}  # by which a remembered sample is recognised
        self.add_rows("rises", torch.float64)

    def remember(
        self, denoiser: Denoiser, x: Tensor, *, ids: Tensor | Sequence[int] | None = None, condition: Any = None
    ) -> None:
        """Measure samples (n, *shape) before a task; what was remembered of the same ids is replaced.

        Args:
            denoiser: the model before the task.
            x: the samples.
            ids: (n,) whole numbers that name the samples; 0..n-1 if None, which is for a single batch.
            condition: None, or any nesting of tensors whose first dimension is n.
        """
        errors = reconstruction_error(denoiser, x, self.timesteps, self.noise_seed, ids=ids, condition=condition)
        named = check_ids(ids, len(x))
        self._before.update(zip(named, errors.cpu(), strict=True))
        self._sketches.update(zip(named, _sketch(x), strict=True))

    def update(
        self, denoiser: Denoiser, x: Tensor, *, ids: Tensor | Sequence[int] | None = None, condition: Any = None
    ) -> None:
        """Measure samples (n, *shape) after a task; arguments as for :meth:`remember`."""
        named = check_ids(ids, len(x))
        unknown = [sample for sample in named if sample not in self._before]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(named)} samples were not remembered before the task (first ids: "
                f"{unknown[:5]}). Call remember(denoiser, x, ids=...) with the same samples and ids first."
            )
        sketches = _sketch(x)
        other = [sample for sample, sketch in zip(named, sketches, strict=True) if self._is_other(sample, sketch)]
        if other:
            raise ValueError(
                f"{len(other)} of {len(named)} samples are not those that were remembered under their ids (first ids: "
                f"{other[:5]}). Pass ids=, a number for each sample in all batches, to remember() and update()."
            )
        after = reconstruction_error(denoiser, x, self.timesteps, self.noise_seed, ids=named, condition=condition)
        if named:
            self.append("rises", after.cpu() - torch.stack([self._before[sample] for sample in named]))

    def _is_other(self, sample: int, sketch: Tensor) -> bool:
        before = self._sketches[sample]
        return sketch.shape != before.shape or bool((sketch - before)[1:].norm() > _OTHER * before[0])

    def compute(self) -> Tensor:
        """The rises, reduced, float64, in squared units of the samples; nan without samples."""
        rises = self.rows("rises").view(-1, len(self.timesteps))
        if self.reduction == "none":
            return rises
        return rises.mean(0) if self.reduction == "timestep" else rises.mean()


def _sketch(x: Tensor) -> Tensor:
    """Norm of each sample (n, *shape) and some random projections, whose distances are near those of the samples."""
    flat = x.detach().cpu().to(torch.float32).reshape(len(x), math.prod(x.shape[1:]))
    directions = torch.randn(flat.shape[1], _PROJECTIONS, generator=torch.Generator().manual_seed(0))
    return torch.cat([flat.norm(dim=1, keepdim=True), flat @ directions / _PROJECTIONS**0.5], dim=1)


__all__ = ["ReconstructionForgetting"]
