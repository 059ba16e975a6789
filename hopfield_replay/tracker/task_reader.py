"""TaskReader: a task's data as vectors with stable ids, the same in every process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.buffer.storage import plain
from hopfield_replay.encoders import as_encoder, first_labels, vectors_of
from hopfield_replay.policies.candidates import sample_keys
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.utilities.distributed import broadcast, gather_objects, gather_rows, together, world
from hopfield_replay.utilities.progress import track

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
        vectors: (n, d) float32, the space of the energies.
        ids: (n,) int64.
        labels: (n,) int64; None if not every batch has them.
    """

    vectors: Tensor
    ids: Tensor
    labels: Tensor | None


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
    """Reads tasks; under DDP every process reads its share and gets all of it.

    Args:
        encoder: maps a prepared batch to vectors (n, d); see ForgettingTracker.

    Example:
        >>> data = TaskReader(None).read(2, TaskSource([torch.rand(3, 1, 4, 4)]))
        >>> data.vectors.shape, data.ids - (2 << 40), data.labels
        (torch.Size([3, 16]), tensor([0, 1, 2]), None)
    """

    def __init__(self, encoder: Callable[[Any], Tensor] | nn.Module | None) -> None:
        self.encoder = as_encoder(encoder)

    def read(
        self,
        task: int,
        source: TaskSource,
        *,
        dimension: int | None = None,
    ) -> TaskData:
        """All samples of a task.

        Args:
            task: its number.
            source: its training data; under DDP this process's share, which may be empty.
            dimension: of the vectors of earlier tasks, if there were any.

        Raises:
            ValueError: an empty task, NaN or infinite samples (their positions are named), samples of another size.
            TypeError: a batch in which no floating tensor is found; an encoder that does not return vectors.
        """
        none = torch.arange(0)  # a process may hold no sample
        positions, vectors, labels, bad = [none], list[Tensor](), list[Tensor | None]([none]), [none]
        with together(f"reading task {task}"):
            for at, batch in track(source.batches(), f"Reading task {task}"):
                found = vectors_of(self.encoder, source.prepare(batch)).cpu()
                if len(found) != len(at):
                    raise ValueError(f"encoder must return a vector for each sample, got {len(found)} for {len(at)}.")
                dimension = found.shape[1] if dimension is None else dimension
                if found.shape[1] != dimension:
                    raise ValueError(
                        f"Task {task} has samples of {found.shape[1]} numbers (from position {int(at[0])} of its "
                        f"data), but those before have {dimension}; all need one shape. Resize them, or pass "
                        "encoder=."
                    )
                bad.append(at[~torch.isfinite(found).all(1)])
                positions.append(at)
                vectors.append(found)
                labels.append(first_labels(batch, len(at)))
        # what every rank must come to the same conclusion from
        told = gather_objects((vectors[0].shape[1] if vectors else None, all(label is not None for label in labels)))
        sizes = sorted({size for size, _ in told if size is not None})
        if not sizes:
            raise ValueError(f"Task {task} has no training samples: its data set is empty.")
        if len(sizes) > 1:
            raise ValueError(
                f"Task {task} has samples of {' and '.join(map(str, sizes))} numbers; all need one shape. Resize them, "
                "or pass encoder=."
            )
        where = gather_rows(torch.cat(positions))
        _refuse(gather_rows(torch.cat(bad)), len(where), f"Task {task}")
        order = where.argsort()
        named = None
        if all(labelled for _, labelled in told):
            named = gather_rows(torch.cat(labels))[order]  # type: ignore[arg-type]
        own = torch.cat(vectors) if vectors else torch.empty(0, sizes[0])
        return TaskData(gather_rows(own)[order], sample_ids(task, where[order]), named)

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
        positions = ids - sample_ids(task, torch.zeros(1))
        if held_out is not None:
            with together(f"reading the probes of task {task}"):
                found = [at for at, _ in track(held_out.batches(), f"Reading probes of task {task}")]
            positions = gather_rows(torch.cat([torch.arange(0), *found])).sort().values
            if not len(positions):
                raise ValueError(f"The probe data of task {task} is empty.")
        all_ids = sample_ids(task, positions, held_out=held_out is not None)
        chosen = sample_keys(all_ids, -1 - seed).argsort(descending=True)[:size].sort().values
        read = source if held_out is None else held_out
        batch = fetch(read, positions[chosen])
        with together(f"encoding the probes of task {task}"):
            vectors = vectors_of(self.encoder, read.prepare(batch)).cpu()
        _refuse(positions[chosen][~torch.isfinite(vectors).all(1)], len(chosen), f"The probe data of task {task}")
        return Followed(all_ids[chosen], vectors, plain(batch))


def fetch(source: TaskSource, positions: Tensor) -> Any:
    """The samples at these positions as the first process reads them."""
    with together("reading the chosen samples"):
        samples = source.fetch(positions) if world()[0] == 0 else None
    return broadcast(samples)


def _refuse(bad: Tensor, count: int, name: str) -> None:
    if len(bad):
        raise ValueError(
            f"{name} holds NaN or infinite values in {len(bad)} of {count} samples (positions "
            f"{bad.sort().values[:5].tolist()} of its data set). Repair or remove them before training."
        )
