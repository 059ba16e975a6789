"""TaskAtHand: the data of the task that is being trained, as it was when it began and as it turned out."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from hopfield_replay.tracker.encoder_watch import EncoderWatch
from hopfield_replay.tracker.read_again import OTHER
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.task_reader import TaskData, TaskReader, sample_ids
from hopfield_replay.utilities.nested import take


class TaskAtHand:
    """Reads a task when it begins, where that can be done, and finds out at its end what was trained on.

    Args:
        reader: of the data.

    Attributes:
        moves: the encoder has been seen to change.

    Example:
        >>> at_hand = TaskAtHand(TaskReader(None))
        >>> source = TaskSource([torch.arange(6.0).view(3, 2)])
        >>> at_hand.read(0, source).ids, at_hand.trained(0, source).ids
        (tensor([0, 1, 2]), tensor([0, 1, 2]))
    """

    def __init__(self, reader: TaskReader) -> None:
        self._reader = reader
        self._watch = EncoderWatch()
        self._begun: tuple[int, TaskData] | None = None

    @property
    def moves(self) -> bool:
        """Whether the encoder has been seen to change."""
        return self._watch.moves

    def forget(self) -> None:
        """Nothing has been read."""
        self._begun = None

    def begun(self, task: int) -> TaskData | None:
        """What was read when this task began; None if nothing was."""
        return self._begun[1] if self._begun is not None and self._begun[0] == task else None

    def read(self, task: int, source: TaskSource, dimension: int | None = None) -> TaskData | None:
        """Read the task's data before it is trained on; None where only the training itself will show it.

        Args:
            task: its number.
            source: its data.
            dimension: of the vectors of earlier tasks.

        Raises:
            ValueError, TypeError: as :meth:`TaskReader.read`.
        """
        self._begun = None
        return self._reader.read(task, source, dimension=dimension) if source.ahead else None

    def keep(self, task: int, data: TaskData | None) -> None:
        """Hold what was read until the end of the task."""
        self._begun = None if data is None else (task, data)

    def trained(self, task: int, source: TaskSource, dimension: int | None = None) -> TaskData:
        """What was trained on: of what was read that which has passed, and what passed without having been read.

        Args:
            task: its number.
            source: its data.
            dimension: of the vectors of earlier tasks.

        Raises:
            ValueError, TypeError: as :meth:`TaskReader.read`; nothing has passed; other data than the task began with.
        """
        positions, masses = source.trained()
        if not len(positions):
            raise ValueError(
                f"Task {task} has no training samples: its data set is empty, its sampler yields none, or no batch has "
                "passed."
            )
        ids = sample_ids(task, positions)
        begun = self.begun(task)
        if begun is None:
            return self._reader.read(task, source, positions, masses, dimension=dimension)
        self._refuse_others(task, begun, source)
        if torch.equal(begun.ids, ids):
            return begun
        data = begun.at(torch.isin(begun.ids, ids).nonzero().flatten())
        missing = positions[~torch.isin(ids, begun.ids)]
        if len(missing):
            more = self._reader.read(task, source, missing, dimension=dimension)
            data = data.join(more) if len(data.ids) else more
        return replace(data, masses=masses)

    def _refuse_others(self, task: int, begun: TaskData, source: TaskSource) -> None:
        """Refuse a source of which no sample that is looked at is what stood at its position when the task began."""
        few = source.few
        if few is None or few.random:
            return
        known = torch.isin(few.positions, begun.positions).nonzero().flatten()
        if not len(known):
            return
        before = begun.at(torch.searchsorted(begun.positions, few.positions[known])).vectors[:]
        now = self._reader.encode(source, take(few.batch, known))
        if now.shape == before.shape and bool(((now - before).abs().amax(1) <= OTHER * before.abs().amax(1)).any()):
            return
        raise ValueError(
            f"None of the {len(known)} samples that were looked at is what stood at its place in the data when task "
            f"{task} began. Give end_task() the source that begin_task() was given, or begin the task with this one."
        )

    def encoder_changed(self, source: TaskSource) -> bool:
        """Whether vectors of the same samples are others than when they were last looked at."""
        if not self._watch.looked:
            return False
        source.some()  # the loader's containers are known then
        return self._watch.changed(lambda batch: self._reader.encode(source, batch))

    def prepare_look(self, source: TaskSource) -> Callable[[], None]:
        """Look at the vectors of a few samples as they are now; what is returned remembers them."""
        few = source.some()
        if few is None:
            return lambda: None
        return self._watch.prepare_look(few, lambda batch: self._reader.encode(source, batch))

    def forget_samples(self) -> None:
        """Let go of the samples by which a change of the encoder is noticed."""
        self._watch = EncoderWatch()

    def state_dict(self) -> dict[str, Any]:
        """What is needed to notice a change of the encoder: tensors and plain Python only."""
        return self._watch.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Take over a state; None: of a format without one.

        Raises:
            ValueError: a damaged state.
        """
        watch = EncoderWatch()
        watch.load_state_dict(state)
        self._watch, self._begun = watch, None


__all__ = ["TaskAtHand"]
