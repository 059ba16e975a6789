"""Folders of checkpoints, which one run uses at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay.lightning.namespaces import is_a
from hopfield_replay.utilities.files import is_partial
from hopfield_replay.utilities.locks import InUse, PathLock


def checkpoint_folders(trainer: Trainer) -> list[Path]:
    """Where the trainer's ModelCheckpoint callbacks keep files that another run of the same script finds again."""
    # a logger's folder bears the number of the run, which another run does not have
    kept = [c.dirpath for c in keepers(trainer) if c.dirpath is not None or not trainer.loggers]
    default = Path(trainer.default_root_dir) / "checkpoints"  # without a logger
    return sorted({default if folder is None else Path(str(folder)) for folder in kept})


def keepers(trainer: Trainer) -> list[ModelCheckpoint]:
    """The trainer's ModelCheckpoint callbacks."""
    return [callback for callback in trainer.checkpoint_callbacks if is_a(callback, ModelCheckpoint)]


@contextlib.contextmanager
def alone_in_folders(trainer: Trainer) -> Iterator[None]:
    """Keep other runs out of this one's folders of checkpoints inside the block, and clear what killed ones left there.

    Two runs in one folder would remove each other's files, and ``"last"`` would be the other's.

    Raises:
        MisconfigurationException: another run is at work in one of them.
    """
    locks = []
    try:
        for folder in checkpoint_folders(trainer) if trainer.is_global_zero else ():
            if "://" in str(folder) or ":/" in str(folder):
                continue  # Path makes one slash of the two of an address
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                # beside the folder: Lightning warns of one that is not empty
                lock = PathLock(folder.parent / f".{folder.name}.in_use", remove=True)
            except InUse as error:
                raise MisconfigurationException(
                    f"Another run keeps its checkpoints in {folder} ({error}). Give each run its own dirpath (or "
                    "default_root_dir), or end that one first."
                ) from error
            locks.append(lock)
            if lock.shared and folder.is_dir():
                for left in filter(is_partial, folder.iterdir()):
                    left.unlink(missing_ok=True)
        yield
    finally:
        for lock in locks:
            lock.release()
