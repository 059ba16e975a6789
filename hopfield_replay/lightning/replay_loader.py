"""ReplayLoader: a task's loader whose batches carry replayed samples along."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.utilities.combined_loader import CombinedLoader

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.replay_stream import ReplayRatio, ReplayStream
from hopfield_replay.encoders import Columns
from hopfield_replay.lightning.namespaces import EitherLoader, is_a
from hopfield_replay.lightning.task_data import check_task_data


def check_one_loader(loader: Any) -> Iterable[Any]:
    """Return a loader; refuse what is none, or several.

    Raises:
        TypeError: it says what was given.
    """
    check_task_data(
        loader,
        "datamodule",
        "give a ReplayDataModule for each: [ReplayDataModule(one, buffer) for one in datamodules].",
    )
    if is_a(loader, CombinedLoader) or isinstance(loader, dict | list | tuple):
        raise TypeError(
            f"ReplayLoader joins replay to one loader, got {type(loader).__name__}. Merge the data sets into one "
            "loader."
        )
    checked: Iterable[Any] = loader
    return checked


class ReplayLoader(EitherLoader):
    """Yields the batches of ``loader``, each with replayed samples appended: the module sees one bigger batch.

    The loader keeps its batch size b; b * ratio / (1 - ratio) replayed samples are added, so that ``replay_ratio`` is
    their share. The buffer is read when a batch is made: while it is empty nothing is added. Lightning still injects
    its distributed sampler into ``loader``, and the draws go on exactly after a resume.

    Args:
        loader: the task's training loader.
        buffer: where replayed samples come from.
        replay_ratio: share of every training batch that is replayed, in (0, 1); or a function of task and step with
            values in [0, 1). The task is the one after the newest in the buffer. The step, epoch * len(loader) + batch,
            counts the task's batches (of a loader without length: those of the epoch).
        seed: of the draws; each rank draws its own.
        mark: name of a boolean column (n,) that is added to batches which are dicts: True for replayed samples, so that
            a module can weigh its loss; None: none.
        columns: what in a batch is the sample, the label and the condition, for the monitor; None: the monitor says.

    Raises:
        ValueError: replay_ratio outside (0, 1).
        TypeError: several loaders in place of one, or a buffer that is none.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> buffer = EnergyReplayBuffer(4)
        >>> buffer.update(torch.zeros(4, 1), torch.rand(4, 1), ids=torch.arange(4), task=0)
        >>> loader = ReplayLoader(DataLoader(torch.ones(6, 1), batch_size=3), buffer, replay_ratio=0.5)
        >>> [batch.flatten().tolist() for batch, _, _ in loader]
        [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        loader: Iterable[Any],
        buffer: EnergyReplayBuffer,
        *,
        replay_ratio: ReplayRatio = 0.5,
        seed: int = 0,
        mark: str | None = None,
        columns: Columns | None = None,
    ) -> None:
        check_one_loader(loader)
        self.stream = ReplayStream(loader, buffer, replay_ratio, seed)
        self.stream.columns = columns
        self.mark = mark
        super().__init__([loader, self.stream], mode="min_size")

    def __next__(self) -> Any:
        (batch, stream), batch_idx, dataloader_idx = super().__next__()
        return stream.join(batch, self.mark), batch_idx, dataloader_idx


def stream_in(loaders: Any) -> ReplayStream | None:
    """What replays in a Trainer's training loaders: a ReplayLoader shows it beside the task's own loader."""
    joined = isinstance(loaders, list) and len(loaders) == 2 and isinstance(loaders[1], ReplayStream)
    return loaders[1] if joined else None
