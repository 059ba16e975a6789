"""A Boltzmann machine trained on one task, then on the next without and with replay: the learned counterpart."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hopfield_replay.figures import learned_rises_and_gains
from hopfield_replay.theory.boltzmann import HopfieldBoltzmann
from hopfield_replay.theory.changes import Rotation
from hopfield_replay.theory.estimate import Estimate
from hopfield_replay.theory.result import Result
from hopfield_replay.theory.rise import PLACES
from hopfield_replay.theory.settings import SAME_POINT, cluster_and_outlier
from hopfield_replay.utilities.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPLAYED = ("highest", "lowest", "random")  # the last is what the others are compared with


@dataclass(frozen=True)
class LearnedRise:
    """Rise of -log p / beta when the machine learns task 2 without replay; independent draws are seeds.

    Attributes:
        place: at each ``pattern`` of task 1 or at the old machine's ``fixed point`` reached from it.
        energy_gap: outlier minus cluster before task 2.
        outlier: rise at the outlier.
        cluster: mean rise at the cluster.
        difference: outlier minus cluster, paired by seed.
        share: share of seeds in which it is positive.
    """

    place: str
    energy_gap: Estimate
    outlier: Estimate
    cluster: Estimate
    difference: Estimate
    share: float


@dataclass(frozen=True)
class LearnedGain:
    """Gain of replaying one sample of task 1: rise without replay minus rise with it, paired by seed.

    Attributes:
        replayed: which sample, by the machine's energy after task 1: ``highest``, ``lowest`` or ``random``.
        own: gain at the replayed sample itself.
        others: mean gain at the other patterns of task 1.
        everyone: mean gain at all patterns of task 1.
        own_over_random: ``own`` minus that of the random sample, paired by seed.
        everyone_over_random: ``everyone`` minus that of the random sample, paired by seed.
        outlier_share: share of seeds in which the replayed sample is the outlier.
    """

    replayed: str
    own: Estimate
    others: Estimate
    everyone: Estimate
    own_over_random: Estimate
    everyone_over_random: Estimate
    outlier_share: float


@dataclass(frozen=True)
class Regime:
    """One size and temperature of the machine.

    Attributes:
        hidden: number of hidden units.
        beta: inverse temperature.
        outlier_merged: share of seeds in which, after task 1, the outlier's fixed point is one of the cluster's.
        cluster_merged: share of the cluster's patterns whose fixed point is also that of another one of the cluster.
        rises: one for each place.
        gains: one for each replayed sample.
    """

    hidden: int
    beta: float
    outlier_merged: float
    cluster_merged: float
    rises: tuple[LearnedRise, ...]
    gains: tuple[LearnedGain, ...]


@dataclass(frozen=True)
class BoltzmannResult(Result):
    """The regimes.

    Attributes:
        setting: name of task 1.
        eps: angle scale of the rotation that makes task 2.
        seeds: number of independent machines and rotations in each regime.
        regimes: one for each pair (hidden, beta).
    """

    setting: str
    eps: float
    seeds: int
    regimes: tuple[Regime, ...]

    statement: ClassVar[str] = "A trained network forgets alike: the outlier rises more, and replaying it pays."

    def verdict(self) -> str:
        """Return in which regimes the outlier rises more at its pattern, and in which replay of high energy pays."""
        patterns, settled = (
            [f"{g.hidden} hidden at beta {g.beta:g}" for g in regimes if g.rises[place].difference.direction == 1]
            for place, regimes in enumerate((self.regimes, [g for g in self.regimes if g.outlier_merged < 1]))
        )
        highest = [next(a for a in g.gains if a.replayed == "highest") for g in self.regimes]
        own = sum(a.own_over_random.direction == 1 for a in highest)
        everyone = sum(a.everyone_over_random.direction == 1 for a in highest)
        return (
            f"The outlier rises more on average, at the patterns in {len(patterns)} of {len(self.regimes)} regimes "
            f"({', '.join(patterns) or 'none'}), at fixed points of its own in {len(settled)} "
            f"({', '.join(settled) or 'none'}). Replaying the sample of highest energy instead of a random one "
            f"protects that sample more in {own}, and all together in {everyone} of {len(self.regimes)} regimes."
        )

    def table(self) -> str:
        """Return two Markdown tables: the rises without replay, and the gains of replay."""
        rises = markdown_table(
            [
                "hidden",
                "beta",
                "merged",
                "at each",
                "energy gap",
                "rise outlier",
                "rise cluster",
                "difference",
                "more in",
            ],
            [
                [
                    *(g.hidden, g.beta, f"outlier {g.outlier_merged:.0%}, cluster {g.cluster_merged:.0%}"),
                    *(r.place, r.energy_gap, r.outlier, r.cluster, r.difference, f"{r.share:.0%} of seeds"),
                ]
                for g in self.regimes
                for r in g.rises
            ],
        )
        gains = markdown_table(
            ["hidden", "beta", "replayed", "gain at itself", "mean gain at the others", "mean gain at all", "outliers"],
            [
                [g.hidden, g.beta, a.replayed, a.own, a.others, a.everyone, f"{a.outlier_share:.0%}"]
                for g in self.regimes
                for a in g.gains
            ],
        )
        return f"{rises}\n\n{gains}"

    def findings(self) -> list[str]:
        """Return, for each regime, who rises more and which replay protects most."""
        sentences = []
        for g in self.regimes:
            name = f"{g.hidden} hidden units, beta {g.beta:g}"
            sentences.append(
                f"{name}: after task 1 the outlier shares a fixed point with the cluster in {g.outlier_merged:.0%} of "
                f"{self.seeds} seeds, and {g.cluster_merged:.0%} of the cluster's patterns share one with each other."
            )
            for r in g.rises:
                if r.place == "fixed point" and g.outlier_merged == 1:
                    continue  # one and the same point: nothing to compare
                verdict = {1: "more than", 0: "not distinguishably from", -1: "less than"}[r.difference.direction]
                level = {1: "higher than", 0: "as high as", -1: "lower than"}[r.energy_gap.direction]
                sentences.append(
                    f"{name}, at each {r.place}: the outlier's energy is {level} the cluster's, and it rises {verdict} "
                    f"the cluster's (difference {r.difference}, more in {r.share:.0%} of {self.seeds} seeds)."
                )
            words = {1: "more", 0: "not distinguishably", -1: "less"}
            sentences += [
                f"{name}: replaying the {a.replayed}-energy sample instead of a random one protects the replayed "
                f"sample {words[a.own_over_random.direction]} ({a.own_over_random}) and all samples together "
                f"{words[a.everyone_over_random.direction]} ({a.everyone_over_random})."
                for a in g.gains
                if a.replayed != "random"
            ]
        return sentences

    def figure(self) -> "Figure":
        """Return the rises of each regime, and below them the gains of each replay, with 95 % intervals."""
        names = [f"{regime.hidden} hidden,\nbeta={regime.beta:g}" for regime in self.regimes]
        return learned_rises_and_gains(
            {
                name: {(group, r.place): getattr(r, group) for r in regime.rises for group in ("cluster", "outlier")}
                for name, regime in zip(names, self.regimes, strict=True)
            },
            {
                name: {
                    (who, g.replayed): value
                    for g in regime.gains
                    for who, value in (("at itself", g.own), ("mean over all", g.everyone))
                }
                for name, regime in zip(names, self.regimes, strict=True)
            },
            f"Boltzmann machine, {self.setting}, eps={self.eps}, {self.seeds} seeds",
        )


def _cost(machine: HopfieldBoltzmann, points: Tensor) -> Tensor:
    # the energy with its normaliser: what training lowers, and comparable before and after
    with torch.no_grad():
        return machine.negative_log_likelihood(points) / machine.beta


def _settle(machine: HopfieldBoltzmann, points: Tensor, steps: int = 500) -> Tensor:
    with torch.no_grad():
        for _ in range(steps):
            points = points - machine.gradient(points)
    return points


def run_regime(
    hidden: int,
    beta: float,
    patterns: Tensor,
    turned: Tensor,
    *,
    steps: int = 1200,
    more_steps: int = 200,
    lr: float = 0.01,
    seed: int = 0,
) -> Regime:
    """Train machines on task 1, then on task 2 without replay and with one replayed sample.

    Args:
        hidden: number of hidden units, >= 1.
        beta: inverse temperature, > 0.
        patterns: task 1, (N, d) float64; the last one is the outlier.
        turned: task 2 of each seed, (seeds, N, d) float64, seeds >= 2.
        steps: updates on task 1.
        more_steps: updates on task 2; the optimiser starts afresh.
        lr: learning rate of Adam.
        seed: of the initial parameters and of the random replay.

    Returns:
        The rises and gains; the replayed sample has the mass of one pattern of task 2.
    """
    seeds, count, d = turned.shape
    machine = HopfieldBoltzmann(hidden, d, beta, batch=(seeds,), seed=seed)
    machine.train_on(patterns, steps=steps, lr=lr)
    settled = _settle(machine, patterns.expand(seeds, -1, -1))
    points = torch.cat([patterns.expand(seeds, -1, -1), settled], 1)
    before = _cost(machine, points)
    levels = before[:, :count]
    drawn = torch.randint(count, (seeds,), generator=torch.Generator().manual_seed(seed))
    chosen = torch.stack([levels.argmax(1), levels.argmin(1), drawn])

    arms = HopfieldBoltzmann(hidden, d, beta, batch=(1 + len(REPLAYED), seeds))
    arms.load_state_dict({k: v.expand_as(arms.state_dict()[k]) for k, v in machine.state_dict().items()})
    replayed = torch.cat([torch.zeros(1, seeds, 1, d, dtype=torch.float64), patterns[chosen][:, :, None]])
    data = torch.cat([turned.expand(len(replayed), -1, -1, -1), replayed], 2)
    masses = torch.ones(data.shape[:-1], dtype=torch.float64)
    masses[0, :, -1] = 0.0  # the first arm replays nothing
    arms.train_on(data, masses=masses, steps=more_steps, lr=lr)
    rise = _cost(arms, points) - before

    rises = []
    for p, place in enumerate(PLACES):
        window = slice(p * count, (p + 1) * count)
        start, risen = before[:, window], rise[0, :, window]
        outlier, cluster = risen[:, -1], risen[:, :-1].mean(1)
        rises.append(
            LearnedRise(
                place=place,
                energy_gap=Estimate.of(start[:, -1] - start[:, :-1].mean(1)),
                outlier=Estimate.of(outlier),
                cluster=Estimate.of(cluster),
                difference=Estimate.of(outlier - cluster),
                share=(outlier > cluster).double().mean().item(),
            )
        )
    gain = (rise[:1] - rise[1:])[:, :, :count]
    own = gain.gather(2, chosen[:, :, None]).squeeze(2)
    everyone = gain.mean(2)
    others = (gain.sum(2) - own) / (count - 1)
    gains = [
        LearnedGain(
            replayed=name,
            own=Estimate.of(own[a]),
            others=Estimate.of(others[a]),
            everyone=Estimate.of(everyone[a]),
            own_over_random=Estimate.of(own[a] - own[-1]),
            everyone_over_random=Estimate.of(everyone[a] - everyone[-1]),
            outlier_share=(chosen[a] == count - 1).double().mean().item(),
        )
        for a, name in enumerate(REPLAYED)
    ]
    together = torch.cdist(settled, settled) < SAME_POINT
    together[:, range(count), range(count)] = False
    outlier_merged = together[:, -1].any(1).double().mean().item()
    cluster_merged = together[:, :-1, :-1].any(2).double().mean().item()
    return Regime(hidden, beta, outlier_merged, cluster_merged, tuple(rises), tuple(gains))


def reproduce_boltzmann(
    n: int = 12,
    c: float = 0.35,
    d: int = 50,
    hidden: tuple[int, ...] = (40, 40, 40, 8, 40),
    beta: tuple[float, ...] = (8.0, 9.0, 12.0, 12.0, 30.0),
    eps: float = 0.05,
    variance: float = 0.5,
    steps: int = 1200,
    more_steps: int = 200,
    lr: float = 0.01,
    seeds: int = 24,
    seed: int = 0,
) -> BoltzmannResult:
    """Train exact-likelihood Boltzmann machines task after task, and replay the highest, lowest or a random sample.

    Args:
        n: cluster size.
        c: correlation in the cluster, in [0, 1).
        d: dimension, > n.
        hidden: numbers of hidden units, one for each regime.
        beta: inverse temperatures, one for each regime.
        eps: angle scale of the rotation that makes task 2.
        variance: of the entries of the rotation's generator.
        steps: updates on task 1.
        more_steps: updates on task 2.
        lr: learning rate of Adam.
        seeds: machines and rotations in each regime, >= 2.
        seed: of everything random.

    Returns:
        The result.

    Raises:
        ValueError: ``hidden`` and ``beta`` are not equally long, or fewer than two seeds.

    Example:
        >>> result = reproduce_boltzmann(hidden=(8,), beta=(12.0,), steps=20, more_steps=5, seeds=2)
        >>> len(result.findings()) > 0  # of two machines that have hardly learned anything
        True
    """
    if len(hidden) != len(beta) or not hidden:
        raise ValueError(f"hidden and beta name the regimes pairwise, got {len(hidden)} and {len(beta)} of them.")
    if seeds < 2:
        raise ValueError(f"seeds must be >= 2 for an interval, got {seeds}.")
    setting = cluster_and_outlier(n, c, d)
    rotations = Rotation(eps, variance).matrices(d, seeds, torch.Generator().manual_seed(seed))
    turned = setting.patterns @ rotations.mT
    regimes = [
        run_regime(k, b, setting.patterns, turned, steps=steps, more_steps=more_steps, lr=lr, seed=seed)
        for k, b in zip(hidden, beta, strict=True)
    ]
    return BoltzmannResult(setting.name, eps, seeds, tuple(regimes))


__all__ = [
    "BoltzmannResult",
    "LearnedGain",
    "LearnedRise",
    "Regime",
    "reproduce_boltzmann",
    "run_regime",
]
