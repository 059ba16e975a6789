"""Gate: which groups of samples got worse by more than is allowed, with one error rate for all of them together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional.hypotheses import holm, student_tail
from hopfield_replay.utilities.tables import text_table
from hopfield_replay.utilities.text import printable

_NOISE = 1e-12  # of the errors: differences below are of rounding


@dataclass(frozen=True)
class GroupTest:
    """One group of a gate.

    Attributes:
        name: of the group.
        samples: how many.
        relative: mean rise over the mean error before.
        chance: p-value of "its true relative rise is at most the threshold".
        adjusted: that, corrected for the number of groups.
        fails: whether it is at most the gate's level.

    Example:
        >>> GroupTest("class cat", 20, 0.3, 0.0001, 0.005, True).fails
        True
    """

    name: str
    samples: int
    relative: float
    chance: float
    adjusted: float
    fails: bool


@dataclass(frozen=True)
class Gate:
    r"""Whether two versions of a model differ by more than a threshold, beyond doubt, on any of several groups.

    A group fails if the hypothesis that its true mean of :math:`e^{new} - (1 + \theta) e^{old}` is not positive is
    rejected: a one-sided t-test over its samples, also corrected for their skewness and for that of all groups
    together, adjusted by Holm's method over all groups. If no group's true relative rise is above the threshold, the
    chance that any group fails (the family-wise error) is at most the level, whatever the number of groups and however
    they overlap. The samples are taken as independent draws from what they stand for.

    Where a few samples improve far more than any gets worse, a small group often shows none of these, and the
    others seem to prove a rise. How skewed such excesses are is seen over all groups, each relative to its mean error
    before. That needs many samples in all and some in each group: of 1000 audits of 50 equally good groups with
    exponential gains, 32 % failed of groups of 20 without this correction and 0.1 % with it (power against a rise of
    60 %: 89 %, both), but 5 to 24 % still of groups of 5; with gains as rare and large as those of a log-normal
    distribution 9 % of groups of 20, and 61 % of groups of 5.

    Source: Holm (1979); Hall, Journal of the Royal Statistical Society B 54 (1992) 221-228 (skewness).

    Attributes:
        threshold: allowed relative rise.
        level: chance of a false alarm.
        groups: the tests, the surest first.
        untested: groups of fewer than two samples, of which nothing can be said.

    Example:
        >>> import torch
        >>> old = torch.ones(40)
        >>> noise = 0.1 * torch.randn(40, generator=torch.Generator().manual_seed(0))
        >>> new = old + noise + torch.tensor([0.5] * 20 + [0.0] * 20)
        >>> gate = Gate.of(old, new, {"cat": range(20), "dog": range(20, 40)}, 0.1)
        >>> gate.failing, gate.passed
        (('cat',), False)
    """

    threshold: float
    level: float
    groups: tuple[GroupTest, ...]
    untested: tuple[str, ...]

    @classmethod
    def of(
        cls,
        old: Tensor,
        new: Tensor,
        groups: Mapping[str, Sequence[int]],
        threshold: float,
        level: float = 0.05,
    ) -> "Gate":
        """Test every group.

        Args:
            old: (n,) error of each sample before, or whatever the rise is relative to.
            new: (n,) after.
            groups: positions of the samples of each group.
            threshold: allowed relative rise, 0.1 for ten per cent.
            level: chance of a false alarm, in (0, 1).

        Raises:
            ValueError: a threshold or level that is no such number; no group of two samples.
        """
        if math.isnan(threshold) or threshold < -1:
            raise ValueError(f"the threshold must be a number of at least -1, got {threshold}.")
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1), got {level}.")
        before, after = old.double().cpu(), new.double().cpu()
        members = {name: list(rows) for name, rows in groups.items()}
        tested = {name: rows for name, rows in members.items() if len(rows) > 1}
        if not tested:
            raise ValueError(
                f"A gate needs at least two samples in a group, and {list(members)[:5]} have fewer; give more samples."
            )
        whole = after - (1 + threshold) * before
        shared = _shared_skewness(whole, before, tested.values())
        chances = [_chance(whole[rows], float(before[rows].abs().max()), shared) for rows in tested.values()]
        tests = [
            GroupTest(
                name, len(rows), _relative(before[rows], after[rows]), chance, adjusted, adjusted <= level
            )
            for (name, rows), chance, adjusted in zip(tested.items(), chances, holm(chances), strict=True)
        ]  # fmt: skip
        tests.sort(key=lambda one: (one.adjusted, -one.relative))
        return cls(threshold, level, tuple(tests), tuple(name for name in members if name not in tested))

    @property
    def failing(self) -> tuple[str, ...]:
        """Names of the groups that got worse."""
        return tuple(one.name for one in self.groups if one.fails)

    @property
    def passed(self) -> bool:
        """Whether none did."""
        return not self.failing

    def verdict(self) -> str:
        """The outcome in a line."""
        listed = ", ".join(f"{printable(one.name)} ({one.relative:+.1%})" for one in self.groups if one.fails)
        rule = (
            f"relative rise above {self.threshold:.1%} in {listed or 'no group'}; {len(self.groups)} groups, "
            f"false-alarm rate of all together {self.level:.1%}"
        )
        return f"{'passed' if self.passed else 'FAILED'}: {rule}"

    def rows(self) -> list[list[str]]:
        """Cells of its table: group, samples, relative rise, p-value, adjusted p-value, outcome."""
        tested = [
            [printable(one.name), str(one.samples), f"{one.relative:+.1%}", f"{one.chance:.2g}", f"{one.adjusted:.2g}",
             "FAILED" if one.fails else "passed"]
            for one in self.groups
        ]  # fmt: skip
        return [*tested, *([printable(name), "< 2", "", "", "", "not tested"] for name in self.untested)]

    def table(self) -> str:
        """All groups as text."""
        return text_table(GATE_HEADERS, self.rows())


GATE_HEADERS = ("group", "samples", "relative rise", "p", "adjusted p", "outcome")


def _relative(old: Tensor, new: Tensor) -> float:
    before, rise = float(old.mean()), float((new - old).mean())
    return 0.0 if rise == 0 else rise / before if before else math.inf


def _shared_skewness(excess: Tensor, before: Tensor, groups: Iterable[Sequence[int]]) -> float:
    """Skewness of the excess over all groups, less one standard error, where that is to the left; else 0.

    Each sample's deviation is from the mean of the smallest group that it is in, relative to the mean error there.
    """
    found: dict[int, tuple[float, int]] = {}
    for rows in sorted((rows for rows in groups if len(rows) > 2), key=len, reverse=True):
        size = float(before[rows].mean())
        deviations = (excess[rows] - excess[rows].mean()) / (size or 1.0)
        found.update(zip(rows, ((value, len(rows)) for value in deviations.tolist()), strict=True))
    if not found:
        return 0.0
    deviation, count = torch.tensor(list(found.values()), dtype=torch.float64).T
    second = (deviation.square() * count / (count - 1)).mean()
    if float(second) <= _NOISE**2:
        return 0.0
    third = (deviation.pow(3) * count**2 / ((count - 1) * (count - 2))).mean()
    skew = float(third / second**1.5)
    z = deviation * (count / (count - 1)).sqrt() / second.sqrt()
    influence = z.pow(3) - 3 * z - 1.5 * skew * (z.square() - 1)
    return min(skew + float(influence.std()) / math.sqrt(len(z)), 0.0)


def _chance(excess: Tensor, size: float, shared: float) -> float:
    """One-sided p-value of the hypothesis that the mean is not positive: of t, or of t corrected for skewness.

    The largest of t's, of that corrected for the group's own skewness and for what all groups share: t alone is sure
    too early where a few samples improve far more than any gets worse, and a small group may show none of these.
    """
    count, mean, spread = len(excess), float(excess.mean()), float(excess.std())
    if spread <= _NOISE * size:
        return 0.0 if mean > _NOISE * size else 1.0
    share = mean / spread
    chance = student_tail(math.sqrt(count) * share, count - 1)
    if count < 3:
        return chance
    skew = float(((excess - mean) / spread).pow(3).sum()) * count / ((count - 1) * (count - 2))
    return max(chance, _corrected(share, skew, count), _corrected(share, shared, count))


def _corrected(share: float, skew: float, count: int) -> float:
    """p-value of t with Hall's correction for a skewness."""
    corrected = share + skew * share**2 / 3 + skew**2 * share**3 / 27 + skew / (6 * count)
    return student_tail(math.sqrt(count) * corrected, count - 1)


__all__ = ["GATE_HEADERS", "Gate", "GroupTest"]
