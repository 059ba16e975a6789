"""Gate: which groups of samples got worse by more than is allowed, with one error rate for all of them together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    rejected: a one-sided t-test over its samples, also corrected for their skewness, adjusted by Holm's method over all
    groups. If no group's true relative rise is above the threshold, the chance that any group fails (the family-wise
    error) is at most the level, whatever the number of groups and however they overlap. The samples are taken as
    independent draws from what they stand for, and their excess as not strongly skewed to the left: where a few samples
    improve far more than any gets worse, groups of fewer than about 100 samples are called worse too often (of 50
    groups of 20 with exponential gains one in 15 % of the audits; the rarer and larger the gains, the more often, up to
    always).

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
        chances = []
        for rows in tested.values():
            excess = after[rows] - (1 + threshold) * before[rows]
            chances.append(_chance(excess, float(before[rows].abs().max())))
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


def _chance(excess: Tensor, size: float) -> float:
    """One-sided p-value of the hypothesis that the mean is not positive: of t, or of t corrected for skewness.

    The larger of both: t alone is sure too early where a few samples improve far more than any gets worse.
    """
    count, mean, spread = len(excess), float(excess.mean()), float(excess.std())
    if spread <= _NOISE * size:
        return 0.0 if mean > _NOISE * size else 1.0
    share = mean / spread
    chance = student_tail(math.sqrt(count) * share, count - 1)
    if count < 3:
        return chance
    skew = float(((excess - mean) / spread).pow(3).sum()) * count / ((count - 1) * (count - 2))
    corrected = share + skew * share**2 / 3 + skew**2 * share**3 / 27 + skew / (6 * count)
    return max(chance, student_tail(math.sqrt(count) * corrected, count - 1))


__all__ = ["GATE_HEADERS", "Gate", "GroupTest"]
