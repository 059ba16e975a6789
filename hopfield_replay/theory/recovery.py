"""Whether an old pattern still retrieves itself after the task has rotated, and what replaying a sample does to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hopfield_replay.figures import recovery_by_rotation
from hopfield_replay.theory.changes import Rotation
from hopfield_replay.theory.estimate import Estimate
from hopfield_replay.theory.result import Result
from hopfield_replay.theory.settings import Setting, asked_for
from hopfield_replay.utilities.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOLERANCE, _STEPS = 1e-6, 2000  # of a retrieval: only which pattern it ends next to is asked


@dataclass(frozen=True)
class Recovered:
    """Share of the old patterns that retrieve themselves when one sample is replayed; draws are rotations.

    Attributes:
        change: name of the task change.
        eps: angle scale of the rotation.
        replayed: group of the replayed sample (the mean over its members), ``nothing`` or ``random`` (over all).
        share: of all old patterns.
        over_random: ``share`` minus that of ``random``, paired by rotation.
        others_over_random: the same, of the patterns that are not the replayed one.
    """

    change: str
    eps: float
    replayed: str
    share: Estimate
    over_random: Estimate
    others_over_random: Estimate


@dataclass(frozen=True)
class RecoveryResult(Result):
    """Identity recovery.

    Attributes:
        setting: its name.
        beta: inverse temperature.
        mass: of the replayed sample, in units of a pattern's mass.
        draws: number of rotations.
        rows: one for each change and replayed group.
    """

    setting: str
    beta: float
    mass: float
    draws: int
    rows: tuple[Recovered, ...]

    statement: ClassVar[str] = "Replaying the sample of highest energy recovers more identities than a random one."

    def _resolved(self) -> list[Recovered]:
        """Rows of the last group, that of highest energy where :func:`cluster_and_outlier` made them."""
        return [row for row in self.rows if row.replayed == self.rows[-1].replayed]

    def verdict(self) -> str:
        """Return where the last group does, in all patterns and in the others."""
        words = {1: "more", 0: "no more", -1: "fewer"}
        return f"Replaying {self.rows[-1].replayed} instead of a random sample recovers " + "; ".join(
            f"{words[row.over_random.direction]} at eps={row.eps} ({100 * row.over_random.mean:+.2f} points; of the "
            f"others {words[row.others_over_random.direction]}, {100 * row.others_over_random.mean:+.2f})"
            for row in self._resolved()
        )

    def table(self) -> str:
        """Return the shares in percent, and their differences in points."""
        rows = []
        for row in self.rows:
            points = [
                "{:+.2f} [{:+.2f}, {:+.2f}]".format(100 * one.mean, *(100 * end for end in one.interval()))
                for one in (row.over_random, row.others_over_random)
            ]
            rows.append([row.change, row.replayed, f"{100 * row.share.mean:.2f} %", *points])
        heading = "over random, points [95 % interval]"
        return markdown_table(["change", "replayed", "recovered", heading, f"{heading}, not itself"], rows)

    def findings(self) -> list[str]:
        """Return what each change does to the last group's advantage."""
        words = {1: "more than", 0: "not distinguishably from", -1: "less than"}
        return [
            f"{row.change}: replaying {row.replayed} recovers {100 * row.share.mean:.1f} % of the old patterns, "
            f"{words[row.over_random.direction]} a random sample ({100 * row.over_random.mean:+.2f} points), and of "
            f"the patterns that are not replayed {words[row.others_over_random.direction]} it "
            f"({100 * row.others_over_random.mean:+.2f})."
            for row in self._resolved()
        ]

    def figure(self) -> "Figure":
        """Return the recovered share over the rotation's scale, one line for each replayed group."""
        shares: dict[str, dict[float, Estimate]] = {}
        for row in self.rows:
            shares.setdefault(row.replayed, {})[row.eps] = row.share
        return recovery_by_rotation(shares, f"{self.setting}, beta={self.beta}, {self.draws} rotations")


