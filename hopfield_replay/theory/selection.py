"""Which replay set protects most: every policy judged by the mean over all samples and by the tail most at risk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hopfield_replay.figures import protected_by_policy
from hopfield_replay.functional import affinity, energy, greedy_replay_gain, protected_energy, replay_mass
from hopfield_replay.memory.memory import HopfieldMemory
from hopfield_replay.policies import POLICIES, as_policy, requirements
from hopfield_replay.policies.candidates import Candidates, sample_keys
from hopfield_replay.policies.greedy_gain import GreedyGain
from hopfield_replay.theory.changes import NewTask, Rotation, TaskChange
from hopfield_replay.theory.estimate import Estimate
from hopfield_replay.theory.result import Result
from hopfield_replay.theory.settings import Setting, cluster_and_outlier, digits, mixed_density
from hopfield_replay.utilities.progress import track
from hopfield_replay.utilities.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KNOWING = ("greedy for the mean, next task known", "greedy for the tail, next task known")
_TAIL = 0.1  # share of the samples that form the tail: those whose energy rises most without replay


@dataclass(frozen=True)
class Arm:
    """What the replay set of one policy protects; independent draws are draws of the task change.

    Attributes:
        policy: its name; those that know the next task say so.
        mean: protected energy (1/beta) log(1 + sum_{r in R} a_kr), mean over all old samples.
        tail: the same, mean over the tenth of the old samples whose energy rises most without replay.
        isolated: the same, mean over the tenth of the old samples of highest leave-one-out energy.
        mean_over_random: ``mean`` minus that of the policy ``random``, paired by draw.
        tail_over_random: ``tail`` minus that of the policy ``random``, paired by draw.
        share_of_bound: ``mean`` over the certified upper bound of any set of this size, mean over the draws.
    """

    policy: str
    mean: Estimate
    tail: Estimate
    isolated: Estimate
    mean_over_random: Estimate
    tail_over_random: Estimate
    share_of_bound: float


@dataclass(frozen=True)
class Comparison:
    """All policies on one setting.

    Attributes:
        setting: its name.
        change: name of the task change.
        samples: number of old samples.
        k: number of replayed samples.
        beta: inverse temperature (mean over the draws where it is calibrated).
        draws: number of draws.
        exceeding: how many replay sets, over all policies and draws, protect more than the certified bound.
        arms: one for each policy, best mean first.
    """

    setting: str
    change: str
    samples: int
    k: int
    beta: float
    draws: int
    exceeding: int
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class SelectionResult(Result):
    """The comparisons.

    Attributes:
        replay_share: share of each batch that is replayed, which fixes the mass of a replayed sample.
        comparisons: one for each setting.
    """

    replay_share: float
    comparisons: tuple[Comparison, ...]

    statement: ClassVar[str] = "The samples of highest energy are the ones to replay."

    def verdict(self) -> str:
        """Return how the highest energies do against random, for the mean and for the tail."""
        signs = {1: "more", 0: "no different", -1: "less"}
        parts = [
            f"{c.setting}: {signs[a.mean_over_random.direction]} in the mean, {signs[a.tail_over_random.direction]} in "
            "the tail"
            for c in self.comparisons
            for a in c.arms
            if a.policy == "high_energy"
        ]
        return f"What the highest energies protect, against a random set of the same size: {'; '.join(parts)}."

    def table(self) -> str:
        """Return one Markdown table for each setting."""
        parts = []
        for c in self.comparisons:
            rows = [
                [
                    a.policy,
                    a.mean,
                    a.tail,
                    a.isolated,
                    a.mean_over_random,
                    a.tail_over_random,
                    f"{a.share_of_bound:.0%}",
                ]
                for a in c.arms
            ]
            headers = ["policy", "mean", "tail", "isolated", "mean, over random", "tail, over random", "of the bound"]
            title = f"{c.setting}, {c.change}: {c.k} of {c.samples} replayed, beta {c.beta:.4g}, {c.draws} draws"
            parts.append(f"{title}\n\n{markdown_table(headers, rows)}")
        return "\n\n".join(parts)

    def findings(self) -> list[str]:
        """Return, for each setting, the best policy for either objective and how the energies do against random."""
        words = {1: "more than", 0: "not distinguishably from", -1: "less than"}
        sentences = []
        for c in self.comparisons:
            blind = [a for a in c.arms if a.policy not in KNOWING]
            by_kind: list[Callable[[Arm], float]] = [
                lambda a: a.mean.mean,
                lambda a: a.tail.mean,
                lambda a: a.isolated.mean,
            ]
            best = [max(blind, key=key).policy for key in by_kind]
            sentences.append(
                f"{c.setting}: of the policies that do not know the next task, {best[0]} protects most on average, "
                f"{best[1]} the tail that will rise most, and {best[2]} the isolated tenth; {c.exceeding} of "
                f"{c.draws * len(c.arms)} replay sets exceed the certified bound (largest mean share "
                f"{max(a.share_of_bound for a in c.arms):.0%})."
            )
            sentences += [
                f"{c.setting}: {a.policy} protects {words[a.mean_over_random.direction]} random on average "
                f"({a.mean_over_random}) and {words[a.tail_over_random.direction]} random in the tail "
                f"({a.tail_over_random})."
                for a in c.arms
                if a.policy in ("high_energy", "low_energy")
            ]
        return sentences

    def figure(self) -> "Figure":
        """Return one panel for each setting: what each policy protects, with 95 % intervals."""
        return protected_by_policy(
            {
                f"{c.setting}\n{c.change}, {c.k} of {c.samples}": {
                    a.policy: {
                        "mean over all samples": a.mean,
                        "tail that will rise most": a.tail,
                        "isolated tenth": a.isolated,
                    }
                    for a in c.arms
                }
                for c in self.comparisons
            }
        )


def compare_policies(
    draw: Callable[[int], tuple[Setting, TaskChange, float]],
    k: int,
    *,
    draws: int = 20,
    replay_share: float = 0.5,
    seed: int = 0,
) -> Comparison:
    """Compare every policy on independent draws of a setting and a task change, by the closed-form protected energy.

    Args:
        draw: gives the setting, the change and beta of one draw, from its number 0, 1, ...; unit-norm patterns.
        k: number of replayed samples, from 1 to the number of patterns.
        draws: number of draws, >= 2.
        replay_share: share of each batch that is replayed, in (0, 1).
        seed: of the changes and of the random policies.

    Returns:
        The comparison; the policies other than the two named in ``KNOWING`` see the old patterns only.

    Raises:
        ValueError: ``draws`` below 2.

    Example:
        >>> from hopfield_replay.theory import Rotation, cluster_and_outlier
        >>> problem = cluster_and_outlier(6, 0.3, 10), Rotation(0.1), 8.0
        >>> comparison = compare_policies(lambda draw: problem, 2, draws=2)
        >>> comparison.k
        2
    """
    if draws < 2:
        raise ValueError(f"draws must be >= 2 for an interval, got {draws}.")
    means: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    far: dict[str, list[float]] = {}
    bounds, betas = [], []
    for number in track(range(draws), "Comparing policies"):
        setting, change, beta = draw(number)
        old = setting.patterns
        task = change.apply(old, torch.Generator().manual_seed(seed + number))
        after = energy(old, task.patterns, beta, masses=task.masses, similarity="dot")
        risk = after - energy(old, old, beta, similarity="dot")
        a = affinity(old, old, after, beta, masses=replay_mass(k, replay_share), similarity="dot")
        levels = energy(old, old, beta, similarity="dot", exclude=torch.arange(len(old)))
        sets, bound = _replay_sets(old, levels, a, risk, k, beta, replay_share, seed + number)
        hardest, isolated = (
            score.argsort(descending=True, stable=True)[: max(1, round(_TAIL * len(old)))] for score in (risk, levels)
        )
        for name, chosen in sets.items():
            protected = protected_energy(a, chosen, beta=beta)
            means.setdefault(name, []).append(protected.mean().item())
            tails.setdefault(name, []).append(protected[hardest].mean().item())
            far.setdefault(name, []).append(protected[isolated].mean().item())
        bounds.append(bound / len(old))
        betas.append(beta)
    mean = {name: torch.tensor(values, dtype=torch.float64) for name, values in means.items()}
    tail = {name: torch.tensor(values, dtype=torch.float64) for name, values in tails.items()}
    limit = torch.tensor(bounds, dtype=torch.float64)
    arms = [
        Arm(
            policy=name,
            mean=Estimate.of(mean[name]),
            tail=Estimate.of(tail[name]),
            isolated=Estimate.of(torch.tensor(far[name], dtype=torch.float64)),
            mean_over_random=Estimate.of(mean[name] - mean["random"]),
            tail_over_random=Estimate.of(tail[name] - tail["random"]),
            share_of_bound=(mean[name] / limit).mean().item(),
        )
        for name in sorted(mean, key=lambda name: -mean[name].mean().item())
    ]
    exceeding = sum(int((values > limit * (1 + 1e-12)).sum()) for values in mean.values())
    return Comparison(setting.name, change.name, len(old), k, sum(betas) / len(betas), draws, exceeding, tuple(arms))


def _replay_sets(
    old: Tensor, levels: Tensor, a: Tensor, risk: Tensor, k: int, beta: float, share: float, seed: int
) -> tuple[Mapping[str, Tensor], float]:
    """Replay set of each policy, and the certified bound on the total that any set protects."""
    ids = torch.arange(len(old))
    candidates = Candidates(
        ids=ids,
        tasks=torch.zeros_like(ids),
        energies=levels,
        vectors=old,
        keys=sample_keys(ids, seed),
        beta=beta,
        similarity="dot",
        places=k,
    )
    policies = {name: as_policy(name) for name in POLICIES} | {"greedy_gain": GreedyGain(share)}
    sets = {
        name: policy.select(candidates, k)
        for name, policy in policies.items()
        if not requirements(policy).losses  # no model is trained here that could have a loss
    }
    best = greedy_replay_gain(a, k, beta=beta, tighten=20)
    for name, chosen in zip(
        KNOWING, (best, greedy_replay_gain(a, k, tail_weight=1.0, risk=risk, beta=beta)), strict=True
    ):
        sets[name] = chosen.indices
    return sets, best.upper_bound


def reproduce_selection(
    n: int = 12,
    c: float = 0.35,
    d: int = 50,
    beta: float = 8.0,
    mixed_beta: float = 20.0,
    eps: float = 0.05,
    per_class: int = 60,
    share_kept: float = 0.15,
    replay_share: float = 0.5,
    draws: int = 20,
    seed: int = 0,
) -> SelectionResult:
    """Compare every replay policy on the cluster and outlier, on mixed density, and on digits 0-4 before 5-9.

    Args:
        n: cluster size.
        c: correlation in the cluster, in [0, 1).
        d: dimension, > n.
        beta: inverse temperature of the cluster and the outlier, > 0.
        mixed_beta: inverse temperature of the mixed density, > 0; that of the digits is calibrated.
        eps: angle scale of the rotation, the task change of the first two settings.
        per_class: digits of each class, before and after.
        share_kept: share of the old samples that is replayed, in (0, 1].
        replay_share: share of each batch that is replayed, in (0, 1).
        draws: number of draws of each setting.
        seed: of everything random.

    Returns:
        The result.

    Example:
        >>> result = reproduce_selection(n=6, d=10, per_class=8, draws=2)
        >>> "0 of 28 replay sets exceed the certified bound" in result.findings()[0]
        True
    """

    def closed(number: int) -> tuple[Setting, TaskChange, float]:
        return cluster_and_outlier(n, c, d), Rotation(eps), beta

    def mixed(number: int) -> tuple[Setting, TaskChange, float]:
        return mixed_density(d=d, seed=seed + number), Rotation(eps), mixed_beta

    def handwritten(number: int) -> tuple[Setting, TaskChange, float]:
        old = digits(per_class, (0, 1, 2, 3, 4), seed + number)
        new = digits(per_class, (5, 6, 7, 8, 9), seed + number)
        return old, NewTask(new.patterns), HopfieldMemory(old.patterns, "auto", similarity="dot").beta

    comparisons = []
    for draw in (closed, mixed, handwritten):
        count = len(draw(0)[0].patterns)
        k = max(1, round(share_kept * count))
        comparisons.append(compare_policies(draw, k, draws=draws, replay_share=replay_share, seed=seed))
    return SelectionResult(replay_share, tuple(comparisons))


__all__ = ["KNOWING", "Arm", "Comparison", "SelectionResult", "compare_policies", "reproduce_selection"]
