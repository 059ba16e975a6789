"""ReplayPlan: what replaying some of the old samples would protect of all of them."""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hopfield_replay.functional import (
    PatternTiles,
    Selection,
    StreamedAffinity,
    far_task_energy,
    greedy_replay_gain,
    predicted_rises,
    replay_mass,
    rise_weights,
)
from hopfield_replay.functional.affinity import matrix_or_streamed
from hopfield_replay.functional.many import energies_of
from hopfield_replay.functional.rows import Matrix, picked
from hopfield_replay.memory.readings import spread_indices
from hopfield_replay.policies.candidates import Candidates

TAIL = 0.1  # share of the targets that count as the worst
TARGETS = 2048  # old samples whose protection is counted, spread evenly over the set


class ReplayPlan:
    """Protected energies of replay sets out of the old samples.

    Args:
        known: all old samples; where their ``next_energies`` are None the new data is unknown, and counts as a far
            task.
        replay_ratio: share of each batch that would be replayed, in (0, 1).
        among: (C,) positions of those that may be replayed; None: all.
        most: at most this many of the old samples are counted, spread evenly.
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
        most: int = TARGETS,
        near: Matrix | None = None,
    ) -> None:
        self._known = known
        self._replay_ratio = replay_ratio
        self.targets = spread_indices(len(known), most)
        self._near = known.rows if near is None else near
        self._vectors = known.vectors[self.targets]
        if known.next_energies is not None:
            self._next = known.next_energies[self.targets]
            self.risk = self._next - known.energies[self.targets]
            self.importance = rise_weights(predicted_rises(known.energies[self.targets], self._next), floor=0.0)
        else:
            self.risk = known.energies[self.targets]
            self.importance = torch.ones_like(self.risk)
            if known.similarity == "distance":
                self._next = torch.full_like(self.risk, far_task_energy(known.vectors))
            else:  # unit-norm patterns of an unrelated task have <x, xi> about 0
                self._next = 0.5 * self._vectors.to(torch.float64).square().sum(1)
        candidates = self._near if among is None else picked(self._near, among.to(self._near.device))
        self._arguments = (self._vectors.to(self._near.device), candidates, self._next, known.beta)
        self.tail = self.risk.argsort(descending=True, stable=True)[: max(1, round(TAIL * len(self.targets)))]

    def greedy(self, size: int, *, by_rise: bool = False, tighten: int = 0) -> Selection:
        """The greedy set of this size, its ``indices`` into those that may be replayed.

        Args:
            size: from 1 to C.
            by_rise: whether what is protected counts by its ``importance``.
            tighten: steps on its certificate.
        """
        return greedy_replay_gain(
            self._unit * replay_mass(size, self._replay_ratio),
            size,
            importance=self.importance if by_rise else None,
            risk=self.risk.nan_to_num(posinf=torch.finfo(torch.float64).max),
            tail_share=TAIL,
            beta=self._known.beta,
            tighten=tighten,
        )

    def protected(self, chosen: Tensor | None) -> Tensor:
        """Energy (n,) that keeping the old samples at these positions protects of each target; None: all of them."""
        kept = self._near if chosen is None else self._near[chosen.to(self._near.device)]
        mass = replay_mass(len(kept), self._replay_ratio)
        masses = torch.full((len(kept),), mass, dtype=torch.float64, device=kept.device)
        replayed = energies_of(
            self._vectors,
            PatternTiles.of_rows(kept, masses),
            self._known.beta,
            similarity=self._known.similarity,
            normalize=False,
        )
        return softplus(self._known.beta * (self._next - replayed), threshold=700.0) / self._known.beta

    @cached_property
    def _unit(self) -> Tensor | StreamedAffinity:
        """Affinities of mass 1; as a matrix they lie in memory, where the many small steps of the choice are fast."""
        rows = StreamedAffinity(*self._arguments, masses=1.0, similarity=self._known.similarity)
        return matrix_or_streamed(rows, elements=None, narrow=True, place=self._vectors.device)