def measure_recovery(
    setting: Setting, beta: float, changes: Sequence[Rotation], *, mass: float = 1.0, draws: int = 300, seed: int = 0
) -> RecoveryResult:
    """Start at each old pattern, retrieve it from the rotated ones and one replayed, and see which it ends next to.

    An identity is recovered if of all old patterns the one with the largest inner product with the fixed point is the
    one that the retrieval started from.

    Args:
        setting: patterns in at least two groups; the last is compared with a random sample.
        beta: inverse temperature of the dot-form energy, > 0.
        changes: rotations.
        mass: of the replayed sample, > 0, in units of a pattern's mass.
        draws: number of rotations, >= 2.
        seed: of the rotations; each change starts from it.

    Returns:
        Shares for each change and replayed group.

    Raises:
        ValueError: fewer than two groups or draws, a mass that is not positive.

    Example:
        >>> from hopfield_replay.theory import cluster_and_outlier
        >>> result = measure_recovery(cluster_and_outlier(), 8.0, [Rotation(0.05)], draws=4)
        >>> [row.share.mean for row in result.rows]  # a small rotation takes no identity
        [1.0, 1.0, 1.0, 1.0]

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975 (the question); the measure is this library's own.
    """
    if len(setting.group_names) < 2:
        raise ValueError(f"{setting.name} has only the group {setting.group_names}; regroup it with by_energy.")
    if draws < 2 or not changes or not mass > 0:
        raise ValueError(f"need draws >= 2, a change and mass > 0; got {draws}, {len(changes)} changes and {mass}.")
    patterns = setting.patterns
    rows = []
    for change in changes:
        rotations = change.matrices(patterns.shape[1], draws, torch.Generator().manual_seed(seed))
        new = patterns @ rotations.transpose(1, 2)
        nothing = _recovered(patterns, new, beta, None, mass)
        each = torch.stack([_recovered(patterns, new, beta, source, mass) for source in patterns])
        other = ~torch.eye(len(patterns), dtype=torch.bool)
        whole = each.mean(2)  # (sources, draws)
        others = torch.stack([one[:, kept].mean(1) for one, kept in zip(each, other, strict=True)])
        arms = {
            "nothing": (nothing.mean(1), nothing.mean(1)),
            "random": (whole.mean(0), others.mean(0)),
            **{
                name: (whole[setting.members(g)].mean(0), others[setting.members(g)].mean(0))
                for g, name in enumerate(setting.group_names)
            },
        }
        rows += [
            Recovered(
                change.name,
                change.eps,
                name,
                Estimate.of(share),
                Estimate.of(share - arms["random"][0]),
                Estimate.of(rest - arms["random"][1]),
            )
            for name, (share, rest) in arms.items()
        ]
    return RecoveryResult(setting.name, beta, mass, draws, tuple(rows))


def _recovered(old: Tensor, new: Tensor, beta: float, replayed: Tensor | None, mass: float) -> Tensor:
    """Whether each old pattern retrieves itself, (draws, N) float64, from new patterns (draws, N, d) and one more.

    All rotations at once, in the plain form of the update.
    """
    bias = old.new_zeros(new.shape[1])
    if replayed is not None:
        new = torch.cat([new, replayed.expand(len(new), 1, -1)], 1)
        bias = torch.cat([bias, old.new_tensor([mass]).log()])
    state = old.repeat(len(new), 1, 1)
    moving = torch.arange(len(new))
    for _ in range(_STEPS):
        stored, last = new[moving], state[moving]
        state[moving] = torch.softmax(beta * last @ stored.transpose(1, 2) + bias, 2) @ stored
        moving = moving[(state[moving] - last).abs().amax((1, 2)) >= _TOLERANCE]
        if not len(moving):
            break
    return ((state @ old.T).argmax(2) == torch.arange(len(old))).double()


def reproduce_recovery(
    n: int = 12,
    c: float = 0.35,
    d: int = 50,
    beta: float = 8.0,
    eps: tuple[float, ...] = (0.05, 0.15, 0.2, 0.25, 0.3),
    variance: float = 0.5,
    mass: float = 1.0,
    draws: int = 300,
    seed: int = 0,
    patterns: str | None = None,
) -> RecoveryResult:
    """Share of the old patterns that still retrieve themselves when one sample is replayed after the task rotates.

    Args:
        n: cluster size.
        c: correlation in the cluster, in [0, 1).
        d: dimension, > n.
        beta: inverse temperature, > 0.
        eps: angle scales of the rotations.
        variance: of the entries of the rotation's generator.
        mass: of the replayed sample, in units of a pattern's mass.
        draws: number of rotations.
        seed: of the rotations.
        patterns: file of patterns (.safetensors, .npy, .csv) to use instead of the cluster and the outlier; without
            groups, its fifth of highest energy is compared with the rest.

    Returns:
        The result.

    Example:
        >>> [row.replayed for row in reproduce_recovery(eps=(0.05,), draws=4).rows]
        ['nothing', 'random', 'cluster', 'outlier']
    """
    setting = asked_for(n, c, d, beta, patterns)
    return measure_recovery(setting, beta, [Rotation(e, variance) for e in eps], mass=mass, draws=draws, seed=seed)


__all__ = ["Recovered", "RecoveryResult", "measure_recovery", "reproduce_recovery"]
