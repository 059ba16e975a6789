"""Reserve: samples chosen from what passes by, in one pass and in bounded memory."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.buffer.storage import SampleStore, plain
from hopfield_replay.utilities.distributed import gather_objects, gather_rows, world
from hopfield_replay.utilities.nested import rows, take
from hopfield_replay.utilities.states import DAMAGE, check_mapping

# places of samples without a position begin here: task << 40 | held out << 39 | this | 37 bits of their content; below
# it, from 1 << 38 on, are those of generated samples
PLACE = (1 << 38) + (1 << 37)
_CHUNK = 256  # samples that are read at a time


class Reserve:
    """A uniform choice of the different samples that have passed, each with how often it did.

    The ``capacity`` samples of the smallest numbers stay (see :func:`hopfield_replay.tracker.contents.contents`), so
    that the choice depends on the samples alone: not on their order, on repetitions, on how they came in batches or
    on which process saw them. Up to ``capacity`` different samples all of them stay. Copies are kept, as they came.

    Args:
        capacity: samples that are kept, >= 1.
        folder: where they lie as memory-mapped files; None: in memory.

    Attributes:
        places: (n,) int64, ascending: each sample's place in the task's ids, a function of its content.
        counts: (n,) int64, how often it passed.

    Example:
        >>> from hopfield_replay.tracker.contents import contents
        >>> reserve = Reserve(2)
        >>> for batch in torch.arange(4.0).view(2, 2, 1).repeat(3, 1, 1):
        ...     reserve.add(batch, contents(batch, 2))
        >>> len(reserve), reserve.counts.tolist(), bool(reserve.whole)
        (2, [3, 3], False)
    """

    def __init__(self, capacity: int, folder: str | os.PathLike[str] | None = None) -> None:
        self.capacity = capacity
        self.whole = True  # nothing had to go
        self._store = SampleStore(capacity, folder)
        self.places = torch.empty(0, dtype=torch.int64)
        self.counts = torch.empty(0, dtype=torch.int64)
        self._slots = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.places)

    def add(self, batch: Any, numbers: Tensor) -> None:
        """Let a batch pass.

        Args:
            batch: n samples, any nesting of tensors (n, ...) and lists of n strings.
            numbers: (n,) their content's numbers.

        Raises:
            ValueError, TypeError: samples of another form than those before.
        """
        self._join(batch, PLACE | (numbers >> 26), torch.ones_like(numbers))

    def _join(self, batch: Any, places: Tensor, counts: Tensor) -> None:
        new, index = places.unique(return_inverse=True)
        added = torch.zeros_like(new).index_add_(0, index, counts)
        first = torch.full_like(new, len(places)).scatter_reduce_(0, index, torch.arange(len(places)), "amin")
        at = torch.searchsorted(self.places, new).clamp_(max=max(0, len(self) - 1))
        known = self.places[at] == new if len(self) else torch.zeros(len(new), dtype=torch.bool)
        self.counts[at[known]] += added[known]
        new, added, first = new[~known], added[~known], first[~known]
        if len(self) + len(new) > self.capacity:
            self.whole = False
        every = torch.cat([self.places, new])
        stays = every.argsort()[: self.capacity]
        arrives = stays[stays >= len(self)] - len(self)
        slots = torch.cat([self._slots, torch.full_like(new, -1)])
        if len(arrives):
            occupied = torch.zeros(self.capacity, dtype=torch.bool)
            occupied[self._slots[stays[stays < len(self)]]] = True
            free = (~occupied).nonzero().flatten()[: len(arrives)]
            self._store.put(plain(take(batch, first[arrives])), free)
            slots[len(self) + arrives] = free
        self.places, self.counts, self._slots = every[stays], torch.cat([self.counts, added])[stays], slots[stays]

    def get(self, places: Tensor) -> Any:
        """Copies of the samples at these places.

        Raises:
            ValueError: a place that is not in the reserve.
        """
        at = torch.searchsorted(self.places, places).clamp_(max=max(0, len(self) - 1))
        if not len(self) or not torch.equal(self.places[at], places):
            raise ValueError(f"{places.tolist()[:5]} are no places of samples in this reserve.")
        return self._store.get(self._slots[at])

    def batches(self, places: Tensor) -> Iterator[tuple[Tensor, Any]]:
        """Yield ``(places, samples)`` of these places, a part at a time."""
        for part in places.split(_CHUNK) if len(places) else ():
            yield part, self.get(part)

    def merge(self) -> None:
        """Under torch.distributed: hold every process's samples in every process; counts stay those of this one."""
        if world()[1] == 1 or not any(gather_objects(len(self))):
            return
        self.whole = all(gather_objects(self.whole))
        every = gather_rows(self.places).unique()
        self.whole &= len(every) <= self.capacity
        most = every[: self.capacity]
        mine = self.places[torch.isin(self.places, most)]
        gathered = gather_objects((mine, self.get(mine) if len(mine) else None))
        for places, samples in gathered:
            missing = (~torch.isin(places, self.places)).nonzero().flatten()
            if len(missing):
                self._join(take(samples, missing), places[missing], torch.zeros_like(missing))

    @property
    def totals(self) -> Tensor:
        """(n,) int64, how often each passed in all processes together; after :meth:`merge`."""
        if world()[1] == 1:
            return self.counts
        return gather_rows(self.counts).view(-1, len(self)).sum(0) if any(gather_objects(len(self))) else self.counts

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on, from all processes: tensors and plain Python only."""
        self.merge()
        return {
            "places": self.places,
            "counts": self.totals,
            "whole": self.whole,
            "samples": self._store.get(self._slots) if len(self) else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: parts that are missing or do not fit together; nothing has changed then.
        """
        try:
            check_mapping(state, "the reserve")
            places, counts, samples = state["places"].cpu(), state["counts"].cpu(), state["samples"]
            if places.dtype != torch.int64 or places.shape != counts.shape or places.ndim != 1:
                raise ValueError(f"places {tuple(places.shape)} and counts {tuple(counts.shape)}")
            if bool((places.diff() <= 0).any()) or (rows(samples) if samples is not None else 0) != len(places):
                raise ValueError(f"{len(places)} places out of order, or of another number of samples")
            whole = bool(state["whole"])
        except DAMAGE as error:
            raise ValueError(f"The state of what has passed is damaged: {error!r}.") from error
        kept = torch.arange(len(places))[: self.capacity]
        self._store.prepare_refill(take(samples, kept) if len(kept) else None)()
        counts = counts[kept].clone() if world()[0] == 0 else torch.zeros_like(kept)  # they are of all processes
        self.places, self.counts, self._slots = places[kept], counts, kept
        self.whole = whole and len(kept) == len(places)


__all__ = ["PLACE", "Reserve"]
