"""What replaying one sample gives to itself and to others: every family of source and target, raw and net."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hopfield_replay.figures import replay_gains
from hopfield_replay.functional import energy, fixed_points, replay_gain, responsibilities, susceptibility
from hopfield_replay.theory.changes import Rotation
from hopfield_replay.theory.estimate import Estimate
from hopfield_replay.theory.result import Result
from hopfield_replay.theory.settings import Setting, asked_for
from hopfield_replay.utilities.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Family:
    """Mean gain of replaying a source, at a target, over all pairs of one kind; independent draws are rotations.

    Attributes:
        change: name of the task change.
        name: ``<group> itself``, ``within <group>`` or ``<source group> -> <target group>``.
        responsibility: of the source for the target, q_r(x), mean over the pairs.
        raw: E(x | new) - E(x | new and replay).
        net: raw minus the gain at zero drift.
        first_order: susceptibility times energy rise, the net gain to first order.
    """

    change: str
    name: str
    responsibility: float
    raw: Estimate
    net: Estimate
    first_order: Estimate


@dataclass(frozen=True)
class Step:
    """Two families that follow each other when ordered by mean net gain.

    Attributes:
        change: name of the task change.
        higher: the family of larger mean.
        lower: the next one.
        difference: of the net gains, paired by rotation.
        share: share of single rotations in which it is positive.
    """

    change: str
    higher: str
    lower: str
    difference: Estimate
    share: float


@dataclass(frozen=True)
class Total:
    """Gain summed over all targets when one sample of a group is replayed (mean over the group).

    Attributes:
        change: name of the task change.
        source: group of the replayed sample.
        raw: sum of the raw gains.
        net: sum of the net gains.
        raw_over_first: raw minus that of the first group, paired by rotation.
        net_over_first: net minus that of the first group, paired by rotation.
    """

    change: str
    source: str
    raw: Estimate
    net: Estimate
    raw_over_first: Estimate
    net_over_first: Estimate


@dataclass(frozen=True)
class ReplayGainResult(Result):
    """Replay gains at the old fixed points.

    Attributes:
        setting: its name.
        beta: inverse temperature.
        mass: of the replayed sample, in units of a pattern's mass.
        draws: number of rotations.
        families: one for each change and family.
        steps: the order of the net gains, one step for each pair of neighbours.
        order_shares: (change, share of single rotations that obey the whole order).
        totals: one for each change and group.
        largest_error: of the identity, over all sources, targets and the checked rotations.
    """

    setting: str
    beta: float
    mass: float
    draws: int
    families: tuple[Family, ...]
    steps: tuple[Step, ...]
    order_shares: tuple[tuple[str, float], ...]
    totals: tuple[Total, ...]
    largest_error: float

    statement: ClassVar[str] = "Replaying a sample of higher energy gives more."

    def verdict(self) -> str:
        """Return the order of the self-gains and of the totals, on average and in single rotations."""
        first = [t for t in self.totals if t.source == self.totals[0].source]
        whole = ", ".join(f"{share:.0%} ({change})" for change, share in self.order_shares)
        totals = [t for t in self.totals if t.source == self.totals[-1].source]
        signs = {1: "more", 0: "no different", -1: "less"}
        raw, net = (
            {signs[getattr(t, kind).direction] for t in totals} for kind in ("raw_over_first", "net_over_first")
        )
        changes = [
            f"{t.raw_over_first.mean / f.raw.mean:+.1%} and {t.net_over_first.mean / f.net.mean:+.1%} for {t.change}"
            for t, f in zip(totals, first, strict=True)
        ]
        return (
            f"To itself: the largest mean net gain is that of {self.steps[0].higher}. {whole} of single "
            f"rotations obey the whole order. Summed over all targets, replaying {totals[0].source} instead of "
            f"{self.totals[0].source} gives {' or '.join(sorted(raw))} raw gain and {' or '.join(sorted(net))} net "
            f"gain ({', '.join(changes)})."
        )

    def table(self) -> str:
        """Return three Markdown tables: families, order, and totals over all targets."""
        families = markdown_table(
            ["change", "source -> target", "q", "raw gain", "net gain", "first order"],
            [[f.change, f.name, f.responsibility, f.raw, f.net, f.first_order] for f in self.families],
        )
        steps = markdown_table(
            ["change", "net gain", "more than", "difference", "95 % interval", "single rotations"],
            [
                [
                    s.change,
                    s.higher,
                    s.lower,
                    s.difference,
                    "[{:.3g}, {:.3g}]".format(*s.difference.interval()),
                    f"{s.share:.0%}",
                ]
                for s in self.steps
            ],
        )
        totals = markdown_table(
            [
                "change",
                "replayed",
                "raw, all targets",
                "net, all targets",
                "raw, over the first",
                "net, over the first",
            ],
            [[t.change, t.source, t.raw, t.net, t.raw_over_first, t.net_over_first] for t in self.totals],
        )
        return f"{families}\n\n{steps}\n\n{totals}\n\nLargest error of the identity: {self.largest_error:.1e}"

    def findings(self) -> list[str]:
        """Return the order on average and in single rotations, and who gains when everything is counted."""
        sentences = [f"The replay identity holds to {self.largest_error:.1e}."]
        for change, share in self.order_shares:
            steps = [s for s in self.steps if s.change == change]
            order = " > ".join([steps[0].higher, *(s.lower for s in steps)])
            resolved = sum(s.difference.direction == 1 for s in steps)
            sentences.append(
                f"{change}: mean net gains order as {order}; {resolved} of {len(steps)} steps are resolved at 95 %, "
                f"and {share:.0%} of single rotations obey the whole order."
            )
        sentences += [
            f"{f.change}: of the raw gain of {f.name}, {(f.raw.mean - f.net.mean) / f.raw.mean:.0%} is what a "
            "duplicate gives without any rotation."
            for f in self.families
            if f.name.endswith(" itself")
        ]
        words = {1: "more", 0: "not distinguishably", -1: "less"}
        first = self.totals[0].source
        sentences += [
            f"{t.change}, summed over all targets: replaying {t.source} instead of {first} gives "
            f"{words[t.raw_over_first.direction]} raw gain ({t.raw_over_first}) and "
            f"{words[t.net_over_first.direction]} net gain ({t.net_over_first})."
            for t in self.totals
            if t.source != first
        ]
        return sentences

    def figure(self) -> "Figure":
        """Return one panel for each change: raw and net gain and the first order of each family, log scale."""
        gains: dict[str, dict[str, dict[str, Estimate]]] = {}
        for f in sorted(self.families, key=lambda f: -f.net.mean):
            gains.setdefault(f.change, {})[f.name] = {"raw": f.raw, "net": f.net, "net, first order": f.first_order}
        return replay_gains(gains, f"{self.setting}, beta={self.beta}, {self.draws} rotations")


def measure_replay_gain(
    setting: Setting,
    beta: float,
    changes: Sequence[Rotation],
    *,
    mass: float = 1.0,
    draws: int = 2000,
    seed: int = 0,
    checked: int = 20,
) -> ReplayGainResult:
    """Measure the gain of replaying each pattern at the old fixed point of each pattern, over random rotations.

    Args:
        setting: patterns in at least two groups.
        beta: inverse temperature of the dot-form energy, > 0.
        changes: rotations.
        mass: of the replayed sample, > 0, in units of a pattern's mass.
        draws: number of rotations, >= 2.
        seed: of the rotations; each change starts from it.
        checked: number of rotations on which the identity is checked against energies of concatenated sets, >= 1.

    Returns:
        Families, order, totals and the identity's largest error.

    Raises:
        ValueError: fewer than two groups or draws.

    Example:
        >>> from hopfield_replay.theory import cluster_and_outlier
        >>> result = measure_replay_gain(cluster_and_outlier(), 8.0, [Rotation(0.05)], draws=50)
        >>> result.steps[0].higher, result.largest_error < 1e-12
        ('outlier itself', True)

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975 (the claim that replay of high energies helps).
    """
    if len(setting.group_names) < 2:
        raise ValueError(f"{setting.name} has only the group {setting.group_names}; regroup it with by_energy.")
    if draws < 2 or checked < 1 or not changes:
        raise ValueError(
            f"need draws >= 2, checked >= 1 and a change; got {draws}, {checked} and {len(changes)} changes."
        )
    patterns = setting.patterns
    targets = fixed_points(patterns, patterns, beta, similarity="dot", tol=1e-12, max_iter=10000)
    pairs = _families(setting)
    q = responsibilities(targets, patterns, beta, similarity="dot")
    masses = patterns.new_full((1,), mass)
    rho = torch.stack(
        [susceptibility(targets, patterns, r[None], beta, replay_masses=masses, similarity="dot") for r in patterns], 1
    )
    families: list[Family] = []
    steps: list[Step] = []
    shares, totals, errors = [], [], []
    for change in changes:
        rotations = change.matrices(patterns.shape[1], draws, torch.Generator().manual_seed(seed))
        raw, net, rise = _gains(targets, patterns, rotations, beta, masses)
        errors.append(_identity_error(targets, patterns, rotations[:checked], beta, masses, raw, q))
        first_order = rho * rise[:, :, None]
        means = {name: net[:, k, r].mean(1) for name, (k, r) in pairs.items()}
        families += [
            Family(
                change.name,
                name,
                q[k, r].mean().item(),
                *(Estimate.of(values[:, k, r].mean(1)) for values in (raw, net, first_order)),
            )
            for name, (k, r) in pairs.items()
        ]
        order = sorted(means, key=lambda name: -means[name].mean().item())
        obeyed = torch.ones(draws, dtype=torch.bool)
        for higher, lower in pairwise(order):
            difference = means[higher] - means[lower]
            obeyed &= difference > 0
            share = (difference > 0).double().mean().item()
            steps.append(Step(change.name, higher, lower, Estimate.of(difference), share))
        shares.append((change.name, obeyed.double().mean().item()))
        by_source = [
            [values.sum(1)[:, setting.members(g)].mean(1) for values in (raw, net)]
            for g in range(len(setting.group_names))
        ]
        totals += [
            Total(
                change.name,
                name,
                *(Estimate.of(v) for v in sums),
                *(Estimate.of(v - first) for v, first in zip(sums, by_source[0], strict=True)),
            )
            for name, sums in zip(setting.group_names, by_source, strict=True)
        ]
    return ReplayGainResult(
        setting.name, beta, mass, draws, tuple(families), tuple(steps), tuple(shares), tuple(totals), max(errors)
    )


def _families(setting: Setting) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs (targets, sources) of each family."""
    pairs: dict[str, tuple[list[int], list[int]]] = {}
    names = [setting.group_names[g] for g in setting.groups.tolist()]
    for k, target in enumerate(names):
        for r, source in enumerate(names):
            same = f"{target} itself" if k == r else f"within {target}"
            entry = pairs.setdefault(same if source == target else f"{source} -> {target}", ([], []))
            entry[0].append(k)
            entry[1].append(r)
    return {name: (torch.tensor(k), torch.tensor(r)) for name, (k, r) in pairs.items()}


