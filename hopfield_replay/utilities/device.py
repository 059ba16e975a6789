"""What depends on the device: where float64 is, and that nothing computes in less than it was asked to."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)  # Apple's GPUs


def float64_device(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one that has no float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def widest(device: torch.device) -> torch.dtype:
    """The widest floating dtype of a device."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def where_float64_is(x: Tensor) -> Tensor:
    """The tensor itself, or a copy on the CPU if its device has no float64."""
    return x.to(float64_device(x.device))


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Products within it keep the precision of their operands, also inside a training step in mixed precision."""
    if not torch.amp.is_autocast_available(device.type):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield
