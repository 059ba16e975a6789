"""WatchedTask: the task at hand, as a Trainer trains on it."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from hopfield_replay.buffer.replay_stream import ReplayStream
from hopfield_replay.lightning.limits import batches_of_task
from hopfield_replay.lightning.preparing import preparing
from hopfield_replay.lightning.raw_batches import RawBatches
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.utilities.nested import Leaf, map_leaves
from hopfield_replay.utilities.states import DAMAGE, check_mapping, check_whole


class WatchedTask:
    """Tells a TaskSource which batches were trained on.

    Args:
        reserve: samples of a stream that are chosen from, at most.
        scratch: folder for them; None: in memory.

    Attributes:
        source: the task's data; None before it has begun.
    """

    def __init__(self, reserve: int, scratch: str | os.PathLike[str] | None) -> None:
        self.source: TaskSource | None = None
        self._reserve, self._scratch = reserve, scratch
        self._raw = RawBatches()
        self._stream: ReplayStream | None = None
        self._first_step: int | None = None
        self._state: Mapping[str, Any] | None = None

    def begin(
        self,
        trainer: Trainer,
        module: LightningModule,
        loader: Iterable[Any],
        stream: ReplayStream | None,
        convert: Callable[[], bool],
    ) -> TaskSource:
        """The source of the task that begins, or goes on after a resume; ``convert``: as of :func:`preparing`."""
        if self._first_step is None:
            self._first_step = trainer.global_step
        self.source = None  # its scratch is free again
        limit, total = batches_of_task(trainer, self._first_step)
        self.source = TaskSource(
            loader,
            prepare=preparing(trainer, module, convert),
            limit=limit,
            total=total,
            watched=True,
            reserve=self._reserve,
            scratch=self._scratch,
        )
        if self._state is not None:
            self.source.load_state_dict(self._state)
        self._stream = stream
        return self.source

    def watch(self, trainer: Trainer) -> None:
        """Begin to see batches."""
        self._raw.attach(trainer, self._own_of)

    def close(self) -> None:
        """See batches no more."""
        self._raw.detach()

    def own(self) -> Any:
        """The batch at hand as the loader yielded it, without what is replayed beside it.

        Raises:
            MisconfigurationException: a training_step that takes its batches from the loader itself.
        """
        latest = self._raw.latest
        if latest is None:
            raise MisconfigurationException(
                "The training_step takes its batches from dataloader_iter, so that nobody can see which samples are "
                "trained on; let it take batch."
            )
        return latest

    def _own_of(self, batch: Any) -> Any:
        """The loader's part of a batch; as it is now, where it is looked into: the step may change it in place."""
        own = batch if self._stream is None else self._stream.own(batch)
        looked_into = self.source is not None and self.source.watches_contents
        return map_leaves(_copy, own) if looked_into else own

    def passed(self) -> None:
        """The batch at hand was trained on."""
        if self.source is not None and self._raw.latest is not None:
            self.source.passed(self.own())
            self._raw.latest = None

    def end(self) -> None:
        """The task is over."""
        self.source = self._stream = self._state = self._first_step = None

    def state_dict(self) -> dict[str, Any] | None:
        """What has passed of the task at hand: tensors and plain Python only; None between tasks."""
        if self.source is None or self._first_step is None:
            return None
        return {**self.source.state_dict(), "first_step": self._first_step}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Take over a state; the task that begins next goes on with it.

        Raises:
            ValueError: a damaged state.
        """
        self.end()
        if state is None:
            return
        try:
            self._first_step = check_whole(check_mapping(state, "what has passed")["first_step"], "first_step")
        except DAMAGE as error:
            raise ValueError(f"The state of what has passed is damaged: {error!r}.") from error
        self._state = state


def _copy(_: str, leaf: Leaf) -> Leaf:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


__all__ = ["WatchedTask"]