def _gains(
    targets: Tensor, patterns: Tensor, rotations: Tensor, beta: float, masses: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Raw and net gains (draws, targets, sources) and energy rises (draws, targets).

    One call serves all rotations: a query (V^T x, x) in 2d dimensions has the dot product <V^T x, xi> = <x, V xi> with
    the lifted new pattern (xi, 0), and <x, xi> with the lifted old or replayed pattern (0, xi).
    """
    draws, d = len(rotations), patterns.shape[1]
    zero = torch.zeros_like(patterns)
    new, old = torch.cat([patterns, zero], 1), torch.cat([zero, patterns], 1)
    queries = torch.cat([targets @ rotations, targets.expand(draws, -1, -1)], 2).reshape(-1, 2 * d)
    raw, net = (
        torch.stack(
            [
                replay_gain(queries, old, new, r[None], beta, replay_masses=masses, similarity="dot", net=net)
                for r in old
            ],
            1,
        ).reshape(draws, len(targets), len(patterns))
        for net in (False, True)
    )
    after, before = (energy(queries, stored, beta, similarity="dot", normalize=False) for stored in (new, old))
    return raw, net, (after - before).reshape(draws, len(targets))


def _identity_error(
    targets: Tensor, patterns: Tensor, rotations: Tensor, beta: float, masses: Tensor, raw: Tensor, q: Tensor
) -> float:
    """Largest difference between energies of literally concatenated sets, the identity, and the batched gains."""
    largest = 0.0
    for i, rotation in enumerate(rotations):
        new = patterns @ rotation.T
        after = energy(targets, new, beta, similarity="dot", normalize=False)
        rise = after - energy(targets, patterns, beta, similarity="dot", normalize=False)
        for r, source in enumerate(patterns):
            both, weights = torch.cat([new, source[None]]), torch.cat([masses.new_ones(len(new)), masses])
            defined = after - energy(targets, both, beta, masses=weights, similarity="dot", normalize=False)
            identity = torch.log1p((beta * rise).exp() * masses * q[:, r]) / beta
            for other in (identity, raw[i, :, r]):
                largest = max(largest, (defined - other).abs().max().item())
    return largest


def reproduce_replay_gain(
    n: int = 12,
    c: float = 0.35,
    d: int = 50,
    beta: float = 8.0,
    eps: tuple[float, ...] = (0.02, 0.05),
    variance: float = 0.5,
    mass: float = 1.0,
    draws: int = 2000,
    seed: int = 0,
    patterns: str | None = None,
) -> ReplayGainResult:
    """Gain of replaying an outlier or a cluster member, at itself and at the others, when the task rotates.

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
        >>> result = reproduce_replay_gain(draws=20)
        >>> result.largest_error < 1e-12  # of the replay identity
        True
    """
    setting = asked_for(n, c, d, beta, patterns)
    return measure_replay_gain(setting, beta, [Rotation(e, variance) for e in eps], mass=mass, draws=draws, seed=seed)


__all__ = [
    "Family",
    "ReplayGainResult",
    "Step",
    "Total",
    "measure_replay_gain",
    "reproduce_replay_gain",
]
