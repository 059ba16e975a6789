"""Lightning under both of its names: what is told apart here is an object of ``lightning`` or ``pytorch_lightning``."""

from importlib import import_module
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader

_NAMES = (("lightning.pytorch", "pytorch_lightning"), ("lightning.fabric", "lightning_fabric"))


def kinds(*classes: type) -> tuple[type, ...]:
    """Classes of Lightning, and the same ones under its other name where that is installed, for ``isinstance``.

    Both packages hold the same code twice, and an object of one is none of the other.

    Example:
        >>> from lightning.pytorch.callbacks import EarlyStopping
        >>> [kind.__module__.split(".")[0] for kind in kinds(EarlyStopping)]
        ['lightning', 'pytorch_lightning']
    """
    found = list(classes)
    for cls in classes:
        for name, other in _NAMES:
            if cls.__module__.startswith(name):
                try:
                    found.append(getattr(import_module(cls.__module__.replace(name, other, 1)), cls.__name__))
                except (ImportError, AttributeError):  # not installed, or another version of it
                    continue
    return tuple(found)


if TYPE_CHECKING:
    EitherCallback = Callback
    EitherDataModule = LightningDataModule
    EitherLoader = CombinedLoader
else:
    EitherCallback = type("EitherCallback", kinds(Callback), {"__doc__": "A callback for Trainers of both names."})
    EitherDataModule = type("EitherDataModule", kinds(LightningDataModule), {"__doc__": "A datamodule for both."})
    EitherLoader = type("EitherLoader", kinds(CombinedLoader), {"__doc__": "A combined loader for both."})

__all__ = ["EitherCallback", "EitherDataModule", "EitherLoader", "kinds"]
