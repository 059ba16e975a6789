"""ReplayDataModule: somebody's LightningDataModule, with replay in its training batches."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from hopfield_replay.buffer import EnergyReplayBuffer
from hopfield_replay.lightning.replay_loader import ReplayLoader
from hopfield_replay.replay_stream import ReplayRatio, check_replay_ratio

_FORWARDED = (
    "prepare_data",
    "setup",
    "teardown",
    "on_exception",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "state_dict",
    "load_state_dict",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
)


class _LoaderDataModule(LightningDataModule):
    """A single training loader as a datamodule."""

    def __init__(self, loader: Iterable[Any]) -> None:
        super().__init__()
        self.loader = loader

    def train_dataloader(self) -> Iterable[Any]:
        return self.loader


class ReplayDataModule(LightningDataModule):
    """Wraps a datamodule (or a training loader) so that its training batches carry replayed samples.

    Everything else is the wrapped datamodule's: preparation, validation, test and prediction data, state, and its batch
    transfer hooks where it has them. (A datamodule without such hooks leaves the module's own in force.)

    Args:
        datamodule: the task's data; a LightningDataModule or a single training loader.
        buffer: where replayed samples come from; a ForgettingMonitor fills it.
        replay_ratio: share of every training batch that is replayed, in (0, 1); or a function of task and step, see
            :class:`ReplayLoader`.
        seed: of the draws.

    Raises:
        ValueError: replay_ratio outside (0, 1).
        TypeError: a datamodule or a buffer that is none.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> data = ReplayDataModule(DataLoader(torch.ones(6, 1)), EnergyReplayBuffer(4), replay_ratio=0.5)
        >>> type(data.train_dataloader()).__name__
        'ReplayLoader'
    """

    def __init__(
        self,
        datamodule: LightningDataModule | Iterable[Any],
        buffer: EnergyReplayBuffer,
        *,
        replay_ratio: ReplayRatio = 0.5,
        seed: int = 0,
    ) -> None:
        if not isinstance(buffer, EnergyReplayBuffer):
            raise TypeError(f"buffer must be an EnergyReplayBuffer, got {type(buffer).__name__}.")
        if not isinstance(datamodule, LightningDataModule):
            if not hasattr(datamodule, "__iter__"):
                raise TypeError(
                    f"datamodule must be a LightningDataModule or a loader, got {type(datamodule).__name__}."
                )
            datamodule = _LoaderDataModule(datamodule)
        self.wrapped = datamodule
        super().__init__()
        self.buffer = buffer
        self.replay_ratio = check_replay_ratio(replay_ratio)
        self.seed = seed
        self.prepare_data_per_node = datamodule.prepare_data_per_node
        self.allow_zero_length_dataloader_with_multiple_devices = (
            datamodule.allow_zero_length_dataloader_with_multiple_devices
        )
        for hook in _FORWARDED:
            # Lightning asks which hooks a datamodule overrides. Defined on this class they all would count as
            # overridden: the module's own transfer hooks would fall silent, and missing validation data would be an
            # error.
            if is_overridden(hook, datamodule):
                setattr(self, hook, getattr(datamodule, hook))

    @property
    def trainer(self) -> Trainer | None:
        """The trainer, which the wrapped datamodule sees too."""
        return self.wrapped.trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        self.wrapped.trainer = trainer

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def train_dataloader(self) -> ReplayLoader:
        """The wrapped training loader with replay."""
        return ReplayLoader(
            self.wrapped.train_dataloader(), self.buffer, replay_ratio=self.replay_ratio, seed=self.seed
        )
