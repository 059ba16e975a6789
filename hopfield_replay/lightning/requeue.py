"""SLURM's automatic requeue over several tasks: the job that starts again goes on in the task that was cut."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from hopfield_replay.lightning.namespaces import EitherCallback

_KEPT = "requeued.ckpt"


class Requeue(EitherCallback):
    """Goes on from what Lightning writes when SLURM announces the end of a job, and keeps it out of later fits.

    Lightning writes ``hpc_ckpt_N.ckpt`` into default_root_dir and loads the newest such file into every fit without a
    ckpt_path: into every task. Here the first fit gets it as its ckpt_path; once that has ended it has another name,
    under which a job that is killed before its next checkpoint still finds it. Lightning writes it wherever the signal
    finds the program, also inside of a step, half of which would be lost; here it waits for the end of the step.

    Attributes:
        again: whether SLURM starts this job again, so that no further task is to begin here.
    """

    def __init__(self) -> None:
        self.again = False
        self._found: dict[Path, int] = {}  # what was there when the job began, and its times
        self._used: Path | None = None
        self._in_step = False
        self._announced: Callable[[], Any] | None = None

    def newest(self, trainer: Trainer, other: str | None) -> str | None:
        """The checkpoint to go on from: SLURM's, if there is one that is newer than the other one; else that.

        Args:
            trainer: its default_root_dir is where Lightning writes.
            other: that was asked for.

        Raises:
            MisconfigurationException: SLURM's is a folder, as DeepSpeed writes it.
        """
        self.again, self._used = False, None
        self._in_step, self._announced = False, None  # an interrupted job may have left them
        self._found = _written(trainer) if SLURMEnvironment.detect() else {}
        folder = next(filter(Path.is_dir, Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt")), None)
        if folder is not None and SLURMEnvironment.detect():  # Lightning would load it into every task
            raise MisconfigurationException(
                f"{folder}, written when SLURM announced the end of an earlier job, is a folder, as DeepSpeed and "
                "distributed checkpoints are, from which tasks are not resumed. Remove it to begin anew."
            )
        if not self._found:
            return other
        path = max(self._found, key=lambda file: self._found[file])
        if other is not None and _time(Path(other)) > self._found[path]:
            return other
        self._used = path
        rank_zero_warn(
            f"Goes on from {path}, which was written when SLURM announced the end of an earlier job; remove that file "
            "to begin anew."
        )
        return str(path)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let Lightning's handler of the announcement wait for the end of the step."""
        self._in_step = True  # an epoch that is resumed has no start
        if not SLURMEnvironment.detect() or threading.current_thread() is not threading.main_thread():
            return
        for number in signal.valid_signals() - {signal.SIGTERM}:
            handler = signal.getsignal(number)
            if callable(handler) and type(handler).__module__.startswith(("lightning.", "pytorch_lightning.")):
                signal.signal(number, self._waiting(handler))

    def _waiting(self, handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], Any]:
        def handle(number: int, frame: FrameType | None) -> None:
            self._announced = lambda: handler(number, frame)
            if not self._in_step:
                self._answer()

        return handle

    def _answer(self) -> None:
        if self._announced is not None:
            answer, self._announced = self._announced, None
            answer()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a batch may have been taken that is not trained on yet."""
        self._in_step = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is whole; after the last one of an epoch Lightning's counts are right only when that has ended."""
        if not trainer.is_last_batch:
            self._answer()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """No batch of the training is at hand, and this may take long."""
        if not trainer.is_last_batch:
            self._in_step = False
            self._answer()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch may go on."""
        self._in_step = trainer.training

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """No step follows."""
        self._in_step = False
        self._answer()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rename what this fit has loaded; see whether SLURM has announced the end of this job, too."""
        if not SLURMEnvironment.detect():
            return
        if trainer.is_global_zero:
            for file in self._found:
                if file == self._used and file.name != _KEPT:
                    os.replace(file, file.with_name(_KEPT))
                elif file != self._used:  # older than what was gone on from
                    file.unlink(missing_ok=True)
            self._found = {}
        left = trainer.is_global_zero and any(file.name != _KEPT for file in _written(trainer))
        self.again = bool(trainer.strategy.broadcast(left))
        if self.again:
            rank_zero_info("SLURM starts this job again; the next task begins there.")

    def finish(self, trainer: Trainer) -> None:
        """All tasks are done: what was gone on from is of no use to anybody."""
        if trainer.is_global_zero and self._used is not None:
            self._used.with_name(_KEPT).unlink(missing_ok=True)


def _written(trainer: Trainer) -> dict[Path, int]:
    """What Lightning has written on SLURM's announcement, and when."""
    folder = Path(trainer.default_root_dir)
    return {file: _time(file) for file in [*folder.glob("hpc_ckpt_*.ckpt"), folder / _KEPT] if file.is_file()}


def _time(file: Path) -> int:
    with contextlib.suppress(OSError):  # gone, or no local file
        return file.stat().st_mtime_ns
    return 0
