"""Lazy greedy maximisation of a monotone submodular function, and the bound on the optimum that it leaves behind.

Marginal gains only fall as the set grows, so a gain computed earlier bounds the present one from above: only candidates
whose bound still reaches the best present gain are computed again (Minoux, 1978). The set is that of plain greedy.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_BATCH = 32  # bounds computed at a time


class Gains(Protocol):
    """A monotone submodular function of a growing set, seen through its marginal gains."""

    @property
    def candidates(self) -> int:
        """Number of candidates."""
        ...

    @property
    def exact_bounds(self) -> bool:
        """Whether the bounds are the gains themselves."""
        ...

    def bound(self, index: list[int]) -> list[float]:
        """Upper bounds on the present marginal gains, cheaper than the gains or the gains themselves."""
        ...

    def exact(self, index: list[int]) -> list[float]:
        """Present marginal gains."""
        ...

    def add(self, candidate: int) -> None:
        """Put a candidate into the set."""
        ...


@dataclass
class LazyGreedy:
    """Greedy picks so far, and for every other candidate an upper bound on its gain.

    Attributes:
        gains: the function to maximise.
        groups: group of each candidate, counted from 0.
        quotas: picks that each group still may have.
        tie: gains closer than this, relatively, are equal; sums of the same terms in another order differ by less.
        picks: candidates picked, best first.
        values: marginal gain of each pick.
    """

    gains: Gains
    groups: Sequence[int]
    quotas: list[int]
    tie: float = 1e-12

    def __post_init__(self) -> None:
        every = list(range(self.gains.candidates))
        self.picks: list[int] = []
        self.values: list[float] = []
        self._full: list[tuple[float, int]] = []  # entries of groups whose quota is used up
        self._heap = [(-bound, i) for bound, i in zip(self.gains.bound(every), every, strict=True)]
        heapq.heapify(self._heap)
        self._bounded_at = [0] * len(every)  # number of picks at which the bound was last computed

    def run(self, k: int) -> None:
        """Pick k more candidates; of equal gains the candidate with the lowest index."""
        for _ in range(k):
            pick, gain = self._best()
            self.picks.append(pick)
            self.values.append(gain)
            self.quotas[self.groups[pick]] -= 1
            self.gains.add(pick)

    def largest(self, quotas: Sequence[int]) -> float:
        """Sum of the largest bounds on the present gains, ``quotas`` of them in each group."""
        left, total, seen = list(quotas), 0.0, []
        self._heap += self._full
        self._full.clear()
        heapq.heapify(self._heap)
        while self._heap and any(left):
            bound, i = self._heap[0]
            if not left[self.groups[i]]:
                seen.append(heapq.heappop(self._heap))
            elif not self._refresh():
                seen.append(heapq.heappop(self._heap))
                left[self.groups[i]] -= 1
                total -= bound
        for entry in seen:
            heapq.heappush(self._heap, entry)
        return total

    def _best(self) -> tuple[int, float]:
        computed: dict[int, float] = {}
        aside: list[tuple[float, int]] = []
        best, pick = -1.0, -1
        while self._heap and -self._heap[0][0] >= best * (1 - self.tie):
            bound, i = self._heap[0]
            if not self.quotas[self.groups[i]]:
                self._full.append(heapq.heappop(self._heap))
            elif i > pick >= 0 and -bound <= best * (1 + self.tie):
                aside.append(heapq.heappop(self._heap))  # at most a tie, which the lower index wins
            elif not self._refresh():
                heapq.heappop(self._heap)
                computed[i] = -bound if self.gains.exact_bounds else self.gains.exact([i])[0]
                best = max(best, computed[i])
                pick = min(j for j, gain in computed.items() if gain >= best * (1 - self.tie))
        aside += [(-gain, i) for i, gain in computed.items() if i != pick]
        for entry in aside:
            heapq.heappush(self._heap, entry)
        return pick, computed[pick]

    def _refresh(self) -> bool:
        """Compute the topmost bounds again if they are older than the last pick; False if the top one is not."""
        now = len(self.picks)
        old: list[tuple[float, int]] = []
        while self._heap and len(old) < _BATCH and self._bounded_at[self._heap[0][1]] < now:
            old.append(heapq.heappop(self._heap))
        index = [i for _, i in old]
        for (before, i), bound in zip(old, self.gains.bound(index) if index else [], strict=True):
            self._bounded_at[i] = now
            heapq.heappush(self._heap, (max(before, -bound), i))
        return bool(old)
