"""Where "samples of high energy rise more" holds, and where it does not: a sweep that looks for counter-examples."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hopfield_replay.figures import where_the_rule_holds
from hopfield_replay.functional import energy, expected_rise, fixed_points
from hopfield_replay.memory.memory import HopfieldMemory
from hopfield_replay.memory.temperature import Diagnosis
from hopfield_replay.theory.changes import Rotation
from hopfield_replay.theory.estimate import Estimate
from hopfield_replay.theory.result import Result
from hopfield_replay.theory.rise import PLACES, Order, measure_rise
from hopfield_replay.theory.settings import SAME_POINT, cluster_and_outlier, mixed_density
from hopfield_replay.utilities.progress import track
from hopfield_replay.utilities.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERDICTS = ("holds", "equal", "merged", "reversed")
_WORDS = {"equal": "the rises differ by at most 1 %", "merged": "the points merge", "reversed": "it is reversed"}
_EQUAL = 0.01  # relative difference of the expected rises below which they are called equal
_NOISE = {"pattern": 1e-12, "fixed point": 1e-9}  # differences below are ties: float noise, iteration tolerance


@dataclass(frozen=True)
class Cell:
    """One cluster-and-outlier setting of the sweep, judged by the closed-form expected rise A(x).

    Attributes:
        n: cluster size.
        c: correlation in the cluster.
        beta: inverse temperature.
        place: where energy and rise are taken, ``pattern`` or ``fixed point``.
        energy_gap: energy of the outlier minus that of the cluster.
        rise_outlier: A at the outlier, the expected rise over eps^2 times the variance of the generator.
        rise_cluster: A at a cluster member.
        verdict: ``holds``: the higher energy rises more, by over 1 %; ``equal``: the rises differ by at most 1 %;
            ``merged``: outlier and cluster share one fixed point; ``reversed``: the higher energy rises less.
        merged_fraction: share of merged fixed points by :meth:`HopfieldMemory.diagnose`.
        warned: whether that diagnosis warns of anything.
    """

    n: int
    c: float
    beta: float
    place: str
    energy_gap: float
    rise_outlier: float
    rise_cluster: float
    verdict: str
    merged_fraction: float
    warned: bool


@dataclass(frozen=True)
class MixedDensity:
    """Rank correlation of energy and expected rise over patterns of mixed density, at one beta.

    Attributes:
        beta: inverse temperature.
        place: ``pattern`` or ``fixed point``.
        correlation: Spearman's rho over the patterns; independent draws are settings with other seeds.
        n_eff: median leave-one-out number of effective patterns, mean over the settings.
        merged_fraction: share of merged fixed points, mean over the settings.
        warned: share of the settings of which the diagnosis warns.
    """

    beta: float
    place: str
    correlation: Estimate
    n_eff: float
    merged_fraction: float
    warned: float


@dataclass(frozen=True)
class FalsifyResult(Result):
    """The sweep.

    Attributes:
        d: dimension.
        cells: one for each (n, c, beta) and place.
        mixed: one for each beta of the mixed-density settings and place.
        counterexamples: the strongest reversals at fixed points, measured again with random rotations.
    """

    d: int
    cells: tuple[Cell, ...]
    mixed: tuple[MixedDensity, ...]
    counterexamples: tuple[Order, ...]

    statement: ClassVar[str] = "The rule holds whatever the cluster's size and correlation and the temperature."

    def verdict(self) -> str:
        """Return the share of settings in which it holds, and the ranges of beta in which it does not."""
        parts = []
        for place in PLACES:
            cells = [c for c in self.cells if c.place == place]
            counts = Counter(c.verdict for c in cells)
            parts.append(f"at each {place} it holds in {counts['holds']} of {len(cells)} settings")
            for verdict in VERDICTS[1:]:
                betas = [c.beta for c in cells if c.verdict == verdict]
                if betas:
                    span = f"beta {min(betas):g}" + (f" to {max(betas):g}" if max(betas) > min(betas) else "")
                    parts.append(f"{_WORDS[verdict]} in {len(betas)} ({span})")
        failing = len(self.failing())
        return (
            f"No: {', '.join(parts)}. The diagnosis of HopfieldMemory sees {failing - len(self.undiagnosed())} of the "
            f"{failing} merged or reversed ones."
        )

    def failing(self) -> list[Cell]:
        """Return the cells, at either place, that are merged or reversed."""
        return [c for c in self.cells if c.verdict in ("merged", "reversed")]

    def undiagnosed(self) -> list[Cell]:
        """Return the failing cells in which the diagnosis sees no merged fixed points, or does not warn."""
        return [c for c in self.failing() if not (c.merged_fraction > 0 and c.warned)]

    def table(self) -> str:
        """Return three tables: verdicts by place and beta, reversed settings, and mixed density."""
        counts = Counter((c.place, c.beta, c.verdict) for c in self.cells)
        sweep = markdown_table(
            ["at each", "beta", *VERDICTS],
            [
                [p, b, *(counts[p, b, v] for v in VERDICTS)]
                for p, b in dict.fromkeys((c.place, c.beta) for c in self.cells)
            ],
        )
        reversals = sorted(
            (c for c in self.cells if c.verdict == "reversed" and c.place == "fixed point"), key=_relative
        )[:12]
        wrong = markdown_table(
            ["reversed at n", "c", "beta", "energy gap", "A outlier", "A cluster", "merged fixed points"],
            [
                [c.n, c.c, c.beta, c.energy_gap, c.rise_outlier, c.rise_cluster, f"{c.merged_fraction:.0%}"]
                for c in reversals
            ],
        )
        mixed = markdown_table(
            ["mixed density, at each", "beta", "Spearman(energy, A)", "n_eff", "merged fixed points", "warned"],
            [
                [m.place, m.beta, m.correlation, m.n_eff, f"{m.merged_fraction:.0%}", f"{m.warned:.0%}"]
                for m in self.mixed
            ],
        )
        return f"{sweep}\n\n{wrong}\n\n{mixed}"

    def findings(self) -> list[str]:
        """Return where the statement holds, what the diagnosis says where it does not, and the mixed densities."""
        sentences = []
        for place in PLACES:
            cells = [c for c in self.cells if c.place == place]
            counts = Counter(c.verdict for c in cells)
            shown = ", ".join(f"{v} {counts[v]}" for v in VERDICTS)
            sentences.append(f"Of {len(cells)} settings at each {place}, by the closed form: {shown}.")
        for o in self.counterexamples:
            sentences.append(
                f"Counter-example, measured with random rotations ({o.change}): {o.high} (higher energy) minus {o.low} "
                f"rises by {o.difference}."
            )
        failing = len(self.failing())
        sentences.append(
            "The diagnosis of HopfieldMemory reports merged fixed points, with a warning, in "
            f"{failing - len(self.undiagnosed())} of the {failing} cases (both places) that are merged or reversed."
        )
        holding = [c for c in self.cells if c.place == "fixed point" and c.verdict == "holds"]
        alarms = sum(c.merged_fraction > 0 for c in holding)
        sentences.append(
            f"It reports merged fixed points in {alarms} of the {len(holding)} settings that hold, too: there the "
            "cluster has merged into its own mean and the outlier has not."
        )
        for m in self.mixed:
            if m.place == "pattern":
                sentences.append(
                    f"Mixed density, beta {m.beta:g}: Spearman(energy, expected rise) at the patterns is "
                    f"{m.correlation}."
                )
        return sentences

    def figure(self) -> "Figure":
        """Return the regions in the (beta, c) plane for each n and place, and the mixed-density correlations."""
        return where_the_rule_holds(
            [(cell.place, cell.n, cell.c, cell.beta, cell.verdict) for cell in self.cells],
            {place: {m.beta: m.correlation for m in self.mixed if m.place == place} for place in PLACES},
        )


def _relative(cell: Cell) -> float:
    """Relative surplus of the outlier's rise over the cluster's; for c >= 0 the outlier's energy is never the lower."""
    return (cell.rise_outlier - cell.rise_cluster) / max(abs(cell.rise_outlier), abs(cell.rise_cluster))


