"""Passed: which samples were trained on, told from the batches themselves."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.tracker.contents import contents
from hopfield_replay.tracker.reserve import Reserve
from hopfield_replay.utilities.distributed import gather_objects, gather_rows
from hopfield_replay.utilities.nested import rows, take
from hopfield_replay.utilities.states import DAMAGE, check_mapping, check_whole


class Passed:
    """Watches the batches that a model is trained on.

    Samples that were read before are recognised by their content and marked; copies of all others are chosen for a
    :class:`~hopfield_replay.tracker.reserve.Reserve`. Once every sample that was read has been marked, and nothing else
    has come, batches are only counted.

    Args:
        capacity: of the reserve.
        folder: of the reserve.

    Attributes:
        batches: how many have passed.
        reserve: what was not read before.

    Example:
        >>> passed = Passed(10)
        >>> data = torch.arange(6.0)[:, None]
        >>> passed.expect(torch.arange(5), contents(data[:5], 5))
        >>> passed.add(data[[4, 1, 5]])
        >>> passed.positions(), len(passed.reserve)
        (tensor([1, 4]), 1)
    """

    def __init__(self, capacity: int, folder: str | os.PathLike[str] | None = None) -> None:
        self.batches = 0
        self.reserve = Reserve(capacity, folder)
        self._positions: Tensor | None = None  # of the samples that were read, in the order of their numbers
        self._numbers = torch.empty(0, dtype=torch.int64)
        self._seen = torch.empty(0, dtype=torch.bool)
        self._restored: Tensor | None = None
        self._all = False

    @property
    def expects(self) -> bool:
        """Whether samples were read that are recognised."""
        return self._positions is not None

    def expect(self, positions: Tensor, numbers: Tensor) -> None:
        """Recognise these samples.

        Args:
            positions: (n,) of samples that were read.
            numbers: (n,) of their contents.
        """
        order = numbers.argsort(stable=True)
        seen = torch.full((len(numbers),), self._all)
        if self._positions is not None:  # they were read again
            self._restored = self._positions[self._seen]
        if self._restored is not None:  # a resumed task: what had passed, by position
            seen = torch.isin(positions, self._restored)
        self._positions, self._numbers, self._seen = positions[order], numbers[order], seen[order]

    def add(self, batch: Any, *, look: bool = False) -> None:
        """Note a batch that was trained on.

        Args:
            batch: its samples.
            look: at them even where all that was read has passed, because the data has changed since.

        Raises:
            ValueError, TypeError: samples of another form than those before.
        """
        self.batches += 1
        if self.expects and not look and not len(self.reserve) and bool(self._seen.all()):
            return
        count = rows(batch)
        numbers = contents(batch, count)
        known = torch.zeros(count, dtype=torch.bool)
        if len(self._numbers):
            first = torch.searchsorted(self._numbers, numbers)
            last = torch.searchsorted(self._numbers, numbers, right=True)
            known = last > first
            for low, high in zip(first[known].tolist(), last[known].tolist(), strict=True):
                self._seen[low:high] = True  # equal samples at several positions
        if not bool(known.all()):
            new = (~known).nonzero().flatten()
            self.reserve.add(take(batch, new), numbers[new])

    def positions(self) -> Tensor | None:
        """Of the samples that were read, those that have passed, ascending; in any process; None: all of them."""
        if self._positions is None:  # a resumed task whose data was not read again
            return self._restored
        seen = gather_rows(self._seen.to(torch.uint8)).view(-1, len(self._seen)).amax(0).bool()
        return self._positions[seen].sort().values

    def merge(self) -> None:
        """Under torch.distributed: hold what every process has seen in every process."""
        self.reserve.merge()
        self.batches = max(gather_objects(self.batches))

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on with the task: tensors and plain Python only."""
        seen = self.positions()
        if seen is not None and len(seen) == len(self._seen):
            seen = None  # all of them, and nothing has to be remembered
        return {
            "batches": self.batches,
            "all": seen is None and (self.expects or self._all),
            "positions": seen,
            "reserve": self.reserve.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; positions are recognised once they are expected.

        Raises:
            ValueError: parts that are missing or do not fit together.
        """
        try:
            batches = check_whole(check_mapping(state, "what has passed")["batches"], "batches")
            positions = None if state["positions"] is None else state["positions"].cpu()
            if positions is not None and (positions.dtype != torch.int64 or positions.ndim != 1):
                raise ValueError(f"positions are {positions.dtype} of shape {tuple(positions.shape)}")
            reserve, everything = state["reserve"], bool(state["all"])
        except DAMAGE as error:
            raise ValueError(f"The state of what has passed is damaged: {error!r}.") from error
        self.reserve.load_state_dict(reserve)
        self.batches, self._restored, self._all = batches, positions, everything


__all__ = ["Passed"]
