"""ForgettingMonitor: the callback that keeps the history of a Trainer's task sequence."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.replay_stream import ReplayStream, length
from hopfield_replay.denoisers import Denoiser, find_denoiser
from hopfield_replay.lightning.logging import BoundaryLog
from hopfield_replay.lightning.renewal import averaging
from hopfield_replay.lightning.strategies import check_launcher, check_whole_model
from hopfield_replay.lightning.views import Boundary
from hopfield_replay.tracker.record import BoundaryRecord
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.tracker import ForgettingTracker
from hopfield_replay.utilities.progress import show_progress

if TYPE_CHECKING:
    import pandas as pd
from hopfield_replay.utilities.checks import Similarity


class ForgettingMonitor(Callback):
    """Tracks per-sample Hopfield energy and reconstruction error across task boundaries, and fills the buffer.

    One fit is one task. At its start the task's data is read (so bad samples stop the run before a step is spent); at
    its end probes of all tasks are measured, the buffer takes its share of the task, and everything is logged. Works
    on any LightningModule: energies need data only; reconstruction errors need a denoiser, which is found on the module
    where it holds a diffusers network and scheduler, or is given. List a weight-averaging callback before this one.
    Weights are measured in the precision they have, without autocast. ``overfit_batches`` makes the task its first
    batches; with ``reload_dataloaders_every_n_epochs`` the task is the data that it began with.

    A callback that does something with a boundary's result (saves the buffer, say) is listed after this one and does it
    in on_fit_end: for a run that was killed between a task's last checkpoint and on_train_end, Lightning calls
    on_train_end no more, and the boundary is made up for in on_fit_end.

    Args:
        buffer: filled at every boundary; None: measure only.
        beta: inverse temperature; ``"auto"``: the buffer's, or, where that has none, a median leave-one-out n_eff of 5
            on the first task.
        similarity: ``"distance"`` or ``"dot"``; None: the buffer's, or ``"distance"`` without a buffer.
        encoder: maps a batch (on the device, after the transfer hooks) to vectors (n, d), the space of the energies: a
            function of the batch, or a module of its samples; None: the first floating tensor of the batch, flattened.
        denoiser: a Denoiser, or a function from the LightningModule to one; None: looked for on the module.
        probe_size: samples of each task that are followed.
        timesteps: timesteps of the reconstruction error; None: 10, 20, 30, 40 and 50 % of the denoiser's range.
        probe_source: ``"train"``, or ``"val"``: probes come from the task's (first) validation loader, so that they
            were never trained on.
        samples: maps a batch to what the model denoises, where that is not its first floating tensor (e.g.
            ``LatentEncoder(vae).features`` for a latent model whose batches hold pixels).
        draws: noise draws at each timestep, >= 1.
        model_energy: also record each probe's energy under the model itself (ELBO form).
        followed_tasks: only the newest tasks' probes are measured, this many, so that the work at a boundary does not
            grow with the number of tasks; None: those of all tasks.
        history_size: only the newest records stay in :attr:`history`, this many, so that checkpoints do not grow; None:
            all.
        embedding: also show the buffer's vectors in TensorBoard's projector.
        seed: of the probes and of the noise.

    Raises:
        MisconfigurationException: a strategy under which boundaries cannot be measured (ddp_spawn, sharded models);
            data in which a task's samples cannot be found; a training loader without a batch.
        TypeError: a denoiser that is none.
        ValueError: a probe_source that is neither; and see ForgettingTracker for both.

    Example:
        >>> monitor = ForgettingMonitor(EnergyReplayBuffer(100), probe_size=64)
        >>> print(monitor.table())
        No task has ended yet.
    """

    def __init__(
        self,
        buffer: EnergyReplayBuffer | None = None,
        *,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity | None = None,
        encoder: Callable[[Any], Tensor] | nn.Module | None = None,
        denoiser: Denoiser | Callable[[LightningModule], Denoiser] | None = None,
        probe_size: int = 512,
        timesteps: Sequence[int] | None = None,
        probe_source: Literal["train", "val"] = "train",
        samples: Callable[[Any], Tensor] | None = None,
        draws: int = 1,
        model_energy: bool = False,
        followed_tasks: int | None = None,
        history_size: int | None = None,
        embedding: bool = False,
        seed: int = 0,
    ) -> None:
        if probe_source not in ("train", "val"):
            raise ValueError(f'probe_source must be "train" or "val", got {probe_source!r}.')
        if denoiser is not None and not isinstance(denoiser, Denoiser) and not callable(denoiser):
            raise TypeError(
                "denoiser must have num_timesteps, noise, predict_clean and snr, or be a function from the module to "
                f"such an object; got {type(denoiser).__name__}."
            )
        self.tracker = ForgettingTracker(
            buffer,
            beta=beta,
            similarity=similarity,
            encoder=encoder,
            probe_size=probe_size,
            timesteps=timesteps,
            samples=samples,
            draws=draws,
            model_energy=model_energy,
            followed_tasks=followed_tasks,
            history_size=history_size,
            seed=seed,
        )
        self.denoiser = denoiser
        self.probe_source = probe_source
        self._log = BoundaryLog(embedding)
        self._ran = False
        self._warned = False
        self._begun: Iterable[Any] | None = None

    @property
    def buffer(self) -> EnergyReplayBuffer | None:
        """The buffer that is filled."""
        return self.tracker.buffer

    @property
    def history(self) -> list[BoundaryRecord]:
        """A :class:`~hopfield_replay.tracker.BoundaryRecord` for each finished task (the newest ``history_size``)."""
        return self.tracker.history

    def history_frame(self, *, samples: bool = False) -> "pd.DataFrame":
        """The history as a tidy pandas DataFrame, see :func:`hopfield_replay.tracker.history_frame`."""
        return self.tracker.history_frame(samples=samples)

    def table(self) -> str:
        """Mean intrinsic and reconstruction forgetting of every task after every task, as text."""
        return self.tracker.table()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies under which a boundary cannot be measured."""
        if stage != "fit":
            return
        self._ran, self._begun = False, None
        check_launcher(trainer.strategy)
        check_whole_model(trainer.strategy)
        if late := averaging(_after(trainer, self)):
            rank_zero_warn(
                f"{type(late[0]).__name__} is listed after ForgettingMonitor: boundaries measure the last weights, not "
                "the averaged ones. List it before the monitor."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the task's data, and look for all that its end will need: errors cost no training yet."""
        self._ran = True
        loader, stream = self._training(trainer)
        self._begun = loader
        if stream is not None and stream.buffer is not self.buffer:
            rank_zero_warn(
                f"The training batches replay from {stream.buffer!r}, but the monitor fills {self.buffer!r}: what is "
                "replayed is not measured. Give one buffer to ForgettingMonitor and to ReplayDataModule."
            )
        if self.probe_source == "val":
            self._validation(trainer)
        self._find_denoiser(pl_module)
        with _progress(trainer):
            self.tracker.begin_task(self._task(trainer, loader))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, choose and log."""
        self._end_task(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for a boundary that a crash cut off, and say so when a fit did nothing."""
        if self._ran:
            return
        if self.tracker.open_task is not None:  # killed between the task's last checkpoint and on_train_end
            pl_module.to(trainer.strategy.root_device)  # Lightning has taken it away already
            for callback in averaging(trainer.callbacks):  # type: ignore[attr-defined]  # not annotated upstream
                callback.on_train_end(trainer, pl_module)  # the end that never came, and brings the averaged weights
            self._end_task(trainer, pl_module)
            pl_module.cpu()
        elif trainer.num_training_batches == 0:
            raise MisconfigurationException(
                f"The training loader of task {self.tracker.next_task} yields no batch, so nothing was trained: the "
                "data set is empty, or smaller than one batch and the loader has drop_last=True."
            )
        elif self.history and trainer.ckpt_path is None:  # else: resumed where the history is complete
            rank_zero_warn(
                f"This fit trained nothing: the trainer's limits (max_epochs={trainer.max_epochs}, "
                f"max_steps={trainer.max_steps}, limit_train_batches={trainer.limit_train_batches}) leave nothing to "
                "do after the fits before it. Use hopfield_replay.fit_tasks(trainer, model, datamodules), which renews "
                "max_epochs and max_steps for every task."
            )

    def _end_task(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader, _ = self._training(trainer)
        if self._begun is not None and self._begun is not loader:  # reload_dataloaders_every_n_epochs
            loader = self._same_data(self._begun, loader)
        probes = None
        if self.probe_source == "val":
            probes = self._source(trainer, self._validation(trainer))
        held = None if self.buffer is None else (self.buffer.ids, self.buffer.tasks)
        denoiser = self._find_denoiser(pl_module)
        with _progress(trainer):
            self.tracker.end_task(self._task(trainer, loader), denoiser=denoiser, probe_source=probes)
        self._log.log(trainer, Boundary(self.tracker, held, denoiser, trainer.strategy.batch_to_device))

    def _find_denoiser(self, pl_module: LightningModule) -> Denoiser | None:
        if isinstance(self.denoiser, Denoiser) and not isinstance(self.denoiser, type):  # a class makes one
            return self.denoiser
        if callable(self.denoiser):
            return self.denoiser(pl_module)
        found = find_denoiser(pl_module)
        if found is None and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"No denoiser was found on {type(pl_module).__name__}: only energies are measured, no reconstruction "
                "errors. Pass ForgettingMonitor(denoiser=...), an object with num_timesteps, noise, predict_clean and "
                "snr, e.g. hopfield_replay.denoisers.DiffusersDenoiser(unet, scheduler)."
            )
        return found

    def _training(self, trainer: Trainer) -> tuple[Iterable[Any], ReplayStream | None]:
        """The task's own loader, and the replay beside it."""
        loaders = trainer.train_dataloader
        if isinstance(loaders, list) and len(loaders) == 2 and isinstance(loaders[1], ReplayStream):
            return loaders[0], loaders[1]
        if loaders is None or isinstance(loaders, list | tuple | dict):
            raise MisconfigurationException(
                f"A task's samples cannot be told from a training loader of type {type(loaders).__name__}; use one "
                "DataLoader for each task (wrapped in ReplayDataModule for replay)."
            )
        return loaders, None

    def _validation(self, trainer: Trainer) -> Iterable[Any]:
        if trainer.enable_validation:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()  # Lightning may do it later, or, resuming, not at all
        loaders = trainer.val_dataloaders
        if isinstance(loaders, list | tuple) and loaders:
            loaders = loaders[0]
        if loaders is None or isinstance(loaders, list | tuple | dict):
            raise MisconfigurationException(
                'probe_source="val" needs a validation loader in the task\'s datamodule (and a validation_step in the '
                'module); use probe_source="train" without one.'
            )
        return loaders  # type: ignore[no-any-return]

    def _same_data(self, begun: Iterable[Any], now: Iterable[Any]) -> Iterable[Any]:
        """The loader that the task began with: all of its samples are known by their positions in that one."""
        before, after = (length(getattr(loader, "dataset", loader)) for loader in (begun, now))
        if before != after:
            rank_zero_warn(
                f"The training data of task {self.tracker.next_task} was reloaded and changed, from {before} to "
                f"{after} samples: only the first are measured and kept. Give each data set its own task in fit_tasks."
            )
        return begun

    def _task(self, trainer: Trainer, loader: Iterable[Any]) -> TaskSource:
        """What the model trains on: all of the task's data, but for overfit_batches, which repeats its first batches.

        (limit_train_batches takes other samples in every epoch, where the loader shuffles.)
        """
        overfit: float = trainer.overfit_batches  # type: ignore[attr-defined]  # public, but not annotated upstream
        return self._source(
            trainer, loader, int(trainer.num_training_batches) * trainer.world_size if overfit else None
        )

    def _source(self, trainer: Trainer, loader: Iterable[Any], limit: int | None = None) -> TaskSource:
        quick: bool = trainer.fast_dev_run  # type: ignore[attr-defined]  # public, but not annotated upstream
        return TaskSource(loader, prepare=trainer.strategy.batch_to_device, limit=1 if quick else limit)

    def state_dict(self) -> dict[str, Any]:
        """The history, the buffer, and how much of the task at hand was replayed so far."""
        return self.tracker.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history and the buffer of a checkpoint."""
        self.tracker.load_state_dict(state_dict)
        if self.buffer is not None and "counts" in state_dict:  # where the tracker's first format kept them
            self.buffer.drawn.restore(*state_dict["counts"])


def _after(trainer: Trainer, monitor: Callback) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # public, but not annotated upstream
    return callbacks[callbacks.index(monitor) + 1 :] if monitor in callbacks else []


def _progress(trainer: Trainer) -> AbstractContextManager[None]:
    """Shows bars where the trainer shows its own."""
    return show_progress(trainer.is_global_zero and trainer.progress_bar_callback is not None, delay=1.0)
