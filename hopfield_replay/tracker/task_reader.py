"""TaskReader: a task's data as vectors with stable ids, the same in every process."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.buffer.storage import check_one_form, plain
from hopfield_replay.encoders import Columns, ModuleEncoder, as_encoder, vectors_of
from hopfield_replay.functional.patterns import Patterns
from hopfield_replay.functional.rows import Matrix, Rows, joined, picked, placed
from hopfield_replay.functional.shared_rows import SharedRows, is_shared
from hopfield_replay.memory.vector_store import HELD, MEMORY, VectorStore, check_memory
from hopfield_replay.policies.candidates import sample_keys
from hopfield_replay.tracker.contents import contents
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.utilities.device import CPU, check_device, float64_device
from hopfield_replay.utilities.distributed import broadcast, gather_objects, gather_rows, raise_on_all_ranks, world
from hopfield_replay.utilities.progress import track
from hopfield_replay.utilities.random_states import OwnRandomness

_PIECE = 1 << 22  # numbers that are gathered at a time
_TASK_BITS = 40  # sample id = task << 40 | held out << 39 | position
_HELD_OUT = 1 << 39


def sample_ids(task: int, positions: Tensor, *, held_out: bool = False) -> Tensor:
    """Stable ids (n,) of the samples at these positions of a task's data: task << 40 | held out << 39 | position.

    Args:
        task: their task.
        positions: (n,) in the task's data.
        held_out: whether they are of its held-out data.

    Example:
        >>> import torch
        >>> sample_ids(1, torch.tensor([0, 5])) - (1 << 40)
        tensor([0, 5])
    """
    return positions.to(torch.int64) + (task << _TASK_BITS) + (_HELD_OUT if held_out else 0)


@dataclass(frozen=True, eq=False)
class TaskData:
    """All samples of a task, in the order of their positions in its data set.

    Attributes:
        vectors: (n, d) float32, the space of the energies: a tensor, or, of a large task, Rows in files.
        ids: (n,) int64.
        labels: (n,) int64; None if not every batch has them.
        masses: (n,) float64, how often each is trained on, relative to the others; None: equally often.
        device: where they are compared.
    """

    vectors: Matrix
    ids: Tensor
    labels: Tensor | None
    masses: Tensor | None = None
    device: torch.device = CPU

    @cached_property
    def near(self) -> Matrix:
        """The vectors where they are compared."""
        return placed(self.vectors, self.device, spread=is_shared(self.vectors))

    @cached_property
    def patterns(self) -> Patterns:
        """The samples as others are compared with them."""
        return Patterns(self.vectors, self.masses, self.device)

    def away(self) -> "TaskData":
        """The same, with nothing on the device."""
        return replace(self)

    @property
    def positions(self) -> Tensor:
        """(n,) int64, where they are in the task's data."""
        return self.ids & (_HELD_OUT - 1)

    def at(self, index: Tensor) -> "TaskData":
        """The samples at these places (m,)."""
        labels = None if self.labels is None else self.labels[index]
        return TaskData(
            picked(self.vectors, index),
            self.ids[index],
            labels,
            None if self.masses is None else self.masses[index],
            self.device,
        )

    def join(self, other: "TaskData") -> "TaskData":
        """These samples, then the others; what only one side knows is dropped."""
        labels = None if self.labels is None or other.labels is None else torch.cat([self.labels, other.labels])
        ids = torch.cat([self.ids, other.ids])
        return TaskData(joined(self.vectors, other.vectors), ids, labels, device=self.device)


@dataclass(frozen=True, eq=False)
class Followed:
    """Samples of a task that are going to be followed.

    Attributes:
        ids: (m,) int64.
        vectors: (m, d) float32.
        batch: the samples themselves.
    """

    ids: Tensor
    vectors: Tensor
    batch: Any


