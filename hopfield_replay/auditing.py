"""Audit: what one checkpoint of a diffusion model lost against another, sample by sample."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers import Denoiser, find_denoiser
from hopfield_replay.encoders import first_labels, split_batch
from hopfield_replay.figures import error_change
from hopfield_replay.meter import ErrorMeter
from hopfield_replay.source import TaskSource
from hopfield_replay.table import by_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class AuditReport:
    """Paired-noise reconstruction errors of two checkpoints on the same samples.

    Attributes:
        errors_old: (n, timesteps) float64, mean squared error of the first checkpoint.
        errors_new: (n, timesteps) float64, of the second one, with the same noise.
        rises: (n,) float64, rise of the error from the first to the second, mean over the timesteps: the reconstruction
            forgetting of each sample.
        worst: positions of the samples, the most forgotten first.
        mean: mean of ``rises``.
        low: lower end of its 95 % bootstrap interval over samples.
        high: upper end.
        worse: share of the samples whose error rose.
        classes: for each label the number of samples, their mean rise and the share that rose; empty without labels.
        timesteps: where the errors were measured.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> schedule = torch.linspace(0.99, 0.01, 10)
        >>> one = CallableDenoiser(lambda x, t: torch.zeros_like(x), schedule, prediction_type="sample")
        >>> print(audit(one, one, torch.zeros(5, 1, 2, 2)).table().splitlines()[0])
        5 samples: reconstruction error 0 -> 0
    """

    errors_old: Tensor
    errors_new: Tensor
    rises: Tensor
    worst: Tensor
    mean: float
    low: float
    high: float
    worse: float
    classes: dict[int, dict[str, float]]
    timesteps: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report in plain Python, ready for JSON."""
        found = asdict(self)
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in found.items()}

    def table(self) -> str:
        """The report as text."""
        lines = [
            f"{len(self.rises)} samples: reconstruction error {float(self.errors_old.mean()):.4g} -> "
            f"{float(self.errors_new.mean()):.4g}",
            f"rise {self.mean:+.4g} [{self.low:+.4g}, {self.high:+.4g}] (95 %), {self.worse:.0%} got worse",
            f"most forgotten (positions): {self.worst[:10].tolist()}",
            f"{'timestep':>9}{'old':>11}{'new':>11}",
        ]
        means = zip(self.timesteps, self.errors_old.mean(0).tolist(), self.errors_new.mean(0).tolist(), strict=True)
        lines += [f"{step:>9}{old:>11.4g}{new:>11.4g}" for step, old, new in means]
        if self.classes:
            lines.append(f"{'class':>9}{'samples':>11}{'mean rise':>11}{'worse':>8}")
            rows = sorted(self.classes.items(), key=lambda item: -item[1]["mean_rise"])
            lines += [
                f"{label:>9}{int(row['samples']):>11}{row['mean_rise']:>+11.4g}{row['worse']:>8.0%}"
                for label, row in rows
            ]
        return "\n".join(lines)

    def figure(self) -> "Figure":
        """Left: the distribution of the rises; right: error of the second checkpoint against that of the first."""
        return error_change(self.errors_old.mean(1), self.errors_new.mean(1))


def audit(
    old: Denoiser | nn.Module,
    new: Denoiser | nn.Module,
    data: Tensor | Iterable[Any],
    *,
    labels: Tensor | None = None,
    timesteps: Sequence[int] | None = None,
    draws: int = 1,
    seed: int = 0,
) -> AuditReport:
    r"""Compare two checkpoints of a diffusion model on the same samples, with the same noise.

    The rise of a sample is :math:`\frac1T\sum_t |x_0 - \hat x_0^{new}(x_t)|^2/d - |x_0 - \hat x_0^{old}(x_t)|^2/d`
    with one x_t for both: their difference is the models' alone.

    Args:
        old: the first checkpoint: a Denoiser, or a module that holds one (see :func:`find_denoiser`).
        new: the second one, likewise.
        data: samples: a tensor (n, *shape), or batches (a DataLoader, a list); the conditions come from the batches.
        labels: (n,) integers, for the table by class; None: the integers (n,) in the batches, if any.
        timesteps: where errors are measured; None: 10, 20, 30, 40 and 50 % of the first checkpoint's range.
        draws: noise draws at each timestep, >= 1.
        seed: of the noise.

    Returns:
        An :class:`AuditReport`.

    Raises:
        ValueError: no denoiser in a module, or several; no samples; labels that do not fit.
        TypeError: neither a denoiser nor a module.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser, VarianceSchedule
        >>> schedule = VarianceSchedule(torch.linspace(0.99, 0.01, 10))
        >>> right = CallableDenoiser(lambda x, t: torch.zeros_like(x), schedule, prediction_type="sample")
        >>> wrong = CallableDenoiser(lambda x, t: torch.ones_like(x), schedule, prediction_type="sample")
        >>> report = audit(right, wrong, torch.zeros(5, 1, 2, 2))
        >>> report.mean, report.worse
        (1.0, 1.0)

    Source: paired noise as in the reconstruction forgetting of :class:`ForgettingTracker`.
    """
    first = ErrorMeter(_denoiser(old, "old"), timesteps, seed, _as_is, draws=draws)
    second = ErrorMeter(_denoiser(new, "new"), first.timesteps, seed, _as_is, draws=draws)
    befores, afters, found, start = [], [], [], 0
    for batch in [data] if isinstance(data, Tensor) else (batch for _, batch in TaskSource(data).batches()):
        count = len(split_batch(batch)[0])
        ids = torch.arange(start, start + count)
        befores.append(first.of_batch(batch, ids)[0])
        afters.append(second.of_batch(batch, ids)[0])
        found.append(first_labels(batch, count))
        start += count
    if not start:
        raise ValueError("data holds no samples to compare the checkpoints on.")
    if labels is None and all(label is not None for label in found):
        labels = torch.cat([label for label in found if label is not None])
    if labels is not None and labels.shape != (start,):
        raise ValueError(f"labels must have shape ({start},), got {tuple(labels.shape)}.")
    before, after = torch.cat(befores), torch.cat(afters)
    rises = (after - before).mean(1)
    generator = torch.Generator().manual_seed(seed)
    resampled = [rises[torch.randint(start, (start,), generator=generator)].mean() for _ in range(_RESAMPLES)]
    low, high = torch.stack(resampled).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return AuditReport(
        errors_old=before,
        errors_new=after,
        rises=rises,
        worst=rises.argsort(descending=True, stable=True),
        mean=float(rises.mean()),
        low=low,
        high=high,
        worse=float((rises > 0).double().mean()),
        classes={} if labels is None else by_label(rises, labels, rises > 0, "worse"),
        timesteps=tuple(first.timesteps),
    )


def _as_is(batch: Any) -> Any:
    return batch


def _denoiser(model: Denoiser | nn.Module, name: str) -> Denoiser:
    if isinstance(model, Denoiser):
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} must be a Denoiser or a torch module that holds one, got {type(model).__name__}.")
    found = find_denoiser(model)
    if found is None:
        raise ValueError(
            f"{name}: no denoiser was found on {type(model).__name__}. Wrap the model with "
            "hopfield_replay.denoisers.DiffusersDenoiser or CallableDenoiser."
        )
    return found
