"""The denoiser that the user gives: an object, or a function from the module to one."""

from collections.abc import Callable

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from hopfield_replay.denoisers import Denoiser
from hopfield_replay.functional._diffusion_arguments import check_denoiser

GivenDenoiser = Denoiser | Callable[[LightningModule], Denoiser]


class CannotBeMade(MisconfigurationException):
    """A function that was to make a denoiser of a module fails."""


def check_given(denoiser: GivenDenoiser | None) -> None:
    """Refuse what is neither a denoiser nor a function that could make one.

    Raises:
        TypeError: it says what is missing.
    """
    if denoiser is None or isinstance(denoiser, type):  # a class makes one, too
        return
    if isinstance(denoiser, Denoiser | nn.Module) or not callable(denoiser):
        check_denoiser(denoiser)


def given_denoiser(denoiser: GivenDenoiser | None, module: LightningModule) -> Denoiser | None:
    """What was given, for a module.

    Args:
        denoiser: as ForgettingMonitor takes it.
        module: that is trained.

    Raises:
        CannotBeMade: the given function raises.
        TypeError: it returns something else than a denoiser.
    """
    if denoiser is None or (isinstance(denoiser, Denoiser) and not isinstance(denoiser, type)):
        return denoiser
    try:
        made: object = denoiser(module)
    except Exception as error:
        raise CannotBeMade(
            f"What was given as denoiser was called with the {type(module).__name__} and raised "
            f"{type(error).__name__}: {error}. Give a Denoiser, or a function that makes one of the module."
        ) from error
    try:
        check_denoiser(made)
    except TypeError as error:
        raise TypeError(
            f"What was given as denoiser was called with the {type(module).__name__} and made none: {error}"
        ) from error
    return made  # type: ignore[return-value]


__all__ = ["CannotBeMade", "GivenDenoiser", "check_given", "given_denoiser"]
