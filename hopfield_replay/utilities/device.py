"""What depends on the device: where float64 is, and that nothing computes in less than it was asked to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from hopfield_replay.utilities.distributed import raise_on_all_ranks
from hopfield_replay.utilities.holdings import modules_of
from hopfield_replay.utilities.memory import is_out_of_host_memory, is_out_of_memory

CPU = torch.device("cpu")
WITHOUT_FLOAT64 = ("mps",)  # Apple's GPUs


_Result = TypeVar("_Result")


def check_device(device: torch.device | str | None) -> torch.device | None:
    """The device of this name, which must be there.

    Raises:
        ValueError: no device of this name, or none that can be used here.

    Example:
        >>> check_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return None
    try:
        return torch.empty(1, device=torch.device(device)).device  # with its number: "cuda" is no tensor's device
    except (RuntimeError, TypeError, AssertionError) as error:  # torch without CUDA asserts
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'device={device!r} cannot be used here ({said}). Give one that is there, or "cpu".'
        ) from error


def device_of(*objects: object) -> torch.device | None:
    """Where the first parameter lies of the modules that objects are or hold; None: there is none.

    Example:
        >>> device_of(lambda x: x, torch.nn.Linear(2, 2))
        device(type='cpu')
    """
    found = (weight.device for module in modules_of(*objects) for weight in module.parameters())
    return next(found, None)


def room_on(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 where nobody says."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.mem_get_info(device)[0])


def in_chunks_that_fit(
    measure: Callable[[int], _Result],
    chunk_size: int,
    what: str = "The model does",
    error: type[MemoryError] = MemoryError,
    *,
    together: bool = False,
) -> tuple[_Result, int]:
    """Call ``measure(chunk_size)``, and with half as many samples at a time whenever there is no memory left.

    Args:
        measure: something of all samples, so many of them at a time.
        chunk_size: how many at first, >= 1.
        what: does not fit if not even one at a time does, for the message.
        error: what is raised then.
        together: all processes measure, and ask each other: where the device of one is full all take half as many.

    Returns:
        What it measured, and the chunk size that fitted.

    Raises:
        MemoryError: not even one sample at a time fits on the device.
        RuntimeError: torch's own, where it is the host's memory.

    Example:
        >>> def measure(chunk_size):
        ...     if chunk_size > 3:
        ...         raise torch.OutOfMemoryError("no memory")
        ...     return "measured"
        >>> in_chunks_that_fit(measure, 16)
        ('measured', 2)
    """
    while True:
        try:
            with raise_on_all_ranks("measuring") if together else nullcontext():
                return measure(chunk_size), chunk_size
        except RuntimeError as full:
            host = is_out_of_host_memory(full)
            if not (isinstance(full, torch.OutOfMemoryError) or is_out_of_memory(full)) or (host and chunk_size == 1):
                raise
            said = (str(full).splitlines() or ["no memory"])[0]
        # past the handler, so that the traceback no longer holds the tensors that are in the way
        if chunk_size == 1:
            raise error(
                f"{what} not fit into the device's memory, not even with one sample at a time ({said}). Free "
                "memory on the device, or measure on another one (the CPU: slower, but it fits)."
            )
        chunk_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


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