class TaskReader:
    """Reads tasks; under DDP every process reads its share, and holds that of a task that does not stay in memory.

    Of such a task a choice asks all processes for the same vectors at the same time: they pass by, a piece at a time.

    Args:
        encoder: maps a prepared batch to vectors (n, d); see ForgettingTracker.
        columns: what in a batch is the sample, the label and the condition.
        keeps: samples will be kept, so that all batches must be of one form.
        device: where vectors are compared; None: where they are encoded.
        memory: bytes that a task may take, see :class:`~hopfield_replay.memory.vector_store.VectorStore`.
        scratch: folder for those that do not stay in memory; None: the system's for temporary files.

    Attributes:
        taken: what was taken of the batches, in a line; None before the first.

    Example:
        >>> reader = TaskReader(None)
        >>> data = reader.read(2, TaskSource([torch.ones(3, 1, 4, 4)]))
        >>> data.vectors.shape, data.ids - (2 << 40), data.labels
        (torch.Size([3, 16]), tensor([0, 1, 2]), None)
        >>> reader.taken
        'samples: batch, 1x4x4 in [1, 1]; labels: none; condition: none'
    """

    def __init__(
        self,
        encoder: Callable[[Any], Tensor] | nn.Module | None,
        columns: Columns | None = None,
        *,
        keeps: bool = False,
        device: torch.device | str | None = None,
        memory: int = MEMORY,
        scratch: str | os.PathLike[str] | None = None,
    ) -> None:
        self._given = encoder
        self.memory, self._scratch, self._device = check_memory(memory), scratch, check_device(device)
        self.keeps = keeps
        self.taken: str | None = None
        self._untold = False  # what the samples are: only an encoder of one's own can read the batches
        self._checked: int | None = None
        self.use(columns or Columns())

    def use(self, columns: Columns) -> None:
        """Read with other columns."""
        self.columns = columns
        self.encoder = as_encoder(self._given, columns)

    @property
    def encodes(self) -> bool:
        """Whether the vectors are more than the samples themselves."""
        return self._given is not None

    @property
    def reads_by_functions(self) -> bool:
        """Whether functions of the user's are asked where samples, condition or vectors are."""
        given = self._given is not None and not isinstance(self._given, nn.Module | ModuleEncoder)
        return given or callable(self.columns.samples) or callable(self.columns.condition)

    def encode(self, source: TaskSource, batch: Any) -> Tensor:
        """Vectors (n, d) of a batch as its loader yields it, float32 on the CPU; the training's random numbers stay."""
        with OwnRandomness(0):
            return vectors_of(self.encoder, source.ready(batch)).cpu()

    def read(
        self,
        task: int,
        source: TaskSource,
        positions: Tensor | None = None,
        masses: Tensor | None = None,
        *,
        dimension: int | None = None,
    ) -> TaskData:
        """The samples of a task.

        Args:
            task: its number.
            source: its training data; under DDP this process's share, which may be empty.
            positions: (n,) which of them, ascending; None: all that the loader draws from.
            masses: (n,) of these.
            dimension: of the vectors of earlier tasks, if there were any.

        Raises:
            ValueError: an empty task, NaN or infinite samples (their positions are named), samples of another size;
                batches of which it cannot be told what the samples or the labels are.
            TypeError: an encoder that does not return vectors.
        """
        every = positions is None
        if positions is None:
            positions, masses = _drawn(source)
        none = torch.arange(0)  # a process may hold no sample
        where, labels, bad, numbers = [none], list[Tensor | None]([none]), [none], [none]
        store, size, place = VectorStore(self.memory, self._scratch), None, CPU
        form: Any = None
        extent = (math.inf, -math.inf)
        with raise_on_all_ranks(f"reading task {task}"):
            batches = source.batches() if every and source.positions is not None else source.batches(positions)
            for at, batch in track(batches, f"Reading task {task}"):
                source.note_form(batch)
                with OwnRandomness(0):
                    ready = source.ready(batch)
                    encoded = vectors_of(self.encoder, ready)
                    place, vectors = encoded.device, encoded.cpu()
                if len(vectors) != len(at):
                    whose = "encoder must return a vector for" if self.encodes else "collate_fn must make one sample of"
                    raise ValueError(f"{whose} each sample, got {len(vectors)} for {len(at)}.")
                size = vectors.shape[1]
                dimension = size if dimension is None else dimension
                if vectors.shape[1] != dimension:
                    raise ValueError(
                        f"Task {task} has samples of {vectors.shape[1]} numbers (from position {int(at[0])} of its "
                        f"data), but those before have {dimension}; all need one shape. Resize them, or pass "
                        "encoder=."
                    )
                if form is None:
                    form, taken = batch, self._taken(ready)
                elif self.keeps:
                    check_one_form(form, batch)
                if self.taken is None:
                    extent = self._extent(ready, extent)
                if not bool(vectors.sum().isfinite()):  # else all are: that costs a tenth of looking at each
                    bad.append(at[~torch.isfinite(vectors).all(1)])
                where.append(at)
                store.add(vectors)
                labels.append(self.columns.labels_of(batch, len(at)))
                if every and source.recognises:
                    numbers.append(contents(batch, len(at)))
        # what every rank must come to the same conclusion from
        told = gather_objects((size, all(label is not None for label in labels)))
        sizes = sorted({size for size, _ in told if size is not None})
        if not sizes:
            raise ValueError(f"Task {task} has no training samples: its data set is empty, or its sampler yields none.")
        if len(sizes) > 1:
            raise ValueError(
                f"Task {task} has samples of {' and '.join(map(str, sizes))} numbers; all need one shape. Resize them, "
                "or pass encoder=."
            )
        _refuse(gather_rows(torch.cat(bad)), len(positions), f"Task {task}")
        if self.taken is None:
            lows, highs = zip(*gather_objects(extent), strict=True)
            texts = [text for text in gather_objects(None if form is None else taken) if text is not None]
            self.taken = texts[0].replace(_EXTENT, _range(min(lows), max(highs)))
        own = torch.cat(where)
        order = gather_rows(own).argsort()
        named = None
        if all(labelled for _, labelled in told):
            named = gather_rows(torch.cat(labels))[order]  # type: ignore[arg-type]
        if every and source.recognises:
            source.expect(positions, gather_rows(torch.cat(numbers))[order])
        with raise_on_all_ranks(f"holding task {task}"):
            rows = store.rows() if len(own) else torch.empty(0, sizes[0])
        place = float64_device(place if self._device is None else self._device)
        return TaskData(self._gathered(rows, own), sample_ids(task, positions), named, masses, place)

    def _gathered(self, rows: Matrix, where: Tensor) -> Matrix:
        """The rows of all processes in the order of their positions: few by all of them, many where they were read."""
        counts = gather_objects(len(rows))
        if world()[1] > 1 and 4 * sum(counts) * rows.shape[1] > self.memory // HELD:
            return Rows(SharedRows.of(rows, where))
        if world()[1] > 1:
            step = max(1, (_PIECE // world()[1]) // rows.shape[1])
            store, places = VectorStore(self.memory, self._scratch), []
            for start in range(0, max(counts), step):
                part = slice(start, start + step)
                vectors, at = gather_rows(rows[part]), gather_rows(where[part])
                order = at.argsort()  # each process holds every so manieth one
                places.append(at[order])
                with raise_on_all_ranks("holding what all processes have read"):
                    store.add(vectors[order])
            rows, where = store.rows(), torch.cat(places)
        order = where.argsort()
        return rows if bool((order.diff() == 1).all()) else picked(rows, order)

    def check(self, task: int, source: TaskSource, batch: Any, *, dimension: int | None = None) -> None:
        """Look at a batch that passes: the first one of a task in full, the others for NaN and infinity alone.

        Args:
            task: its number.
            source: its data.
            batch: as the loader yields it.
            dimension: of the vectors of earlier tasks, if there were any.

        Raises:
            ValueError, TypeError: as :meth:`read`.
        """
        if self._checked != task:
            source.note_form(batch)
            with OwnRandomness(0):
                ready = source.ready(batch)
                first = vectors_of(self.encoder, ready).cpu()
            if dimension is not None and first.shape[1] != dimension:
                raise ValueError(
                    f"Task {task} has samples of {first.shape[1]} numbers, but those before have {dimension}; all need "
                    "one shape. Resize them, or pass encoder=."
                )
            self.columns.labels_of(batch, len(first))
            taken = self._taken(ready)
            if self.taken is None:
                self.taken = taken.replace(_EXTENT, _range(*self._extent(ready, (math.inf, -math.inf))))
            bad = (~torch.isfinite(first).all(1)).nonzero().flatten()
            self._checked = task
        else:
            try:
                samples = self.columns.inputs_of(batch)
            except (ValueError, TypeError):  # the batch becomes readable on its way to the model
                return
            bad = (~torch.isfinite(samples).flatten(1).all(1)).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"Task {task} holds NaN or infinite values: in {len(bad)} samples of a batch of its stream (rows "
                f"{bad[:5].tolist()}). Repair or remove them."
            )

    def probes(
        self,
        task: int,
        source: TaskSource,
        ids: Tensor,
        *,
        size: int,
        seed: int,
        held_out: TaskSource | None = None,
    ) -> Followed:
        """A random choice of a task's samples.

        Args:
            task: its number.
            source: its training data.
            ids: of all its training samples.
            size: how many, at most.
            seed: of the choice, which depends on nothing else but the ids.
            held_out: data to choose from in place of the training data.

        Raises:
            ValueError, TypeError: as :meth:`read`.
        """
        positions = ids & (_HELD_OUT - 1)
        if held_out is not None:
            positions, _ = held_out.trained()
            if not len(positions):
                raise ValueError(f"The probe data of task {task} is empty.")
        all_ids = sample_ids(task, positions, held_out=held_out is not None)
        chosen = sample_keys(all_ids, -1 - seed).argsort(descending=True)[:size].sort().values
        read = source if held_out is None else held_out
        batch = fetch(read, positions[chosen])
        with raise_on_all_ranks(f"encoding the probes of task {task}"):
            vectors = self.encode(read, batch)
        _refuse(positions[chosen][~torch.isfinite(vectors).all(1)], len(chosen), f"The probe data of task {task}")
        return Followed(all_ids[chosen], vectors, plain(batch))

    def _taken(self, ready: Any) -> str:
        """What is taken of a batch; energies alone need no more than an encoder that can read it."""
        try:
            self._untold = False
            return self.columns.describe(ready, _EXTENT)
        except ValueError:
            asked = self.columns.samples is not None or self.columns.condition is not None
            if asked or self._given is None or isinstance(self._given, nn.Module):
                raise
            self._untold = True
            return f"samples: as {getattr(self._given, '__qualname__', type(self._given).__name__)} reads them"

    def _extent(self, ready: Any, before: tuple[float, float]) -> tuple[float, float]:
        """Least and greatest value so far; of samples that a function computes they are left alone: it may be slow."""
        if self._untold or callable(self.columns.samples):
            return before
        samples = self.columns.samples_of(ready)
        low, high = samples.aminmax() if samples.numel() else (math.inf, -math.inf)
        return min(before[0], float(low)), max(before[1], float(high))


_EXTENT = " in [?]"


def _range(low: float, high: float) -> str:
    return f" in [{low:.3g}, {high:.3g}]" if low <= high else ""


def _drawn(source: TaskSource) -> tuple[Tensor, Tensor | None]:
    """All that the loader draws from; of a stream, what is chosen from it in one pass."""
    positions = source.positions
    return source.trained() if positions is None else (positions.values, positions.masses)


def fetch(source: TaskSource, positions: Tensor) -> Any:
    """The samples at these positions as the first process reads them."""
    with raise_on_all_ranks("reading the chosen samples"):
        samples = source.fetch(positions) if world()[0] == 0 else None
    return broadcast(samples)


def _refuse(bad: Tensor, count: int, name: str) -> None:
    if len(bad):
        raise ValueError(
            f"{name} holds NaN or infinite values in {len(bad)} of {count} samples (positions "
            f"{bad.sort().values[:5].tolist()} of its data set). Repair or remove them before training."
        )
