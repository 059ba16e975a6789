"""The audited samples, task after task."""

from collections.abc import Iterable, Mapping
from operator import length_hint
from typing import Any

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
        self._counts = dict.fromkeys(parts, 0)

    @property
    def count(self) -> int | None:
        """Number of batches, if it is known."""
        lengths = [length_hint(source.loader, -1) for source in self._sources.values()]
        return None if -1 in lengths else sum(lengths)

    def batches(self) -> Iterable[tuple[Tensor, Any]]:
        """Yield ``(ids, batch)``."""
        start = 0
        for name, source in self._sources.items():
            self._counts[name] = 0
            for at, batch in source.batches():
                self._counts[name] += len(at)
                yield start + at, batch
            start += self._counts[name]

    def tasks(self) -> list[Label] | None:
        """Name of the task of each sample, once the batches were read; None without tasks."""
        return [name for name, count in self._counts.items() for _ in range(count)] if self._named else None

    def fetch(self, positions: Tensor) -> Iterable[tuple[Tensor, Any]]:
        """Yield for each task which of the positions are of it, and their samples in that order."""
        start = 0
        for name, source in self._sources.items():
            end = start + self._counts[name]
            mine = ((positions >= start) & (positions < end)).nonzero().flatten()
            if len(mine):
                yield mine, source.fetch(positions[mine] - start)
            start = end


def _batches(data: Data) -> Iterable[Any]:
    return list(data.split(_BATCH)) if isinstance(data, Tensor) else data


__all__ = ["Data", "Sources"]