def judge(n: int, c: float, d: int, beta: float) -> tuple[Cell, Cell]:
    """Judge one cluster-and-outlier setting by the closed form, at the patterns and at the fixed points.

    Args:
        n: cluster size, 2 <= n < d.
        c: correlation in the cluster, in [0, 1).
        d: dimension.
        beta: inverse temperature, > 0.

    Returns:
        The cells of the two places.

    Example:
        >>> [cell.verdict for cell in judge(12, 0.35, 50, 8.0)], judge(12, 0.35, 50, 2.0)[1].verdict
        (['holds', 'holds'], 'merged')
    """
    patterns = cluster_and_outlier(n, c, d).patterns
    diagnosis = HopfieldMemory(patterns, beta, similarity="dot").diagnose()
    starts = patterns[[0, n]]  # by symmetry all members of the cluster behave alike
    settled = _settle(starts, patterns, beta)
    first, second = (
        _cell(n, c, beta, place, points, patterns, diagnosis)
        for place, points in zip(PLACES, (starts, settled), strict=True)
    )
    return first, second


def _settle(starts: Tensor, patterns: Tensor, beta: float) -> Tensor:
    with warnings.catch_warnings():  # exactly at a merging the retrieval converges only algebraically
        warnings.simplefilter("ignore", UserWarning)
        return fixed_points(starts, patterns, beta, similarity="dot", tol=1e-11, max_iter=5000)


