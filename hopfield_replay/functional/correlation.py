"""Rank correlation of energies and forgetting, with its interval and controlled for a third quantity."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.utilities.checks import check_integer


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its bootstrap interval.

    Attributes:
        estimate: Spearman's rank correlation, in [-1, 1]; nan if a variable is constant.
        low: lower end of the percentile bootstrap interval.
        high: upper end.
        n: number of samples.
        confidence: coverage that the interval aims at.

    Example:
        >>> import torch
        >>> rank = spearman_interval(torch.arange(50.0), torch.arange(50.0) ** 3)
        >>> round(rank.estimate, 6), rank.n, rank.confidence
        (1.0, 50, 0.95)
    """

    estimate: float
    low: float
    high: float
    n: int
    confidence: float


def _variable(values: Tensor, name: str) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape (n,), got {type(values).__name__}.")
    if values.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {tuple(values.shape)}.")
    values = values.detach().to("cpu", torch.float64)
    if bool(values.isnan().any()):
        raise ValueError(f"{name} holds NaN in {int(values.isnan().sum())} of {len(values)} samples; leave them out.")
    return values


def _variables(x: Tensor, y: Tensor, control: Tensor | None) -> list[Tensor]:
    variables = [_variable(x, "x"), _variable(y, "y")]
    if control is not None:
        variables.append(_variable(control, "control"))
    if len({len(values) for values in variables}) > 1:
        raise ValueError(f"x, y and control must have one length, got {[len(values) for values in variables]}.")
    least = len(variables) + 1
    if len(variables[0]) < least:
        raise ValueError(f"a rank correlation of {len(variables)} variables needs {least} samples, got {len(x)}.")
    return variables


def ranks(values: Tensor) -> Tensor:
    """Ranks 1..n along the last dimension, float64; ties share their mean rank. Infinities rank as the extremes.

    Args:
        values: (..., n) numbers, no NaN.

    Returns:
        (..., n) float64.

    Example:
        >>> ranks(torch.tensor([3.0, 1.0, 3.0, float("inf")]))
        tensor([2.5000, 1.0000, 2.5000, 4.0000], dtype=torch.float64)
    """
    ordered = values.sort(-1).values
    values = values.contiguous()
    below, up_to = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return (below + up_to + 1).to(torch.float64) / 2


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    first, second = first - first.mean(-1, keepdim=True), second - second.mean(-1, keepdim=True)
    return (first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1)).sqrt()


def _statistic(variables: list[Tensor]) -> Tensor:
    """Spearman's correlation along the last dimension; partial if there is a third variable."""
    ranked = [ranks(values) for values in variables]
    together = _pearson(ranked[0], ranked[1])
    if len(ranked) == 2:
        return together
    first, second = _pearson(ranked[0], ranked[2]), _pearson(ranked[1], ranked[2])
    left = (1 - first**2) * (1 - second**2)
    # a variable that the control determines leaves nothing to correlate: nan, not a ratio of rounding errors
    return torch.where(left > 1e-12, (together - first * second) / left.clamp(min=1e-12).sqrt(), torch.nan)


def spearman(x: Tensor, y: Tensor, *, control: Tensor | None = None) -> float:
    r"""Spearman's rank correlation, or with ``control`` z the partial one.

    .. math:: r_{xy \cdot z} = (r_{xy} - r_{xz} r_{yz}) / \sqrt{(1 - r_{xz}^2)(1 - r_{yz}^2)}

    Args:
        x: (n,), e.g. energies before a task.
        y: (n,), e.g. forgetting.
        control: (n,), e.g. the logarithm of the distance to the k-th neighbour (:func:`knn_distance`): does the link
            hold among samples of equal local density? Only its order matters.

    Returns:
        A number in [-1, 1]; nan if a variable is constant.

    Raises:
        TypeError: not a tensor.
        ValueError: shapes or lengths that do not fit, NaN, too few samples.

    Example:
        >>> spearman(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 4.0, 9.0, 8.0]))
        0.8

    Source: Spearman (1904); Kendall (1942) for the partial form.
    """
    return float(_statistic(_variables(x, y, control)))


def spearman_interval(
    x: Tensor,
    y: Tensor,
    *,
    control: Tensor | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Correlation:
    """Spearman's rank correlation, or the partial one, with its percentile bootstrap interval over samples.

    The interval does not depend on the order of the samples.

    Args:
        x: (n,).
        y: (n,).
        control: (n,), as in :func:`spearman`; None for the plain correlation.
        confidence: coverage, in (0, 1).
        resamples: bootstrap resamples, >= 1.
        seed: of the resampling.

    Returns:
        The estimate with its interval, nan if a variable is constant.

    Raises:
        TypeError, ValueError: as :func:`spearman`; ``confidence`` or ``resamples`` out of range.

    Example:
        >>> x = torch.arange(50.0)
        >>> spearman_interval(x, x.exp()).low
        1.0

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    variables = _variables(x, y, control)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}.")
    check_integer(resamples, "resamples", 1)
    n = len(variables[0])
    order = torch.arange(n)
    for values in reversed(variables):  # samples in an order of their own: gathering over ranks must not matter
        order = order[values[order].argsort(stable=True)]
    variables = [values[order] for values in variables]
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, (1 << 20) // n)
    drawn = []
    for start in range(0, resamples, rows):
        index = torch.randint(n, (min(rows, resamples - start), n), generator=generator)
        drawn.append(_statistic([values[index] for values in variables]))
    resampled = torch.cat(drawn)
    resampled = resampled[~resampled.isnan()]  # a resample of one sample, repeated, has no correlation
    tail = (1 - confidence) / 2
    low, high = (
        resampled.quantile(torch.tensor([tail, 1 - tail]).to(resampled)).tolist() if len(resampled) else (math.nan,) * 2
    )
    return Correlation(float(_statistic(variables)), low, high, n, confidence)


__all__ = ["Correlation", "ranks", "spearman", "spearman_interval"]
