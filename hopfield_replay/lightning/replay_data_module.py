"""ReplayDataModule: somebody's LightningDataModule, with replay in its training batches."""

from collections.abc import Iterable
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.replay_batches import ReplayBatches
from hopfield_replay.buffer.replay_stream import ReplayRatio, check_replay_ratio
from hopfield_replay.encoders import Column, Columns
from hopfield_replay.lightning.monitor import ForgettingMonitor
from hopfield_replay.lightning.namespaces import EitherDataModule, is_a, kinds
from hopfield_replay.lightning.replay_loader import ReplayLoader, check_one_loader
from hopfield_replay.utilities.checks import check_seed

NO_BUFFER = (
    "ReplayDataModule has no buffer, and its trainer has no ForgettingMonitor with one. Give both "
    "EnergyReplayBuffer(capacity=...), or the trainer ForgettingMonitor(buffer)."
)
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


class _LoaderDataModule(EitherDataModule):
    """A single training loader as a datamodule."""

    def __init__(self, loader: Iterable[Any]) -> None:
        super().__init__()
        self.loader = loader

    def train_dataloader(self) -> Iterable[Any]:
        return self.loader


def plain_loader(data: LightningDataModule | Iterable[Any]) -> Iterable[Any] | None:
    """The training loader of a task, where it is there without a datamodule having to prepare it; else None."""
    wrapped: Any = data.wrapped if isinstance(data, ReplayDataModule) else data
    if isinstance(wrapped, _LoaderDataModule):
        return wrapped.loader
    return None if is_a(wrapped, LightningDataModule) else wrapped


