"""ReplayBatches: a loader's batches with replay, for training loops that belong to no framework."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.replay_stream import ReplayRatio, ReplayStream
from hopfield_replay.utilities.checks import check_loader
from hopfield_replay.utilities.nested import rows


class ReplayBatches:
    """Yields the batches of ``loader``, each with replayed samples appended, on the batch's device.

    What ReplayLoader is to a Trainer, for a loop of one's own: one for each task, ``for batch in batches``, once for
    each epoch (who breaks out of one goes on with its draws). The loader keeps its batch size b; to each batch
    b * ratio / (1 - ratio) replayed samples are added, so that ``replay_ratio`` is their share. The buffer is read when
    a batch is made: while it is empty nothing is added. Under torch.distributed every process wraps its own loader (as
    Accelerate's ``prepare`` returns it) and draws its own samples.

    Args:
        loader: the task's training loader, or any re-iterable object that yields batches.
        buffer: where replayed samples come from.
        replay_ratio: share of every training batch that is replayed, in (0, 1); or a function of task and step with
            values in [0, 1). The task is the one after the newest in the buffer, the step counts the task's batches.
        seed: of the draws; each process draws its own.
        mark: name of a boolean column (n,) that is added to batches which are dicts: True for replayed samples; None:
            none.

    Attributes:
        replayed: number of replayed samples at the end of the last batch.
        own: the last batch as the loader yielded it, as :meth:`hopfield_replay.TaskSource.passed` takes it.

    Raises:
        ValueError: replay_ratio outside (0, 1).
        TypeError: a loader that cannot be iterated, or only once, or a buffer that is none.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> buffer = EnergyReplayBuffer(4)
        >>> buffer.update(torch.zeros(4, 1), torch.rand(4, 1), ids=torch.arange(4), task=0)
        >>> batches = ReplayBatches(DataLoader(torch.ones(5, 1), batch_size=3), buffer, replay_ratio=0.5)
        >>> [batch.flatten().tolist() for batch in batches]
        [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        loader: Iterable[Any],
        buffer: EnergyReplayBuffer,
        *,
        replay_ratio: ReplayRatio = 0.5,
        seed: int = 0,
        mark: str | None = None,
    ) -> None:
        check_loader(loader)
        self.replayed = 0
        self.own: Any = None
        self._me = object()
        self.mark = mark
        self._stream = ReplayStream(loader, buffer, replay_ratio, seed)

    def __len__(self) -> int:
        return len(self._stream)

    @property
    def share(self) -> float:
        """Share of the samples that are replayed: the ratio, or what a schedule came to so far in the task at hand."""
        return self._stream.share

    def set_epoch(self, epoch: int) -> None:
        """Begin the draws of this epoch; needed only to start at another than the first, as they count by themselves.

        The loader's own ``set_epoch``, or its sampler's, is not called.
        """
        self._stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        epoch = self._stream.epoch
        self._warn_of_same_draws()
        for batch in self._stream.loader:
            joined = self._stream.join(batch, self.mark, self._shape)
            self.replayed, self.own = rows(joined) - rows(batch), batch
            yield joined
        if self._stream.epoch == epoch:
            self._stream.next_epoch()

    def _warn_of_same_draws(self) -> None:
        begins = self._stream.begins
        if begins is None or self._stream.buffer.drawn.begun.setdefault(begins, self._me) is self._me:
            return
        warnings.warn(
            f"Another {type(self).__name__} has begun epoch {self._stream.epoch} of this task with seed="
            f"{self._stream.seed}, and this one draws the same samples again. Make one for each task and go through it "
            "once for each epoch, or say which epoch it is by set_epoch().",
            stacklevel=3,
        )

    def _shape(self, replayed: Any) -> Any:
        """What the buffer holds, as the loader's batches are."""
        return replayed

    def state_dict(self) -> dict[str, Any]:
        """Position of the draws: tensors and plain Python. The loader's position is its own."""
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw on as if the loop had not been interrupted, beside the batches that are still to come.

        Raises:
            ValueError: parts that are missing or of another type; nothing has changed then.
        """
        self._stream.load_state_dict(state)
