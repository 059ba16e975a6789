"""fit_tasks: one Trainer, one fit for each task, resumable at the right task."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, RichModelSummary
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from hopfield_replay.lightning.checkpoints import check_resumes, position, resolve, write_atomically
from hopfield_replay.lightning.earlier_files import earlier_checkpoints_expected
from hopfield_replay.lightning.monitor import ForgettingMonitor
from hopfield_replay.lightning.namespaces import EitherCallback, is_a, kinds
from hopfield_replay.lightning.preflight import check_arguments, check_sequence
from hopfield_replay.lightning.renewal import check_renewable, has_stopped, renew
from hopfield_replay.lightning.replay_data_module import plain_loader
from hopfield_replay.lightning.requeue import Requeue
from hopfield_replay.lightning.run_folder import alone_in_folders
from hopfield_replay.lightning.strategies import check_averaging, check_launcher
from hopfield_replay.tracker.source import TaskSource

_INTERRUPTED = 130  # what a shell says of a process that Ctrl-C has ended


class TaskCursor(EitherCallback):
    """Remembers in every checkpoint which task was being trained, and at which step it began."""

    def __init__(self) -> None:
        self.task = 0
        self.first_step = 0
        self.steps_per_task = -1
        self.resumes: str | None = None
        self.least_steps_per_task: int | None = None
        self.earlier: list[Iterable[Any] | None] = []  # of a resumed run: the loaders of the tasks before

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse processes that would train different tasks: they could not see one another's checkpoints."""
        if stage != "fit":
            return
        here = (self.task, self.first_step, self.resumes)
        first = trainer.strategy.broadcast(here)
        if not trainer.strategy.reduce_boolean_decision(here == first):
            raise MisconfigurationException(
                f"The processes do not go on at the same place: here it is task {here[0]}, step {here[1]}, from "
                f"{here[2]}; in the first process task {first[0]}, step {first[1]}, from {first[2]}. Every machine "
                "must see the folder of the checkpoints."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the limits of steps count from the task's first one; leave a task alone that early stopping had ended.

        Not earlier: while optimizers are configured, trainer.estimated_stepping_batches must see the task's own limit.
        """
        for monitor in _monitors(trainer):
            for task, loader in enumerate(self.earlier):
                if loader is not None and monitor.tracker.next_task == self.task:
                    monitor.tracker.check_data(task, TaskSource(loader))
        if self.steps_per_task > 0:
            trainer.fit_loop.epoch_loop.max_steps = self.first_step + self.steps_per_task
        if self.least_steps_per_task is not None:
            trainer.fit_loop.epoch_loop.min_steps = self.first_step + self.least_steps_per_task
        if has_stopped(_callbacks(trainer)):  # the checkpoint's task was over, and only its boundary is missing
            trainer.should_stop = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put Lightning's counts right, which it loses when a run is resumed from an epoch's last step.

        The epoch at hand is not counted then, nor is the step that had just been done. A checkpoint of such a run would
        be taken for an earlier one, and a step or a whole epoch be trained twice.
        """
        epochs: Any = trainer.fit_loop.epoch_progress
        if epochs.current.started == epochs.current.processed:
            epochs.increment_ready()
            epochs.increment_started()
        batches = trainer.fit_loop.epoch_loop.batch_progress
        batches.total.completed = max(batches.total.completed, batches.total.ready - 1)

    def state_dict(self) -> dict[str, Any]:
        """The task at hand."""
        return {"task": self.task, "first_step": self.first_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with that task."""
        self.task, self.first_step = state_dict["task"], state_dict["first_step"]


def fit_tasks(
    trainer: Trainer,
    model: LightningModule,
    datamodules: Sequence[LightningDataModule | Iterable[Any]],
    *,
    ckpt_path: str | os.PathLike[str] | None = None,
    allow_changes: bool = False,
    weights_only: bool | None = None,
) -> None:
    """Train on one task after the other: ``trainer.fit`` for each, with fresh limits each time.

    The trainer's limits (epochs, steps and time, least and most) hold for each task. Optimizers and schedulers start
    anew with each task, ``current_epoch`` starts at 0, ``global_step`` goes on. Callbacks start anew, too:
    EarlyStopping has its full patience, ModelCheckpoint(monitor=...) looks for the best of the task (files of earlier
    tasks stay; their names hold the global step), WeightAveraging starts from the task's first weights. A resumed task
    goes on with what the checkpoint knows. Ctrl-C ends the call (with SystemExit, code 130), and so does SIGTERM, also
    while a boundary is measured; the interrupted task has no boundary until it is resumed. Under SLURM with Lightning's
    automatic requeue the job that starts again goes on by itself. Give the trainer a ForgettingMonitor to measure the
    boundaries and to fill the buffer.

    What a resumed run has in common with one that was never interrupted: finished tasks are not repeated; the buffer,
    its energies, the history's energies and the replayed samples are the same. Weights (and what is measured with them)
    are the same, too, where the Trainer itself repeats a run: it restores neither torch's global random numbers (noise,
    dropout, shuffling) nor the position of a plain DataLoader inside an epoch, which then starts at its first batch.
    Checkpoints are written whole (temporary file, fsync, rename), unless the trainer has a CheckpointIO of its own.

    Args:
        trainer: used for all tasks; its callbacks see every task.
        model: any LightningModule.
        datamodules: one for each task, in order: LightningDataModules (such as ReplayDataModule) or training loaders.
        ckpt_path: a checkpoint written during an earlier call with the same tasks; training goes on in the task in
            which it was written. ``"last"`` takes the newest ``last*.ckpt`` of the trainer's ModelCheckpoint callbacks
            (with a logger they need a ``dirpath``, for the logger's folder is another in every run), or, if a kill has
            torn or removed that, the newest whole checkpoint beside it. As long as there is none the first task begins:
            a job that is started again and again can always pass ``"last"``.
        allow_changes: the checkpoint may have been written with other data (of the task at hand, or of finished ones
            that are plain loaders) or with other settings of the monitor and its buffer; otherwise that is an error.
        weights_only: how checkpoints are loaded, as in ``trainer.fit``: False also loads what torch does not know to be
            harmless, such as the classes, partials and configs that ``save_hyperparameters()`` puts into them. Only for
            checkpoints of your own.

    Raises:
        ValueError: no tasks; a checkpoint file that is damaged, or that was written with other data or settings.
        TypeError: one datamodule in place of a list; what is no task; arguments in another order.
        MisconfigurationException: a checkpoint that was not written under fit_tasks, or of a task that is not there, or
            that holds what weights_only does not load; a strategy that cannot fit twice (ddp_spawn); what loads
            checkpoints into fits by itself (OnExceptionCheckpoint); StochasticWeightAveraging, which cannot average
            twice; another run that keeps its checkpoints in the same folder; fewer places in the buffer than tasks.
        SIGTERMException: SIGTERM has arrived, or SLURM starts this job again (a SystemExit, as Lightning raises it).

    Example:
        >>> import warnings; warnings.simplefilter("ignore")
        >>> from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
        >>> from torch.utils.data import DataLoader
        >>> trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        ...     enable_progress_bar=False, enable_model_summary=False)
        >>> tasks = [DataLoader(RandomDataset(32, 8), batch_size=4) for _ in range(3)]
        >>> fit_tasks(trainer, BoringModel(), tasks)
        >>> trainer.global_step  # 3 tasks of 2 epochs of 2 batches
        12
    """
    check_arguments(trainer, model, datamodules)
    cursor = next((callback for callback in _callbacks(trainer) if isinstance(callback, TaskCursor)), None)
    if cursor is None:
        cursor = TaskCursor()
        _callbacks(trainer).insert(0, cursor)
    requeue = next((callback for callback in _callbacks(trainer) if isinstance(callback, Requeue)), None)
    if requeue is None:
        requeue = Requeue()
        _callbacks(trainer).append(requeue)  # the last: what it saves has heard of the step from all others
    if len(datamodules) > 1:
        check_renewable(_callbacks(trainer))
    check_launcher(trainer.strategy)
    check_averaging(trainer.strategy, _callbacks(trainer))
    check_resumes(trainer)
    check_sequence(trainer, datamodules)
    write_atomically(trainer)
    with alone_in_folders(trainer), _changes(trainer, allow_changes):
        _fit_all(trainer, model, datamodules, cursor, requeue, ckpt_path, weights_only)


def _fit_all(
    trainer: Trainer,
    model: LightningModule,
    datamodules: Sequence[LightningDataModule | Iterable[Any]],
    cursor: TaskCursor,
    requeue: Requeue,
    ckpt_path: str | os.PathLike[str] | None,
    weights_only: bool | None,
) -> None:
    start = 0
    if ckpt_path is not None:
        ckpt_path = resolve(trainer, ckpt_path, cursor.state_key, weights_only)
    ckpt_path = requeue.newest(trainer, ckpt_path)
    if ckpt_path is not None:
        start, cursor.first_step = position(ckpt_path, cursor.state_key, len(datamodules), weights_only)
    cursor.steps_per_task = steps_per_task = trainer.max_steps
    cursor.least_steps_per_task = least_steps_per_task = trainer.min_steps
    summaries = {
        callback: callback._max_depth
        for callback in _callbacks(trainer)
        if is_a(callback, ModelSummary) and type(callback) in kinds(ModelSummary, RichModelSummary)
    }
    try:
        for task in range(start, len(datamodules)):
            for callback in summaries if task > start else ():  # of the same model: once is enough
                callback._max_depth = 0
            cursor.task = task
            cursor.resumes = Path(ckpt_path).name if ckpt_path is not None and task == start else None
            cursor.earlier = [plain_loader(data) for data in datamodules[:start]] if cursor.resumes else []
            if task > start or ckpt_path is None:
                cursor.first_step = trainer.global_step
                trainer.fit_loop.epoch_progress.reset()
                # a resumed fit with nothing left to do leaves it set (and Lightning sets it whenever max_steps is)
                trainer.fit_loop.epoch_loop.max_steps = -1
                trainer.fit_loop.restarting = False
                renew(_callbacks(trainer))
            trainer.fit_loop.epoch_loop.max_steps = steps_per_task
            rank_zero_info(f"Task {task} (the last is task {len(datamodules) - 1})")
            data = datamodules[task]
            where = {"datamodule": data} if is_a(data, LightningDataModule) else {"train_dataloaders": data}
            goes_on = ckpt_path if task == start else None
            try:
                with earlier_checkpoints_expected(task > start):
                    trainer.fit(model, **where, ckpt_path=goes_on, weights_only=weights_only)
            except SystemExit as end:  # Lightning clears up after Ctrl-C, and exits with 1
                if not isinstance(end.__context__, KeyboardInterrupt):
                    raise
                rank_zero_info(f"Interrupted in task {task}.")
                raise SystemExit(_INTERRUPTED) from end.__context__
            if trainer.received_sigterm or requeue.again:  # after the last step, where Lightning looks no more
                raise SIGTERMException
        requeue.finish(trainer)
    finally:
        for callback, depth in summaries.items():
            callback._max_depth = depth
        cursor.steps_per_task, cursor.least_steps_per_task = -1, None
        trainer.fit_loop.epoch_loop.max_steps = steps_per_task
        trainer.fit_loop.epoch_loop.min_steps = least_steps_per_task


@contextmanager
def _changes(trainer: Trainer, allow: bool) -> Iterator[None]:
    """Let the monitors take over states of other data and settings inside, if that is allowed."""
    trackers = [monitor.tracker for monitor in _monitors(trainer)]
    before = [tracker.allow_changes for tracker in trackers]
    for tracker in trackers:
        tracker.allow_changes |= allow
    try:
        yield
    finally:
        for tracker, value in zip(trackers, before, strict=True):
            tracker.allow_changes = value


def _monitors(trainer: Trainer) -> list[ForgettingMonitor]:
    return [callback for callback in _callbacks(trainer) if isinstance(callback, ForgettingMonitor)]


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # public, but not annotated upstream
    return callbacks