def _cell(n: int, c: float, beta: float, place: str, points: Tensor, patterns: Tensor, diagnosis: Diagnosis) -> Cell:
    levels = energy(points, patterns, beta, similarity="dot", normalize=False)
    rises = expected_rise(points, patterns, beta)
    cell = Cell(
        n=n,
        c=c,
        beta=beta,
        place=place,
        energy_gap=(levels[1] - levels[0]).item(),
        rise_outlier=rises[1].item(),
        rise_cluster=rises[0].item(),
        verdict="merged",
        merged_fraction=diagnosis.merged_fraction,
        warned=bool(diagnosis.warnings),
    )
    if (points[0] - points[1]).norm().item() < SAME_POINT:
        return cell
    relative = _relative(cell)
    verdict = "equal" if abs(relative) <= _EQUAL else "holds" if relative > 0 else "reversed"
    return replace(cell, verdict=verdict)


def judge_mixed(beta: float, d: int, seeds: Sequence[int]) -> list[MixedDensity]:
    """Rank correlation of energy and expected rise on mixed-density settings, at patterns and fixed points.

    Args:
        beta: inverse temperature, > 0.
        d: dimension.
        seeds: one setting for each.

    Returns:
        One entry for each place.
    """
    correlations: dict[str, list[float]] = {place: [] for place in PLACES}
    diagnoses = []
    for seed in seeds:
        patterns = mixed_density(d=d, seed=seed).patterns
        diagnoses.append(HopfieldMemory(patterns, beta, similarity="dot").diagnose())
        for place, points in zip(PLACES, (patterns, _settle(patterns, patterns, beta)), strict=True):
            levels = energy(points, patterns, beta, similarity="dot", normalize=False)
            rises = expected_rise(points, patterns, beta)
            correlations[place].append(rank_correlation(levels, rises, _NOISE[place]))
    n_eff, merged, warned = (
        sum(values) / len(diagnoses)
        for values in zip(*((f.n_eff, f.merged_fraction, bool(f.warnings)) for f in diagnoses), strict=True)
    )
    return [
        MixedDensity(beta, place, Estimate.of(torch.tensor(correlations[place])), n_eff, merged, warned)
        for place in PLACES
    ]


def rank_correlation(x: Tensor, y: Tensor, tol: float = 0.0) -> float:
    """Spearman's rank correlation; values within ``tol`` of each other are ties, which share their mean rank.

    Args:
        x: (n,) floating.
        y: (n,) floating.
        tol: largest difference that is float noise.

    Returns:
        In [-1, 1]; 0 if either is constant.

    Example:
        >>> import torch
        >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
        0.5
    """
    first, second = (((v[:, None] - v > tol).double() - (v - v[:, None] > tol).double()).sum(1) for v in (x, y))
    scale = first.norm() * second.norm()  # twice the ranks, centred
    return round((first @ second / scale).item(), 12) if scale > 0 else 0.0


def reproduce_falsify(
    n: tuple[int, ...] = (2, 4, 12, 30),
    c: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9),
    beta: tuple[float, ...] = (1, 2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 64),
    d: int = 50,
    mixed_beta: tuple[float, ...] = (2, 4, 6, 8, 12, 20, 50),
    mixed_seeds: int = 10,
    eps: float = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> FalsifyResult:
    """Sweep cluster sizes, correlations and temperatures for settings in which high energy does not rise more.

    Args:
        n: cluster sizes, each in [2, d - 1].
        c: correlations in the cluster, each in [0, 1).
        beta: inverse temperatures, each > 0.
        d: dimension.
        mixed_beta: inverse temperatures of the mixed-density settings.
        mixed_seeds: number of mixed-density settings, >= 2.
        eps: angle scale of the rotations that confirm the counter-examples.
        draws: number of these rotations.
        seed: of the rotations.

    Returns:
        The result.

    Example:
        >>> result = reproduce_falsify(n=(12,), c=(0.35,), beta=(2, 8), mixed_beta=(8,), mixed_seeds=2, draws=20)
        >>> result.findings()[0]
        'Of 2 settings at each pattern, by the closed form: holds 1, equal 0, merged 0, reversed 1.'
    """
    settings = track([(size, corr, b) for size in n for corr in c for b in beta], "Settings")
    cells = [cell for size, corr, b in settings for cell in judge(size, corr, d, b)]
    mixed = [entry for b in track(mixed_beta, "Mixtures") for entry in judge_mixed(b, d, range(mixed_seeds))]
    reversals = [cell for cell in cells if cell.place == "fixed point" and cell.verdict == "reversed"]
    counterexamples = []
    for cell in sorted(reversals, key=_relative)[:2]:
        measured = measure_rise(
            cluster_and_outlier(cell.n, cell.c, d), cell.beta, [Rotation(eps)], draws=draws, seed=seed
        )
        order = next(o for o in measured.orders if o.place == "fixed point")
        counterexamples.append(replace(order, change=f"{order.change}, n={cell.n}, c={cell.c:g}, beta={cell.beta:g}"))
    return FalsifyResult(d, tuple(cells), tuple(mixed), tuple(counterexamples))


__all__ = [
    "Cell",
    "FalsifyResult",
    "MixedDensity",
    "judge",
    "judge_mixed",
    "rank_correlation",
    "reproduce_falsify",
]
