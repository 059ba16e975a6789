"""TaskSource: the samples that a task's loader yields, in batches and again by position."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hopfield_replay.tracker.contents import contents
from hopfield_replay.tracker.passed import Passed
from hopfield_replay.tracker.positions import Positions, loader_positions
from hopfield_replay.tracker.reserve import PLACE
from hopfield_replay.utilities.checks import check_integer, check_loader
from hopfield_replay.utilities.distributed import gather_objects, raise_on_all_ranks, warn_once, world
from hopfield_replay.utilities.nested import concatenate, identity, map_leaves, rows, shaped_like, take
from hopfield_replay.utilities.random_states import OwnRandomness

_FEW = 8  # samples that are looked at to tell whether data is random, or has changed


@dataclass(frozen=True, eq=False)
class Few:
    """A few of a task's samples.

    Attributes:
        positions: (m,) int64.
        batch: the samples.
        numbers: (m,) int64 of their contents, read under the same random numbers each time.
        random: they are others under other random numbers.
    """

    positions: Tensor
    batch: Any
    numbers: Tensor
    random: bool


class TaskSource:
    """A task is what its loader yields: the positions that its sampler draws, or the batches of a stream.

    A DataLoader over a map-style data set is read by position: its sampler (or batch sampler) says which, and its
    collate function, workers and batch size are used. So is a list of batches. Any other iterable of batches is read as
    it comes. Random numbers are drawn from none that the training uses.

    Where which samples are trained on can be told only from the batches (a random part of the data, a stream), whoever
    trains says ``watched=True`` and reports them by :meth:`passed`: what was read and did not pass does not count then,
    and what passed without having been read is chosen from, as it passes, in bounded memory. Nobody needs to report
    where the loader's sampler yields the same samples in every epoch, and all of them are trained on.

    Args:
        loader: a DataLoader, or a re-iterable object that yields batches.
        prepare: what happens to a batch on its way to the model (device, scaling); what is kept is not prepared.
        limit: only the first ``limit`` batches of an epoch are trained on.
        total: batches of all epochs together, where it is known: so few that they are not worth reading all data for
            are chosen from as they pass.
        watched: every batch that is trained on will be reported.
        reserve: samples of a stream that are chosen from, at most.
        scratch: folder for them, as memory-mapped files; None: in memory.

    Raises:
        TypeError: an object that cannot be iterated, or an iterator that can be read only once.
        ValueError: reserve below 1; on use: a sampler that fails, or draws positions that the data set does not have.

    Example:
        >>> from torch.utils.data import SubsetRandomSampler
        >>> data = torch.arange(9.0)[:, None]
        >>> source = TaskSource(DataLoader(data, batch_size=2, sampler=SubsetRandomSampler([8, 1, 5])))
        >>> [at.tolist() for at, _ in source.batches()]
        [[1, 5], [8]]
        >>> source.fetch(torch.tensor([8, 1])).flatten()
        tensor([8., 1.])
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        prepare: Callable[[Any], Any] = identity,
        limit: int | None = None,
        total: int | None = None,
        watched: bool = False,
        reserve: int = 4096,
        scratch: str | os.PathLike[str] | None = None,
    ) -> None:
        check_loader(loader)
        check_integer(reserve, "reserve", 1)
        self.loader = loader
        self.prepare = prepare
        self.limit = limit
        self.total = total
        self.watched = watched
        self._passed = Passed(reserve, scratch)
        self._form: Any = None
        self._size_at_first = self._size()
        self._shrank = False

    def ready(self, batch: Any) -> Any:
        """A batch as the model gets it."""
        return self.prepare(self.shaped(batch))

    def shaped(self, batch: Any) -> Any:
        """A batch as the loader yields it, where it was kept as plain Python."""
        return batch if self._form is None else shaped_like(self._form, batch)

    def note_form(self, batch: Any) -> None:
        """Remember the containers of the loader's batches."""
        if self._form is None:
            self._form = map_leaves(_first_row, batch)

    @cached_property
    def positions(self) -> Positions | None:
        """What the loader draws from; None for a stream."""
        if isinstance(self.loader, Sequence):
            every = sum(rows(batch) for batch in self.loader)
            return Positions(torch.arange(sum(self._sizes)), without_limit=torch.arange(every))
        return loader_positions(self.loader, self.limit)

    @cached_property
    def _sizes(self) -> list[int]:
        """Samples in each batch of a list."""
        return [rows(batch) for batch in list(self.loader)[: self.limit]]

    @cached_property
    def few(self) -> Few | None:
        """A few of the samples, evenly spread over the positions; None for a stream."""
        if self.positions is None or not len(self.positions.values):
            return None
        values = self.positions.every
        chosen = values[torch.linspace(0, len(values) - 1, min(_FEW, len(values))).long()]
        with raise_on_all_ranks("reading a few samples"):
            reads = [self._whole(chosen, seed) for seed in (0, 1)]
            numbers = [contents(batch, len(chosen)) for batch in reads]
        self.note_form(reads[0])
        random = any(gather_objects(not torch.equal(*numbers)))
        return Few(chosen, reads[0], numbers[0], random)

    def some(self) -> Any:
        """A few samples that are at hand: of the positions, or of what has passed; None if there are none yet."""
        if self.few is not None:
            return self.few.batch
        reserve = self._passed.reserve
        return reserve.get(reserve.places[:_FEW]) if len(reserve) else None

    @cached_property
    def ahead(self) -> bool:
        """Whether the samples can be read before they are trained on."""
        positions = self.positions
        if positions is None:
            return not self.watched
        if positions.certain or not self.watched or self.few is None:
            return True
        total = self.limit if self.total is None else self.total
        draws = float("inf") if total is None else total * self._batch_size() * world()[1]
        if (
            self.few.random
        ):  # what passes cannot be recognised; then all that can be drawn counts, if nearly all of it is
            return positions.missed(draws) < 0.5
        return draws >= len(positions.values)

    def expect(self, positions: Tensor, numbers: Tensor) -> None:
        """Remember the contents of samples that were read, to recognise them when they pass."""
        self._passed.expect(positions, numbers)

    @property
    def recognises(self) -> bool:
        """Whether what passes can be told by its content from what was read."""
        return self.watched and self.few is not None and not self.few.random

    @property
    def watches_contents(self) -> bool:
        """Whether batches are looked into as they pass, and not only counted."""
        return self.recognises or not self.ahead

    def passed(self, batch: Any) -> None:
        """Report a batch that was trained on, as the loader yielded it and without replayed samples.

        Args:
            batch: its samples; beside :class:`~hopfield_replay.ReplayBatches` its ``own``.

        Raises:
            ValueError, TypeError: a source that was made without ``watched=True``; samples of another form than those
                before.
        """
        if not self.watched:
            raise ValueError(
                "This TaskSource counts all that its loader yields as trained on; for one that counts what passes, "
                "make it before begin_task() with TaskSource(loader, watched=True)."
            )
        self.note_form(batch)
        if self.watches_contents:
            self._passed.add(batch, look=self._size() != self._size_at_first)
        else:
            self._passed.batches += 1

    def record(self) -> None:
        """Read a stream once, and choose from it as it passes."""
        with raise_on_all_ranks("reading the stream"):
            for number, batch in enumerate(_own(self.loader, 0)):
                if number == self.limit:
                    break
                self.note_form(batch)
                self._passed.add(batch)

    def trained(self) -> tuple[Tensor, Tensor | None]:
        """Positions (n,) of the samples that were trained on, ascending, and how often (n,), None: equally often.

        Of a stream they are the places of those samples that were chosen.

        Raises:
            ValueError: a stream of which nothing has passed.
        """
        if self.positions is None and not self.watched and not self._passed.batches:
            self.record()
        self._passed.merge()
        reserve = self._passed.reserve
        positions = None if self.positions is None or not self.ahead else self.positions
        if positions is None:
            counts = reserve.totals
            even = bool((counts == counts[:1]).all())
            return reserve.places, None if even else counts.to(torch.float64)
        values, masses = positions.values, positions.masses
        passed = self._passed.positions() if self._passed.batches and self.recognises else None
        if passed is not None:
            stays = torch.isin(values, passed)
            values, masses = values[stays], None if masses is None else masses[stays]
        if (size := self._size()) is not None and bool((values >= size).any()):
            self._say_it_shrank(size)
            stays = values < size
            values, masses = values[stays], None if masses is None else masses[stays]
        if len(reserve):
            return torch.cat([values, reserve.places]), None
        return values, masses

    def batches(self, positions: Tensor | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yield ``(positions, batch)``; under torch.distributed each rank reads its share.

        Args:
            positions: which; None: all that the loader draws from, or a stream as it comes, counted from 0.
        """
        rank, size = world()
        if positions is None:
            if self.positions is None:
                yield from self._stream(size)
                return
            positions = self.positions.values
        share = positions[rank::size]
        inside = share[share < PLACE]
        if len(inside):
            yield from self._read(inside, 0)
        yield from self._passed.reserve.batches(share[share >= PLACE])

    def fetch(self, positions: Tensor) -> Any:
        """The samples at these positions, in this order."""
        if self.positions is None and not bool((positions >= PLACE).any()):
            return self._fetch_stream(positions)
        inside = (positions < PLACE).nonzero().flatten()
        beside = (positions >= PLACE).nonzero().flatten()
        parts = [self._whole(positions[inside], 0)] if len(inside) else []
        if len(beside):
            parts.append(self._passed.reserve.get(positions[beside]))
        return take(_joined(parts), torch.cat([inside, beside]).argsort()) if len(beside) else _joined(parts)

    def state_dict(self) -> dict[str, Any]:
        """What has passed so far: tensors and plain Python only."""
        return self._passed.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what has passed.

        Raises:
            ValueError: a damaged state.
        """
        self._passed.load_state_dict(state)

    def _stream(self, size: int) -> Iterator[tuple[Tensor, Any]]:
        if size > 1:
            raise ValueError(
                f"{type(self.loader).__name__} cannot be split over {size} processes; measure tasks from a "
                "DataLoader over a map-style data set."
            )
        start = 0
        for number, batch in enumerate(_own(self.loader, 0)):
            if number == self.limit:
                return
            count = rows(batch)
            yield torch.arange(start, start + count), batch
            start += count

    def _fetch_stream(self, positions: Tensor) -> Any:
        samples: dict[int, Any] = {}
        wanted = set(positions.tolist())
        for at, batch in self.batches():
            for row in [i for i, position in enumerate(at.tolist()) if position in wanted]:
                samples[int(at[row])] = take(batch, torch.tensor([row]))
        return _joined(samples[position] for position in positions.tolist())

    def _size(self) -> int | None:
        """Samples in the data set now; None where it does not say."""
        try:
            return len(self.loader.dataset)  # type: ignore[attr-defined]
        except (AttributeError, TypeError, NotImplementedError):
            return None

    def _say_it_shrank(self, size: int) -> None:
        if not self._shrank:
            self._shrank = True
            warn_once(
                f"The data set ({type(getattr(self.loader, 'dataset', None)).__name__}) has shrunk from "
                f"{self._size_at_first} to {size} samples while it was trained on: what is gone can neither be "
                "measured nor kept. Let it be as it is until the task has ended."
            )

    def _batch_size(self) -> int:
        return getattr(self.loader, "batch_size", None) or 64

    def _read(self, positions: Tensor, seed: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield ``(positions, batch)`` of the samples at these positions, in this order."""
        step = self._batch_size()
        if isinstance(self.loader, DataLoader):
            yield from zip(positions.split(step), _own(_like(self.loader, positions, step, seed), seed), strict=True)
            return
        ends = torch.tensor(self._sizes).cumsum(0)
        loader: Any = self.loader
        numbers = torch.searchsorted(ends, positions, right=True)
        lengths = numbers.unique_consecutive(return_counts=True)[1].tolist()
        for number, part in zip(numbers.unique_consecutive().tolist(), positions.split(lengths), strict=True):
            yield part, take(loader[number], part - (ends[number] - self._sizes[number]))

    def _whole(self, positions: Tensor, seed: int) -> Any:
        return _joined(batch for _, batch in self._read(positions, seed))


def _like(loader: DataLoader[Any], positions: Tensor, step: int, seed: int) -> DataLoader[Any]:
    """A loader of the same data set that yields these positions in order."""
    workers = loader.num_workers if len(positions) > step else min(1, loader.num_workers)
    settings: dict[str, Any] = {"prefetch_factor": loader.prefetch_factor, "timeout": loader.timeout} if workers else {}
    batching: dict[str, Any] = {"batch_size": step, "sampler": positions.tolist()}
    if loader.batch_sampler is None:  # a data set that reads many positions in one call
        batching = {"batch_size": None, "sampler": [part.tolist() for part in positions.split(step)]}
    return DataLoader(
        loader.dataset,
        **batching,
        num_workers=workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
        generator=torch.Generator().manual_seed(seed),
        **settings,
    )


def _first_row(_: str, leaf: Any) -> Any:
    return leaf[:1].clone() if isinstance(leaf, Tensor) and leaf.ndim else leaf


def _own(batches: Iterable[Any], seed: int) -> Iterator[Any]:
    """The same batches, made under random numbers of their own."""
    randomness = OwnRandomness(seed)
    with randomness:
        iterator = iter(batches)
    while True:
        try:
            with randomness:
                batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "equal size" in str(error):  # torch's default collate function
                raise ValueError(
                    "Samples of several sizes cannot be read in one batch "
                    f"({str(error).strip().splitlines()[-1]}). Resize or crop them to one size in the data set's "
                    "transform."
                ) from error
            raise
        yield batch


def _joined(parts: Iterable[Any]) -> Any:
    remaining = iter(parts)
    result = next(remaining)
    for part in remaining:
        result = concatenate(result, part)
    return result
