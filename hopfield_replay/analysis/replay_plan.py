"""ReplayPlan: what replaying some of the old samples would protect of all of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hopfield_replay.functional import (
    Selection,
    SparseAffinity,
    StreamedAffinity,
    far_task_energy,
    greedy_replay_gain,
    predicted_rises,
    replay_mass,
    rise_weights,
)
from hopfield_replay.functional.affinity import matrix_or_streamed
from hopfield_replay.functional.rows import Matrix, half_squares, picked
from hopfield_replay.functional.set_bounds import AskedBound, tightened, upper_bounds
from hopfield_replay.memory.readings import spread_indices
from hopfield_replay.policies import shortlist
from hopfield_replay.policies.candidates import Candidates

TAIL = 0.1  # share of the targets that count as the worst
_ERROR = 1.0  # of log affinities, in nats: enough to choose by
_TIGHTEN = 10  # steps on a certificate
_ROUNDING = 1e-6  # of the logs of a set's affinities, relative


@dataclass(frozen=True, eq=False)
class Choice:
    """A greedy set of a :class:`ReplayPlan`.

    Attributes:
        selection: the set, its ``indices`` into the samples that may be replayed; its ``upper_bound`` is inf as long
            as nobody has asked for it.
        asked: for a bound on what any set of its size protects; None: ``selection`` has it.
    """

    selection: Selection
    asked: AskedBound | None


class ReplayPlan:
    """Protected energies of replay sets out of the old samples.

    Up to 5792 x 5792 affinities are held. Of more, sets are chosen by the largest affinities of each target (see
    :class:`~hopfield_replay.functional.SparseAffinity`), as many as ``known.memory`` has room for, out of as many
    candidates as these can tell apart (drawn at random; small sets need few). What a set protects, and what no set of
    its size can exceed, is worked out from all affinities of all targets and candidates, a piece at a time.

    Args:
        known: all old samples; where their ``next_energies`` are None the new data is unknown, and counts as a far
            task.
        replay_ratio: share of each batch that would be replayed, in (0, 1).
        among: (C,) positions of those that may be replayed; None: all.
        most: at most this many of the old samples are counted, spread evenly; None: all of them.
        near: the vectors of all old samples where they are compared; None: there where they are.

    Attributes:
        targets: (n,) positions of the old samples that are counted.
        risk: (n,) how badly each of them would fare without replay.
        tail: (m,) places in ``targets`` of the tenth with the highest risk.
        importance: (n,) of each of them by its predicted rise, 1 in the mean; ones where the new data is unknown.
    """

    def __init__(
        self,
        known: Candidates,
        replay_ratio: float,
        *,
        among: Tensor | None = None,
        most: int | None = None,
        near: Matrix | None = None,
    ) -> None:
        self._known = known
        self._replay_ratio = replay_ratio
        self._near = known.rows if near is None else near
        self.targets = torch.arange(len(known)) if most is None else spread_indices(len(known), most)
        self._vectors = self._of(known.rows, self.targets)
        self._energies = known.energies[self.targets]
        if known.next_energies is not None:
            self._next = known.next_energies[self.targets]
            self.risk = self._next - self._energies
            self.importance = rise_weights(predicted_rises(self._energies, self._next), floor=0.0)
        else:
            self.risk = self._energies
            self.importance = torch.ones_like(self.risk)
            if known.similarity == "distance":
                self._next = torch.full_like(self.risk, far_task_energy(known.rows))
            else:  # unit-norm patterns of an unrelated task have <x, xi> about 0
                self._next = half_squares(self._vectors)
        self._among = torch.arange(len(known)) if among is None else among
        self._built: tuple[Tensor, SparseAffinity] | None = None
        self.tail = self.risk.argsort(descending=True, stable=True)[: max(1, round(TAIL * len(self.targets)))]

    def greedy(self, size: int, *, by_rise: bool = False, certified: bool = True) -> Choice:
        """The greedy set of this size, from 1 to C; those of one size after the other share what is worked out.

        Args:
            size: how many.
            by_rise: whether what is protected counts by its ``importance``.
            certified: whether a good bound on all sets of this size will be asked for.
        """
        mass, tighten = self._mass(size), _TIGHTEN if certified else 0
        whole = self._whole
        if whole is not None:
            return Choice(self._chosen(whole * mass, size, by_rise, tighten), None)
        competing, unit = self._largest(size)
        sparse = unit * mass
        found = self._chosen(sparse, size, by_rise, 0)
        weights = self.importance if by_rise else torch.ones_like(self.importance)
        point = tightened(sparse, weights, found.indices, tighten)
        indices = competing[found.indices]
        protected = self.protected(self._among[indices])
        selection = replace(
            found,
            indices=indices,
            protected=protected,
            value=float(weights @ protected),
            mean=float(protected.mean()),
            tail=float(protected[self.tail].mean()),
        )
        if point is not None:
            return Choice(selection, AskedBound(weights, point, size, mass))
        logs = self._known.beta * (1 + _ROUNDING) * protected
        return Choice(selection, AskedBound(weights, logs, size, mass, held=indices))

    def certified(self, choices: Sequence[Choice]) -> list[Selection]:
        """The sets with bounds on what any set of their size protects; all of them for one pass over all affinities."""
        asked = [choice.asked for choice in choices if choice.asked is not None]
        bounds = iter(upper_bounds(self._streamed(self._near), asked) if asked else [])
        return [
            c.selection if c.asked is None else replace(c.selection, upper_bound=next(bounds) / self._known.beta)
            for c in choices
        ]

    def protected(self, chosen: Tensor) -> Tensor:
        """Energy (n,) that keeping the old samples at these positions protects of each target."""
        return self.nested(chosen, [len(chosen)])[0]

    def nested(self, chosen: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """What the first so many of the samples at these positions protect, for each of the rising sizes."""
        logs = self._every.log_sums_of_first(chosen.to(self._near.device), sizes).cpu()
        return [self._worth(some, size) for some, size in zip(logs, sizes, strict=True)]

    def everything(self) -> Tensor:
        """Energy (n,) that keeping all old samples protects of each target, told from their own energies."""
        known, count = self._known, len(self._known)
        own = torch.zeros_like(self._next) if known.similarity == "distance" else -half_squares(self._vectors)
        others = self._energies - math.log(count - 1) / known.beta  # the energies are of a mean over the others
        return self._worth(
            torch.logaddexp(*(known.beta * (self._next - energies) for energies in (others, own))), count
        )

    def _worth(self, log_affinities: Tensor, size: int) -> Tensor:
        """Protected energies from the logs of the affinities of mass 1."""
        return softplus(log_affinities + math.log(self._mass(size)), threshold=700.0) / self._known.beta

    def _mass(self, size: int) -> float:
        return replay_mass(size, self._replay_ratio)

    def _chosen(
        self, affinities: Tensor | StreamedAffinity | SparseAffinity, size: int, by_rise: bool, tighten: int
    ) -> Selection:
        return greedy_replay_gain(
            affinities,
            size,
            importance=self.importance if by_rise else None,
            risk=self.risk.nan_to_num(posinf=torch.finfo(torch.float64).max),
            tail_share=TAIL,
            beta=self._known.beta,
            tighten=tighten,
        )

    @cached_property
    def _every(self) -> StreamedAffinity:
        """Affinities of mass 1 to all old samples."""
        return self._streamed(self._near, torch.arange(len(self._known)))

    def _streamed(self, vectors: Matrix, among: Tensor | None = None) -> StreamedAffinity:
        """Affinities of mass 1 of the targets to those that may be replayed, from the vectors of all old samples."""
        candidates = self._of(vectors, self._among if among is None else among)
        targets = self._of(vectors, self.targets)
        known = self._known
        return StreamedAffinity(targets, candidates, self._next, known.beta, masses=1.0, similarity=known.similarity)

    def _of(self, vectors: Matrix, index: Tensor) -> Matrix:
        """The vectors at these ascending positions; no copy where they are all of them."""
        return vectors if len(index) == len(self._known) else picked(vectors, index.to(vectors.device))

    @cached_property
    def _whole(self) -> Tensor | StreamedAffinity | None:
        """All of them, in memory, where the many small steps of the choice are fast; None: they are too many."""
        if len(self.targets) * len(self._among) > shortlist.MATRIX:
            return None
        rows = self._streamed(self._near)
        return matrix_or_streamed(rows, elements=None, narrow=True, place=self._next.device)

    def _largest(self, size: int) -> tuple[Tensor, SparseAffinity]:
        """Which of those that may be replayed compete for so many places, and the largest affinities to them."""
        known, count = self._known, len(self._among)
        listed, fitting = shortlist.listed_and_competing(len(self.targets), count, size, size, known.memory)
        competing = count
        while competing > fitting:  # halves, so that several sizes share one
            competing = max(-(-competing // 2), size)
        listed = min(listed, competing)
        if self._built is None or len(self._built[0]) != competing or self._built[1].kept < listed:
            self._built = None  # goes before the next one is built
            which = shortlist.drawn(known.keys[self._among], competing)
            among = self._among[which]
            own = torch.full((len(known),), -1).index_copy_(0, among, torch.arange(competing))[self.targets]
            rows = self._streamed(known.rows, among)
            self._built = which, SparseAffinity(rows, listed, own=own, error=_ERROR, device=self._near.device)
        return self._built
