"""Checkpoints that are never half-written, and which of them a run goes on from."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from hopfield_replay.lightning.namespaces import is_a, kinds
from hopfield_replay.lightning.run_folder import checkpoint_folders, keepers
from hopfield_replay.lightning.strategies import writes_folders
from hopfield_replay.utilities.files import replacing
from hopfield_replay.utilities.states import DAMAGE, check_whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, each complete and on the disk before it gets its name.

    Lightning's own way goes through the system's temporary folder: where that is another file system the last step is
    a copy, and a run that is killed in it leaves the first part of a file in place of the checkpoint that was there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; where it is no local file, or with options, as Lightning does."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            try:
                torch.save(checkpoint, partial)
            except RuntimeError as error:  # torch's own writer says so of a full disk
                if "inline_container" not in str(error) and "Stream" not in str(error):
                    raise
                raise OSError(f"{path} could not be written; is the disk full? ({error})") from error


def write_atomically(trainer: Trainer) -> None:
    """Let the trainer write checkpoints atomically, unless it was given a way of its own."""
    if type(trainer.strategy.checkpoint_io) in kinds(TorchCheckpointIO):
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def check_resumes(trainer: Trainer) -> None:
    """Refuse what would make Lightning load a checkpoint of its own choice into every task's fit, or none.

    Raises:
        MisconfigurationException: an OnExceptionCheckpoint; checkpoints that are folders.
    """
    strategy = trainer.strategy
    if writes_folders(strategy) and keepers(trainer):
        whole = is_a(strategy, ModelParallelStrategy)
        raise MisconfigurationException(
            f"{type(strategy).__name__} writes checkpoints as folders, which are never whole at one moment, so that "
            f"tasks are not resumed from them; give {'it save_distributed_checkpoint=False, or ' if whole else ''}the "
            "trainer enable_checkpointing=False and no ModelCheckpoint."
        )
    if any(is_a(callback, OnExceptionCheckpoint) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise MisconfigurationException(
            "OnExceptionCheckpoint makes Lightning load the newest checkpoint into every fit, so that all tasks after "
            "the first would be skipped; use ModelCheckpoint(dirpath=..., save_last=True, every_n_train_steps=...) and "
            'ckpt_path="last".'
        )


def resolve(
    trainer: Trainer, ckpt_path: str | os.PathLike[str], cursor_key: str, weights_only: bool | None = None
) -> str | None:
    """The checkpoint to go on from: the newest last*.ckpt, or, if that is torn, the newest whole one under any name.

    Args:
        trainer: its ModelCheckpoint callbacks say where checkpoints lie.
        ckpt_path: a file, which is returned as it is, or ``"last"``.
        cursor_key: under which a checkpoint says in which task it was written.
        weights_only: how checkpoints are loaded; None: as torch does.

    Returns:
        The file; None: there is none yet.

    Raises:
        MisconfigurationException: no file; ``"last"`` for a trainer that keeps none; nothing but torn checkpoints.
    """
    if str(ckpt_path) != "last":
        if Path(ckpt_path).is_dir():
            raise MisconfigurationException(
                f"ckpt_path={str(ckpt_path)!r} is a folder, as DeepSpeed and distributed checkpoints are: never whole "
                "at one moment, so that tasks are not resumed from it. Give a checkpoint file, as ddp writes them."
            )
        if not Path(ckpt_path).is_file():
            raise MisconfigurationException(f'ckpt_path must be a checkpoint file or "last", got {str(ckpt_path)!r}.')
        return str(ckpt_path)
    folders = checkpoint_folders(trainer)
    files = [file for folder in folders for file in folder.glob("*.ckpt") if file.is_file()]
    files.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    last = next((file for file in files if file.name.startswith("last")), None)
    if last is not None and _whole(last):
        return str(last)
    # torn by another way of writing, or killed before there was one: what was kept under other names is as good
    other = next((file for file in files if _whole(file) and _cursor(file, cursor_key, weights_only) is not None), None)
    torn = ", ".join(str(file) for file in files if not _whole(file))
    if other is not None:
        if torn:
            rank_zero_warn(f"{torn} was never written to its end; training goes on from {other}.")
        return str(other)
    if torn:
        raise MisconfigurationException(
            f'ckpt_path="last" found only {torn}, never written to its end. Remove it to begin anew.'
        )
    if not folders or not any(keeper.save_last for keeper in keepers(trainer)):
        raise MisconfigurationException(
            'ckpt_path="last" found no last*.ckpt; give ModelCheckpoint(dirpath=..., save_last=True), or the file.'
        )
    rank_zero_info(f'ckpt_path="last": no checkpoint in {", ".join(map(str, folders))} yet; the first task begins.')
    return None


def position(ckpt_path: str, cursor_key: str, tasks: int, weights_only: bool | None = None) -> tuple[int, int]:
    """In which task, and at which task's first step, a checkpoint was written.

    Raises:
        ValueError: a file that is damaged, or no checkpoint at all.
        MisconfigurationException: not written under fit_tasks, or of a task that is not there; what torch does not load
            with weights_only.
    """
    cursor = _cursor(ckpt_path, cursor_key, weights_only)
    if cursor is None:
        raise MisconfigurationException(
            f"{ckpt_path} does not say in which task it was written; only checkpoints written under fit_tasks do."
        )
    try:
        check_whole(cursor["task"], "task")
        check_whole(cursor["first_step"], "first_step")
    except DAMAGE as error:
        raise ValueError(f"{ckpt_path} is damaged: {error!r}.") from error
    if cursor["task"] >= tasks:
        raise MisconfigurationException(
            f"{ckpt_path} was written in task {cursor['task']}, but only the tasks 0 to {tasks - 1} were given."
        )
    return cursor["task"], cursor["first_step"]


def _whole(file: Path) -> bool:
    return zipfile.is_zipfile(file)  # the list of its contents stands at its end


def _cursor(file: str | Path, key: str, weights_only: bool | None) -> Any:
    try:
        state = torch.load(file, map_location="cpu", weights_only=weights_only is not False, mmap=True)
    except Exception as error:  # torch raises many kinds for files that are cut or damaged, or are none of its own
        if weights_only is not False and (unknown := _not_allowed(file)):
            raise MisconfigurationException(
                f"{file} is whole, but holds {', '.join(unknown)}, which torch does not load with weights_only "
                "(save_hyperparameters() may have put it there, unless it is told to ignore= it). If the file is your "
                "own, pass weights_only=False, or allow them with torch.serialization.add_safe_globals."
            ) from error
        raise ValueError(f"{file} is not a checkpoint, or it is damaged ({error}).") from error
    callbacks = state.get("callbacks") if isinstance(state, dict) else None
    return callbacks.get(key) if isinstance(callbacks, dict) else None


def _not_allowed(file: str | Path) -> list[str]:
    """What a checkpoint holds that is not allow-listed; nothing of a file that is damaged."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # as above
        return []
