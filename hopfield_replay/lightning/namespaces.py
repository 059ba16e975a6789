"""Lightning under both of its names: what is told apart here is an object of ``lightning`` or ``pytorch_lightning``."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader

_T = TypeVar("_T")
_NAMES = (("lightning.pytorch", "pytorch_lightning"), ("lightning.fabric", "lightning_fabric"))


def kinds(*classes: type) -> tuple[type, ...]:
    """Classes of Lightning, and the same ones under its other name where that is installed, for ``isinstance``.

    Both packages hold the same code twice, and an object of one is none of the other.

    Example:
        >>> from lightning.pytorch.callbacks import EarlyStopping
        >>> [kind.__module__.split(".")[0] for kind in kinds(EarlyStopping)]
        ['lightning', 'pytorch_lightning']
    """
    return tuple(kind for cls in classes for kind in (cls, *_twins(cls.__module__, cls.__name__)))


@cache
def _twins(module: str, name: str) -> tuple[type, ...]:
    """The class of this name in the same module of the other package."""
    for prefix, other in _NAMES:
        if module.startswith(prefix):
            try:
                return (getattr(import_module(module.replace(prefix, other, 1)), name),)
            except (ImportError, AttributeError):  # not installed, or another version of it
                continue
    return ()


def is_a(value: object, cls: type[_T]) -> TypeGuard[_T]:
    """Whether an object is one of a class of Lightning, under either of its names.

    Example:
        >>> from pytorch_lightning.callbacks import EarlyStopping
        >>> is_a(EarlyStopping("loss"), Callback), isinstance(EarlyStopping("loss"), Callback)
        (True, False)
    """
    return isinstance(value, kinds(cls))


if TYPE_CHECKING:
    EitherCallback = Callback
    EitherDataModule = LightningDataModule
    EitherLoader = CombinedLoader
else:
    EitherCallback = type("EitherCallback", kinds(Callback), {"__doc__": "A callback for Trainers of both names."})
    EitherDataModule = type("EitherDataModule", kinds(LightningDataModule), {"__doc__": "A datamodule for both."})
    EitherLoader = type("EitherLoader", kinds(CombinedLoader), {"__doc__": "A combined loader for both."})

__all__ = ["EitherCallback", "EitherDataModule", "EitherLoader", "is_a", "kinds"]
