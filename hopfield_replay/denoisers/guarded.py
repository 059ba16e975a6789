"""What goes wrong with a model at a boundary is told apart from all else, so that the boundary can do without it."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from hopfield_replay.denoisers.delegating import DelegatingDenoiser
from hopfield_replay.denoisers.dry_run import Read
from hopfield_replay.functional.denoiser import Denoiser
from hopfield_replay.utilities.distributed import SharedError
from hopfield_replay.utilities.nested import rows

_P = ParamSpec("_P")
_R = TypeVar("_R")


class NotMeasured(SharedError):
    """A model could not be measured, whatever its own code raised."""


def guarded(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function of somebody else's raise nothing but NotMeasured, and what says that memory is short.

    Example:
        >>> guarded(lambda: [].pop())()
        Traceback (most recent call last):
        hopfield_replay.denoisers.guarded.NotMeasured: IndexError: pop from empty list
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except (NotMeasured, torch.OutOfMemoryError):  # the latter is answered with fewer samples at a time
            raise
        except Exception as error:
            raise NotMeasured(f"{type(error).__name__}: {error}") from error

    return call


class GuardedDenoiser(DelegatingDenoiser):
    """A denoiser that raises nothing but :class:`NotMeasured`, also where its predictions are not finite.

    Args:
        denoiser: the one that measures.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def noise(self, clean: Tensor, timestep: float, noise: Tensor) -> Tensor:
        """Noise clean samples to a timestep."""
        return guarded(self.denoiser.noise)(clean, timestep, noise)

    def predict_clean(self, noisy: Tensor, timestep: float, condition: Any = None) -> Tensor:
        """Estimate the clean samples."""
        clean = guarded(self.denoiser.predict_clean)(noisy, timestep, condition)
        if not bool(clean.isfinite().all()):
            raise NotMeasured("its predictions are not finite")
        return clean


def guarded_read(read: Read) -> Read:
    """A reader of batches that raises nothing but NotMeasured, also where it makes more samples or fewer."""

    def call(batch: Any) -> tuple[Tensor, Any]:
        samples, condition = guarded(read)(batch)
        if len(samples) != rows(batch):
            raise NotMeasured(f"the network is shown {len(samples)} samples where the batch holds {rows(batch)}")
        return samples, condition

    return call


def guarded_loss(loss: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """A loss of each sample that raises nothing but NotMeasured, also where it is not finite."""

    def call(batch: Any) -> Tensor:
        try:
            losses = guarded(loss)(batch)
        except torch.OutOfMemoryError as error:  # one sample at a time it is already
            raise NotMeasured(str(error)) from error
        if not bool(losses.isfinite().all()):
            raise NotMeasured("its own loss is not finite")
        return losses

    return call


__all__ = ["GuardedDenoiser", "NotMeasured", "guarded", "guarded_loss", "guarded_read"]