class ReplayDataModule(EitherDataModule):
    """Wraps a datamodule (or a training loader) so that its training batches carry replayed samples.

    Everything else is the wrapped datamodule's: preparation, validation, test and prediction data, state, and its batch
    transfer hooks where it has them. (A datamodule without such hooks leaves the module's own in force.)

    Args:
        datamodule: the task's data; a LightningDataModule or a single training loader.
        buffer: where replayed samples come from, and what a ForgettingMonitor fills; None: the buffer of the trainer's
            ForgettingMonitor (for a YAML file, which cannot name one object twice).
        replay_ratio: share of every training batch that is replayed, in (0, 1); or a function of task and step, see
            :class:`ReplayLoader`.
        seed: of the draws.
        mark: name of a boolean column (n,) that is added to batches which are dicts: True for replayed samples, so that
            a module can weigh its loss; None: none.
        samples: what the model denoises, for the monitor: see :class:`ForgettingMonitor`, which then need not say it.
        labels: the same of the labels.
        condition: the same of the condition.

    Raises:
        ValueError: replay_ratio outside (0, 1).
        TypeError: a datamodule or a buffer that is none.
        MisconfigurationException: no buffer, and no ForgettingMonitor with one in the trainer (in training); a
            datamodule whose hyperparameters LightningCLI has mixed up.

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
        buffer: EnergyReplayBuffer | None = None,
        *,
        replay_ratio: ReplayRatio = 0.5,
        seed: int = 0,
        mark: str | None = None,
        samples: Column | None = None,
        labels: Column | Literal[False] | None = None,
        condition: Column | Literal[False] | None = None,
    ) -> None:
        if isinstance(datamodule, EnergyReplayBuffer):
            raise TypeError(
                f"datamodule is an EnergyReplayBuffer, and buffer a {type(buffer).__name__}: give "
                "ReplayDataModule(datamodule, buffer) in this order."
            )
        if buffer is not None and not isinstance(buffer, EnergyReplayBuffer):
            raise TypeError(f"buffer must be an EnergyReplayBuffer or None, got {type(buffer).__name__}.")
        if isinstance(datamodule, ReplayDataModule | ReplayLoader | ReplayBatches):
            raise TypeError(f"datamodule is a {type(datamodule).__name__}, which replays already; give what it wraps.")
        if not is_a(datamodule, LightningDataModule):
            datamodule = _LoaderDataModule(check_one_loader(datamodule))
        if "datamodule" in datamodule.hparams and "_class_path" in datamodule.hparams:
            raise MisconfigurationException(
                f"LightningCLI gave {type(datamodule).__name__} the hyperparameters of the ReplayDataModule around it; "
                "use LightningCLI(..., load_from_checkpoint_support=False)."
            )
        self.wrapped = datamodule
        self._monitors: list[ForgettingMonitor] = []
        super().__init__()
        self.buffer = buffer
        self.replay_ratio = check_replay_ratio(replay_ratio)
        self.seed = check_seed(seed)
        if mark is not None and not isinstance(mark, str):
            raise TypeError(f"mark must be the name of a column, or None, got {mark!r}.")
        self.mark = mark
        columns = Columns(samples, labels, condition)
        self.columns = None if columns == Columns() else columns
        self.prepare_data_per_node = datamodule.prepare_data_per_node
        self.allow_zero_length_dataloader_with_multiple_devices = (
            datamodule.allow_zero_length_dataloader_with_multiple_devices
        )
        parent = next(kind for kind in kinds(LightningDataModule) if isinstance(datamodule, kind))
        for hook in _FORWARDED:
            # Lightning asks which hooks a datamodule overrides. Defined on this class they all would count as
            # overridden: the module's own transfer hooks would fall silent, and missing validation data would be an
            # error.
            if is_overridden(hook, datamodule, parent):
                setattr(self, hook, getattr(datamodule, hook))
        self._made = True

    def __repr__(self) -> str:
        return f"ReplayDataModule({type(self.wrapped).__name__}, {self.buffer!r}, replay_ratio={self.replay_ratio!r})"

    @property
    def trainer(self) -> Trainer | None:
        """The trainer, which the wrapped datamodule sees too."""
        return self.wrapped.trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        self.wrapped.trainer = trainer
        callbacks = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]  # untyped
        # taken note of now: a finder takes the callbacks away while it tries
        self._monitors = [callback for callback in callbacks if isinstance(callback, ForgettingMonitor)]
        for other, home in zip(kinds(Trainer)[1:], kinds(LightningDataModule)[1:], strict=True):
            if isinstance(trainer, other):  # what is not overridden must be that package's own, or it would count as it
                for hook in set(_FORWARDED) - vars(self).keys():
                    vars(self)[hook] = getattr(home, hook).__get__(self)

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What only the wrapped datamodule has is set there: Lightning's BatchSizeFinder sets ``batch_size``."""
        own = "_made" not in self.__dict__ or name in self.__dict__ or hasattr(type(self), name)
        if own or not hasattr(self.wrapped, name):
            super().__setattr__(name, value)
        else:
            setattr(self.wrapped, name, value)

    def train_dataloader(self) -> ReplayLoader:
        """The wrapped training loader with replay."""
        buffer = self._monitored() if self.buffer is None else self.buffer
        self._check_filled(buffer)
        loader = ReplayLoader(
            self.wrapped.train_dataloader(),
            buffer,
            replay_ratio=self.replay_ratio,
            seed=self.seed,
            mark=self.mark,
            columns=self.columns,
        )
        if self.trainer is not None and self.trainer.current_epoch > 0:  # reloaded every n epochs, or by a finder
            loader.stream.set_epoch(self.trainer.current_epoch)  # after a finder Lightning does not
        return loader

    def _monitored(self) -> EnergyReplayBuffer:
        """The buffer that the trainer's monitor fills."""
        for monitor in self._monitors:
            if monitor.buffer is not None:
                return monitor.buffer
        raise MisconfigurationException(NO_BUFFER)

    def _check_filled(self, buffer: EnergyReplayBuffer) -> None:
        """Say that an empty buffer stays empty, as no monitor fills it; monitors themselves look at what they fill."""
        if self.trainer is None or len(buffer) or self._monitors:
            return
        rank_zero_warn(
            f"Nothing is replayed: {buffer!r} is empty, and no ForgettingMonitor fills it. Give the Trainer "
            "callbacks=[ForgettingMonitor(buffer)], unless code of yours fills it."
        )
