"""The audited samples, task after task."""

from collections.abc import Iterable, Mapping
from operator import length_hint
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.analysis.drift import Label
from hopfield_replay.tracker.source import TaskSource

Data = Tensor | Iterable[Any]
_BATCH = 256  # samples of a tensor that are measured together


class Sources:
    """The samples of all tasks, in one order; ids are their positions in it."""

    def __init__(self, data: Data | Mapping[str, Data]) -> None:
        self._named = isinstance(data, Mapping)
        parts = dict(data) if isinstance(data, Mapping) else {"": data}
        self._sources = {name: TaskSource(_batches(part)) for name, part in parts.items()}
        self._positions: dict[str, list[Tensor]] = {name: [] for name in parts}  # in its data, of all that was read

    @property
    def count(self) -> int | None:
        """Number of batches, if it is known."""
        lengths = [length_hint(source.loader, -1) for source in self._sources.values()]
        return None if -1 in lengths else sum(lengths)

    def batches(self) -> Iterable[tuple[Tensor, Any]]:
        """Yield ``(ids, batch)``."""
        start = 0
        for name, source in self._sources.items():
            self._positions[name] = []
            for at, batch in source.batches():
                self._positions[name].append(at)
                yield torch.arange(start, start + len(at)), batch
                start += len(at)

    def tasks(self) -> list[Label] | None:
        """Name of the task of each sample, once the batches were read; None without tasks."""
        if not self._named:
            return None
        return [name for name, read in self._positions.items() for _ in range(sum(map(len, read)))]

    def fetch(self, ids: Tensor) -> Iterable[tuple[Tensor, Any]]:
        """Yield for each task which of the ids are of it, and their samples in that order."""
        start = 0
        for name, source in self._sources.items():
            positions = torch.cat([torch.arange(0), *self._positions[name]])
            mine = ((ids >= start) & (ids < start + len(positions))).nonzero().flatten()
            if len(mine):
                yield mine, source.fetch(positions[ids[mine] - start])
            start += len(positions)


def _batches(data: Data) -> Iterable[Any]:
    return list(data.split(_BATCH)) if isinstance(data, Tensor) else data


__all__ = ["Data", "Sources"]
