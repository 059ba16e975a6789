"""TaskSource: the samples of one task, in a fixed order, in batches and again by position."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from hopfield_replay.utilities.checks import check_loader
from hopfield_replay.utilities.distributed import world
from hopfield_replay.utilities.nested import concatenate, identity, rows, take


class TaskSource:
    """Reads the data set behind a loader in order, whatever order the loader trains in.

    A DataLoader over a map-style data set is read by index: its collate function, workers and batch size are used, its
    sampler is not. Any other iterable of batches is read as it comes, and must come in the same order every time.

    Args:
        loader: a DataLoader, or a re-iterable object that yields batches.
        prepare: what happens to a batch on its way to the model (device, scaling); what is kept is not prepared.
        limit: read only the first ``limit`` batches (a quick trial run).

    Raises:
        TypeError: an object that cannot be iterated, or an iterator that can be read only once.

    Example:
        >>> source = TaskSource(DataLoader(torch.arange(5.0)[:, None], batch_size=2, shuffle=True))
        >>> [at.tolist() for at, _ in source.batches()]
        [[0, 1], [2, 3], [4]]
        >>> source.fetch(torch.tensor([4, 1])).flatten()
        tensor([4., 1.])
    """

    def __init__(
        self, loader: Iterable[Any], *, prepare: Callable[[Any], Any] = identity, limit: int | None = None
    ) -> None:
        check_loader(loader)
        self.prepare = prepare
        self.loader = loader
        self.limit = limit
        self.by_index = (
            isinstance(loader, DataLoader)
            and not isinstance(loader.dataset, IterableDataset)
            and loader.batch_sampler is not None
        )

    def batches(self) -> Iterator[tuple[Tensor, Any]]:
        """Yield ``(positions, batch)``; under torch.distributed each rank reads its share of a map-style data set."""
        rank, size = world()
        if not self.by_index:
            if size > 1:
                raise ValueError(
                    f"{type(self.loader).__name__} cannot be split over {size} processes; measure tasks from a "
                    "DataLoader over a map-style data set."
                )
            start = 0
            for number, batch in enumerate(self.loader):
                if number == self.limit:
                    return
                count = rows(batch)
                yield torch.arange(start, start + count), batch
                start += count
            return
        share = torch.arange(self._length())[rank::size]
        step = self._batch_size()
        for start, batch in zip(range(0, len(share), step), self._read(share), strict=True):
            yield share[start : start + step], batch

    def fetch(self, positions: Tensor) -> Any:
        """The samples at these positions, in this order."""
        if self.by_index:
            parts = list(self._read(positions))
        else:
            found: dict[int, Any] = {}
            wanted = set(positions.tolist())
            for at, batch in self.batches():
                for row in [i for i, position in enumerate(at.tolist()) if position in wanted]:
                    found[int(at[row])] = take(batch, torch.tensor([row]))
            parts = [found[position] for position in positions.tolist()]
        result = parts[0]
        for part in parts[1:]:
            result = concatenate(result, part)
        return result

    def _batch_size(self) -> int:
        return getattr(self.loader, "batch_size", None) or 64

    def _length(self) -> int:
        length = len(self.loader.dataset)  # type: ignore[attr-defined]
        return length if self.limit is None else min(length, self.limit * self._batch_size())

    def _read(self, positions: Tensor) -> Iterable[Any]:
        assert isinstance(self.loader, DataLoader)
        return DataLoader(
            Subset(self.loader.dataset, positions.tolist()),
            batch_size=self._batch_size(),
            shuffle=False,
            num_workers=self.loader.num_workers,
            collate_fn=self.loader.collate_fn,
            worker_init_fn=self.loader.worker_init_fn,
            multiprocessing_context=self.loader.multiprocessing_context,
            generator=torch.Generator(),  # reading must not move the global generator that the training draws from
        )
