"""What may be the data of a task, a datamodule or one loader; and what is said of anything else."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.lightning.namespaces import is_a


def check_task_data(data: Any, name: str, several: str) -> None:
    """Refuse what is neither a datamodule nor a loader.

    Args:
        data: what was given for one task.
        name: of the argument.
        several: what to do with several datamodules in place of one.

    Raises:
        TypeError: it says what was given, and what to give.

    Example:
        >>> check_task_data(range, "datamodule", "")
        Traceback (most recent call last):
            ...
        TypeError: datamodule is the class range; give an object of it: range(...).
    """
    if is_a(data, LightningDataModule):
        return
    if isinstance(data, type):
        raise TypeError(f"{name} is the class {data.__name__}; give an object of it: {data.__name__}(...).")
    if isinstance(data, EnergyReplayBuffer):
        raise TypeError(f"{name} is an EnergyReplayBuffer; it belongs into ReplayDataModule(datamodule, buffer).")
    if isinstance(data, Tensor) or type(data).__name__ == "ndarray":
        raise TypeError(
            f"{name} is a {type(data).__name__} of shape {tuple(data.shape)}; wrap it: "
            "DataLoader(TensorDataset(tensor), batch_size=..., shuffle=True)."
        )
    if isinstance(data, Dataset) and not hasattr(data, "__iter__"):
        raise TypeError(
            f"{name} is the data set {type(data).__name__}; wrap it: DataLoader(dataset, batch_size=..., shuffle=True)."
        )
    inside = data.values() if isinstance(data, Mapping) else data if isinstance(data, Sequence) else ()
    if not isinstance(data, str) and any(is_a(one, LightningDataModule) for one in inside):
        raise TypeError(f"{name} is a {type(data).__name__} of {len(inside)} datamodules; {several}")
    if not hasattr(data, "__iter__") or isinstance(data, str | bytes):
        raise TypeError(f"{name} must be a LightningDataModule or a loader, got {kind_of(data)}.")


def kind_of(value: object) -> str:
    """What something is, in a word or two, for a message.

    Example:
        >>> kind_of(3), kind_of(int), kind_of(None)
        ('int', 'the class int', 'None')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else type(value).__name__


__all__ = ["check_task_data", "kind_of"]
