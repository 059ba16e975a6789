"""ReplayMinibatchLoader: the minibatches of an experience, each with replayed samples."""

from typing import Any

from torch.utils.data import DataLoader

from hopfield_replay.avalanche.columns import Columns
from hopfield_replay.avalanche.experience_source import minibatch
from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.replay_batches import ReplayBatches
from hopfield_replay.buffer.replay_stream import ReplayRatio


class ReplayMinibatchLoader(ReplayBatches):
    """Yields minibatches of a data set, each followed by samples drawn from a buffer.

    The data set's part keeps its batch size; samples drawn from the buffer join it, so many that the share of
    replay is the same in every minibatch, in a short last one, too, and with a buffer smaller than its share. The data
    set is read by indexing where it allows that. Workers read the data set; replay is drawn in this process.

    Args:
        dataset: an AvalancheDataset.
        buffer: holds what an ExperienceSource fetches; read when a minibatch is made.
        replay_ratio: share of every minibatch that is replayed, in (0, 1); or a function of the experience's index and
            the number of its minibatches so far, with values in [0, 1).
        seed: of the draws.
        batch_size: of the data set's part, >= 1.
        shuffle: a new order in every epoch.
        drop_last: leave out a last part that is not full.
        num_workers: processes that read the data set.
        persistent_workers: keep them over epochs.
        pin_memory: put the data set's part into pinned memory.

    Attributes:
        replayed: number of replayed samples at the end of the last minibatch.

    Example:
        >>> import torch
        >>> from avalanche.benchmarks.utils import as_classification_dataset, make_avalanche_dataset
        >>> from torch.utils.data import TensorDataset
        >>> data = make_avalanche_dataset(TensorDataset(torch.rand(10, 4), torch.zeros(10, dtype=torch.int64)))
        >>> loader = ReplayMinibatchLoader(data, EnergyReplayBuffer(5), replay_ratio=0.5, seed=0, batch_size=5)
        >>> [len(x) for x, *_ in loader]  # nothing has been kept yet
        [5, 5]
    """

    def __init__(
        self,
        dataset: Any,
        buffer: EnergyReplayBuffer,
        *,
        replay_ratio: ReplayRatio,
        seed: int,
        batch_size: int,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        persistent_workers: bool = False,
        pin_memory: bool = False,
    ) -> None:
        loader: DataLoader[Any] = DataLoader(
            Columns(dataset),  # type: ignore[arg-type]  # a DataLoader needs no more of a data set than it has
            batch_size=batch_size,
            shuffle=shuffle and len(dataset) > 0,
            drop_last=drop_last,
            num_workers=num_workers,
            persistent_workers=persistent_workers and num_workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
        )
        super().__init__(loader, buffer, replay_ratio=replay_ratio, seed=seed)

    def _shape(self, replayed: Any) -> Any:
        return minibatch(replayed)


def _as_it_is(batch: Any) -> Any:
    return batch
