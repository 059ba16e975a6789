"""What is wrong with a sequence of tasks as it was put together, said before the first is trained."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader

from hopfield_replay.buffer.replay_batches import ReplayBatches
from hopfield_replay.lightning.monitor import ForgettingMonitor
from hopfield_replay.lightning.namespaces import is_a
from hopfield_replay.lightning.replay_data_module import NO_BUFFER, ReplayDataModule
from hopfield_replay.lightning.replay_loader import ReplayLoader
from hopfield_replay.lightning.task_data import check_task_data, kind_of

Tasks = Sequence[LightningDataModule | Iterable[Any]]


def check_arguments(trainer: Trainer, model: LightningModule, datamodules: Tasks) -> None:
    """Refuse what is no Trainer, no module, or no list of tasks, and say which of them were swapped.

    Raises:
        TypeError: each of them, with what was given in its place.
        ValueError: no tasks.
    """
    given = {"trainer": trainer, "model": model, "datamodules": datamodules}
    fits = {"trainer": _is_trainer, "model": _is_model, "datamodules": _is_tasks}
    wrong = [name for name, value in given.items() if not fits[name](value)]
    swapped = [name for name in wrong if any(fits[name](given[other]) for other in wrong if other != name)]
    if len(swapped) > 1:
        raise TypeError(
            f"fit_tasks takes (trainer, model, datamodules), got ({', '.join(map(kind_of, given.values()))}): "
            f"{' and '.join(swapped)} are swapped."
        )
    if "trainer" in wrong:
        raise TypeError(f"trainer must be a lightning.pytorch.Trainer, got {kind_of(trainer)}.")
    if "model" in wrong:
        raise TypeError(f"model must be a LightningModule, got {kind_of(model)}.")
    if "datamodules" in wrong:
        if isinstance(datamodules, Mapping):
            cure = "Give list(datamodules.values())."
        elif isinstance(datamodules, Iterator | Set):
            cure = "Give list(datamodules), in the order of the tasks."
        else:
            cure = "For one task give a list of one."
        raise TypeError(f"datamodules must be a list with one entry for each task, got {kind_of(datamodules)}. {cure}")
    if not len(datamodules):
        raise ValueError("datamodules is empty: there is no task to train.")
    for task, data in enumerate(datamodules):
        _check_task(data, f"datamodules[{task}]")


def check_sequence(trainer: Trainer, datamodules: Tasks) -> None:
    """Refuse a buffer without a place for each task; say so where nothing would be replayed, or a task never ends.

    Raises:
        MisconfigurationException: fewer places than tasks; a ReplayDataModule without any buffer.
        TypeError: a class among the callbacks.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # public, but not annotated upstream
    for callback in callbacks:
        if isinstance(callback, type):
            name = callback.__name__
            raise TypeError(f"The Trainer's callbacks hold the class {name}; give an object of it: {name}(...).")
    monitors = [callback for callback in callbacks if isinstance(callback, ForgettingMonitor)]
    filled = [monitor for monitor in monitors if monitor.buffer is not None]
    for data in datamodules:
        if isinstance(data, ReplayDataModule) and data.buffer is None and not filled:
            raise MisconfigurationException(NO_BUFFER)
    own = [data.buffer for data in datamodules if isinstance(data, ReplayDataModule) and data.buffer is not None]
    others = [buffer for buffer in own if all(monitor.buffer is not buffer for monitor in monitors)]
    if monitors and others:
        monitors[0].say_other_buffer(others[0])
    for monitor in filled:
        _check_room(monitor, len(datamodules))
        plain = [number for number, data in enumerate(datamodules) if number and not _replays(data)]
        if plain:
            listed = ", ".join(map(str, plain[:5])) + (", ..." if len(plain) > 5 else "")
            monitor.say_nothing_is_replayed(f"task{'s' if len(plain) > 1 else ''} {listed}")
    endless = trainer.max_epochs == -1 and trainer.max_steps == -1
    if endless and len(datamodules) > 1 and not any(is_a(c, Timer) or is_a(c, EarlyStopping) for c in callbacks):
        rank_zero_warn(
            f"max_epochs=-1 sets no limit, so that the first of {len(datamodules)} tasks would be trained without end. "
            "Give the Trainer max_epochs or max_steps, which hold for each task."
        )


def _check_room(monitor: ForgettingMonitor, tasks: int) -> None:
    """Refuse a sequence that the buffer has too few places for, before it is trained and not in its last task."""
    buffer = monitor.buffer
    if buffer is None or buffer.groups != "task" or monitor.tracker.generated is not None:
        return
    if buffer.capacity < tasks:
        raise MisconfigurationException(
            f"{tasks} tasks cannot share the {buffer.capacity} places of {buffer!r}; raise capacity to at least "
            f'{tasks}, or let all samples compete with groups=None and a policy such as "reservoir".'
        )


def _replays(data: Any) -> bool:
    """Whether a task may come with replay: with that of this library, or with a loader that draws by itself."""
    if isinstance(data, ReplayDataModule | ReplayLoader):
        return True
    return not is_a(data, LightningDataModule) and not isinstance(data, DataLoader)


def _check_task(data: Any, name: str) -> None:
    if isinstance(data, ReplayBatches):
        raise TypeError(f"{name} is a ReplayBatches, which is for loops of one's own; give ReplayDataModule(...).")
    check_task_data(data, name, "datamodules takes them one after the other, one for each task.")


def _is_trainer(value: object) -> bool:
    return is_a(value, Trainer)


def _is_model(value: object) -> bool:
    return is_a(value, LightningModule) or type(value).__name__ == "OptimizedModule"  # what torch.compile makes


def _is_tasks(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


__all__ = ["check_arguments", "check_sequence"]
