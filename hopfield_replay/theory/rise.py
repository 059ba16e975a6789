"""How much the energy of old patterns rises when the task changes: high energy against low energy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hopfield_replay.figures import energy_rises
from hopfield_replay.functional import energy, fixed_points
from hopfield_replay.theory.changes import Replacement, Rotation, TaskChange, Translation
from hopfield_replay.theory.estimate import FLOAT_NOISE, Estimate
from hopfield_replay.theory.result import Result
from hopfield_replay.theory.settings import SAME_POINT, Setting, asked_for
from hopfield_replay.utilities.checks import Similarity
from hopfield_replay.utilities.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES = ("pattern", "fixed point")


@dataclass(frozen=True)
class Rise:
    """Mean energy rise of one group of samples under one change.

    Attributes:
        change: name of the task change.
        place: where the energy is measured: at each ``pattern`` or at the old ``fixed point`` reached from it.
        group: name of the group.
        energy: its mean energy before the change.
        rise: mean energy rise; independent draws are draws of the change.
        expected: closed-form expectation to leading order, or None where none is known.
    """

    change: str
    place: str
    group: str
    energy: float
    rise: Estimate
    expected: float | None


@dataclass(frozen=True)
class Order:
    """Whether the group of highest energy rises more than that of lowest energy, under one change.

    Attributes:
        change: name of the task change.
        place: ``pattern`` or ``fixed point``.
        high: name of the group of highest mean energy.
        low: name of the group of lowest mean energy.
        difference: rise of ``high`` minus rise of ``low``, paired by draw.
        share: share of single draws in which it is positive.
        merged: whether there is nothing to compare: the points of ``high`` are points of ``low``, too (merged fixed
            points), or the energies of the two are equal up to float noise.
    """

    change: str
    place: str
    high: str
    low: str
    difference: Estimate
    share: float
    merged: bool


@dataclass(frozen=True)
class RiseResult(Result):
    """Energy rises of a setting.

    Attributes:
        setting: its name.
        beta: inverse temperature.
        similarity: form of the energy.
        draws: number of draws of each change.
        rises: one for each change, place and group.
        orders: one for each change and place.
    """

    setting: str
    beta: float
    similarity: str
    draws: int
    rises: tuple[Rise, ...]
    orders: tuple[Order, ...]

    statement: ClassVar[str] = "Samples of higher energy are forgotten more: their energy rises more."

    def verdict(self) -> str:
        """Return in how many comparisons it holds on average, and in how many single draws."""
        orders = [o for o in self.orders if not o.merged]
        if not orders:
            return f"{self.setting}, beta {self.beta:g}, {self.similarity} form: all merged, nothing to compare."
        counts = Counter(o.difference.direction for o in orders)
        shares = [o.share for o in orders]
        merged = len(self.orders) - len(orders)
        return (
            f"{self.setting}, beta {self.beta:g}, {self.similarity} form: holds on average in {counts[1]} of "
            f"{len(self.orders)} comparisons, is reversed in {counts[-1]}, not resolved in {counts[0]} and merged in "
            f"{merged}; holds in {min(shares):.0%} to {max(shares):.0%} of single draws."
        )

    def table(self) -> str:
        """Return two Markdown tables: the rises, and who rises more."""
        rises = markdown_table(
            ["change", "at", "group", "energy", "rise", "expected", "rise / expected"],
            [[r.change, r.place, r.group, r.energy, r.rise, *_compared(r)] for r in self.rises],
        )
        orders = markdown_table(
            ["change", "at", "compared", "difference", "95 % interval", "single draws that agree"],
            [
                [o.change, o.place, f"{o.high} - {o.low}", o.difference, _interval(o.difference), f"{o.share:.0%}"]
                for o in self.orders
            ],
        )
        return f"{rises}\n\n{orders}"

    def findings(self) -> list[str]:
        """Return which way the order goes under each change, on average and in single draws."""
        sentences = []
        for o in self.orders:
            if o.merged:
                sentences.append(
                    f"{o.change}, at each {o.place}: {o.high} and {o.low} have merged or have equal energies."
                )
                continue
            verdict = {
                1: f"{o.high} (higher energy) rises more than {o.low} on average",
                0: f"no difference between {o.high} (higher energy) and {o.low} could be resolved",
                -1: f"REVERSED, {o.high} (higher energy) rises less than {o.low} on average",
            }[o.difference.direction]
            sentences.append(
                f"{o.change}, at each {o.place}: {verdict} (difference {o.difference}); {o.high} rises more in "
                f"{o.share:.0%} of single draws."
            )
        return sentences

    def figure(self) -> "Figure":
        """Return one panel of bars for each change, with 95 % intervals and the expectation as a dashed line."""
        keyed = {(r.change, r.group, r.place): r for r in self.rises}
        return energy_rises(
            {key: r.rise for key, r in keyed.items()},
            {key: r.expected for key, r in keyed.items() if r.expected is not None},
            f"{self.setting}, beta={self.beta}, {self.similarity} form, {self.draws} draws",
        )


def _compared(rise: Rise) -> list[object]:
    return ["", ""] if rise.expected is None else [rise.expected, rise.rise.mean / rise.expected]


def _interval(estimate: Estimate) -> str:
    low, high = estimate.interval()
    return f"[{low:.4g}, {high:.4g}]"


def measure_rise(
    setting: Setting,
    beta: float,
    changes: Sequence[TaskChange],
    *,
    draws: int = 2000,
    seed: int = 0,
    similarity: Similarity = "dot",
) -> RiseResult:
    """Measure the energy rise of every group at its patterns and at their old fixed points.

    Args:
        setting: patterns in at least two groups.
        beta: inverse temperature, > 0.
        changes: task changes; each starts from the same seed, so that rotations share their directions.
        draws: number of draws of each change, >= 2.
        seed: of the draws.
        similarity: form of the energy, ``"dot"`` or ``"distance"``. They differ when norms change (translation).

    Returns:
        The rises with standard errors, the closed-form expectations, and the comparison of highest with lowest energy.

    Raises:
        ValueError: fewer than two groups or draws.

    Example:
        >>> from hopfield_replay.theory import cluster_and_outlier
        >>> result = measure_rise(cluster_and_outlier(), 8.0, [Rotation(0.05)], draws=50)
        >>> [o.high for o in result.orders]
        ['outlier', 'outlier']

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975 (the claim); the expectation is the library's own derivation.
    """
    if len(setting.group_names) < 2:
        raise ValueError(f"{setting.name} has only the group {setting.group_names}; regroup it with by_energy.")
    if draws < 2 or not changes:
        raise ValueError(f"draws must be >= 2, got {draws}, and there must be a change, got {len(changes)}.")
    patterns = setting.patterns
    settled = fixed_points(patterns, patterns, beta, similarity=similarity, tol=1e-12, max_iter=10000)
    points = torch.cat([patterns, settled])
    before = energy(points, patterns, beta, similarity=similarity, normalize=False)
    rises, orders = [], []
    for change in changes:
        generator = torch.Generator().manual_seed(seed)
        after = change.energies_after(points, patterns, beta, draws, generator, similarity)
        expected = change.expected_rise(points, patterns, beta, similarity)
        for p, place in enumerate(PLACES):
            half = slice(p * len(patterns), (p + 1) * len(patterns))
            level = _group_means(before[half], setting).tolist()
            means = _group_means(after[:, half] - before[half], setting)
            theory: list[float] | None = None if expected is None else _group_means(expected[half], setting).tolist()
            for g, group in enumerate(setting.group_names):
                rises.append(
                    Rise(change.name, place, group, level[g], Estimate.of(means[:, g]), theory[g] if theory else None)
                )
            high, low = level.index(max(level)), level.index(min(level))
            difference = means[:, high] - means[:, low]
            names = setting.group_names[high], setting.group_names[low]
            share = (difference > 0).double().mean().item()
            merged = level[high] - level[low] < FLOAT_NOISE or _merged(points[half], setting, high, low)
            orders.append(Order(change.name, place, *names, Estimate.of(difference), share, merged))
    return RiseResult(setting.name, beta, similarity, draws, tuple(rises), tuple(orders))


def _merged(points: Tensor, setting: Setting, high: int, low: int) -> bool:
    apart = torch.cdist(points[setting.members(high)], points[setting.members(low)]).amin(1)
    return bool((apart < SAME_POINT).all())


def _group_means(values: Tensor, setting: Setting) -> Tensor:
    return torch.stack([values[..., setting.members(g)].mean(-1) for g in range(len(setting.group_names))], -1)


def reproduce_rise(
    n: int = 12,
    c: float = 0.35,
    d: int = 50,
    beta: float = 8.0,
    eps: tuple[float, ...] = (0.02, 0.05),
    variance: float = 0.5,
    replaced: float = 0.25,
    shift: float = 0.2,
    draws: int = 2000,
    seed: int = 0,
    similarity: Similarity = "dot",
    patterns: str | None = None,
) -> RiseResult:
    """Energy rise of an outlier against a cluster when the task rotates, is replaced in part, or shifts.

    Args:
        n: cluster size.
        c: correlation in the cluster, in [0, 1).
        d: dimension, > n.
        beta: inverse temperature, > 0.
        eps: angle scales of the rotations.
        variance: of the entries of the rotation's generator.
        replaced: share of the patterns that is replaced by random ones.
        shift: length of the translation.
        draws: number of draws of each change.
        seed: of the draws.
        similarity: form of the energy, ``"dot"`` (the paper's) or ``"distance"``; they differ for the translation.
        patterns: file of patterns (.safetensors, .npy, .csv) to use instead of the cluster and the outlier; without
            groups, its fifth of highest energy is compared with the rest.

    Returns:
        The result.

    Example:
        >>> result = reproduce_rise(draws=20)
        >>> print(result.findings()[0].split(" (")[0])
        rotation eps=0.02, at each pattern: outlier
    """
    setting = asked_for(n, c, d, beta, patterns)
    changes = [*(Rotation(e, variance) for e in eps), Replacement(replaced), Translation(shift)]
    return measure_rise(setting, beta, changes, draws=draws, seed=seed, similarity=similarity)


__all__ = ["Order", "Rise", "RiseResult", "measure_rise", "reproduce_rise"]
