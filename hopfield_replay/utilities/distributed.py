"""The few collectives that a tracker needs; without a process group each is the identity."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_FAILED = -1  # what a process says in place of a number of rows
_LARGE = 1 << 20  # bytes for which a process may have no room
_Result = TypeVar("_Result")


class SharedError(Exception):
    """An error that is of one kind on all ranks, so that all of them can go on in the same way."""


class _Failure(NamedTuple):
    """What a process failed with, and in the how manieth of the nested parts."""

    depth: int
    what: str
    said: str
    kind: type[Exception]


class _Parts:
    """The parts of :func:`raise_on_all_ranks` in which this process is.

    Attributes:
        depth: how many, one inside the other.
        error: what this process raises until it has left the part in which another failed; None: nothing.
        until: the depth of that part.
    """

    depth = 0
    error: Exception | None = None
    until = 0

    def fail(self, error: Exception, until: int) -> None:
        """Let no process wait for this one before it has left the part of this depth."""
        if self.depth:
            self.error, self.until = error, until

    def leave(self) -> None:
        """One part less."""
        self.depth -= 1
        if self.depth < self.until:
            self.error, self.until = None, 0


_parts = _Parts()


def world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(tensor: Tensor) -> Tensor:
    """Rows of all ranks, in the order of the ranks, on the tensor's device; ranks may hold different numbers of rows.

    The trailing shape and the dtype must be the same on every rank, also on one without rows.
    """
    size = world()[1]
    if size == 1:
        return tensor
    counts = _meet(len(tensor))
    most = max(counts)
    shape = (most, *tensor.shape[1:])
    if most * tensor.shape[1:].numel() * tensor.dtype.itemsize > _LARGE:
        with raise_on_all_ranks("making room for what the others send"):
            room = _room(tensor, shape, size)
    else:
        room = _room(tensor, shape, size)
    parts, padded = room
    _travels(lambda: dist.all_gather(parts, padded))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).to(tensor.device)


def _room(tensor: Tensor, shape: tuple[int, ...], size: int) -> tuple[list[Tensor], Tensor]:
    """Where the rows of each of so many processes will be, and this one's, as many as any has."""
    padded = torch.zeros(shape, dtype=tensor.dtype, device=_device())
    padded[: len(tensor)] = tensor
    return [torch.empty_like(padded) for _ in range(size)], padded


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in the order of the ranks; plain Python and small tensors."""
    if world()[1] == 1:
        return [value]
    _meet(0)
    return _objects(value)


@contextmanager
def raise_on_all_ranks(what: str) -> Iterator[None]:
    """Run a part in which a rank may fail: if one does, all do, instead of waiting for it in the next collective.

    Collectives of this file may be in it, and further such parts: all processes come to the same ones. A process that
    fails says so where the others are waiting for it.

    Args:
        what: is being done, for the others' error message.

    Raises:
        RuntimeError: on the ranks that did not fail; those that did raise what they raised. A :class:`SharedError`, or
            that a device has no memory left, is raised as one by all.

    Example:
        >>> with raise_on_all_ranks("adding"):
        ...     total = 1 + 1
        >>> total
        2
    """
    if world()[1] == 1:
        yield
        return
    _parts.depth += 1
    try:
        try:
            yield
        except Exception as error:
            if _parts.error is None:
                with suppress(Exception):  # of others that are gone; this one's own says more
                    _tell(what, error)
            raise
        _meet(0)
    finally:
        _parts.leave()


def _device() -> torch.device:
    """Where what travels must lie."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _travels(collective: Callable[[], _Result]) -> _Result:
    """Run a collective; where it fails, the others are lost, and nobody is told anything more."""
    try:
        return collective()
    except Exception as error:
        _parts.fail(error, 1)
        raise


def _objects(value: Any) -> list[Any]:
    values: list[Any] = [None] * world()[1]
    _travels(lambda: dist.all_gather_object(values, value))
    return values


def _numbers(number: int) -> list[int]:
    """Every rank's number."""
    device = _device()
    every = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world()[1])]
    _travels(lambda: dist.all_gather(every, torch.tensor([number], device=device)))
    return [int(one) for one in every]


def _meet(number: int) -> list[int]:
    """Every rank's number before a collective, or the error of those that do not come to it."""
    if _parts.error is not None:  # caught by somebody; the others have left
        raise _parts.error
    numbers = _numbers(number)
    if _FAILED not in numbers:
        return numbers
    failures: list[_Failure | None] = _objects(None)
    rank, failure = next((rank, failure) for rank, failure in enumerate(failures) if failure is not None)
    error = failure.kind(f"Process {rank} failed while {failure.what}: {failure.said}")
    _parts.fail(error, _outermost(failures))
    raise error


def _tell(what: str, error: Exception) -> None:
    """Say at the others' next collective that this process does not come to it."""
    shared = isinstance(error, SharedError | torch.OutOfMemoryError)
    kind = type(error) if shared else RuntimeError
    _numbers(_FAILED)
    failures = _objects(_Failure(_parts.depth, what, f"{type(error).__name__}: {error}", kind))
    _parts.fail(error, _outermost(failures))


def _outermost(failures: list[_Failure | None]) -> int:
    """Of the parts in which processes failed."""
    return min(failure.depth for failure in failures if failure is not None)


def warn_once(message: str) -> None:
    """Warn the user, in the first process alone."""
    if world()[0] == 0:
        warnings.warn(message, UserWarning, stacklevel=3)


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank; any nesting of tensors and plain Python."""
    if world()[1] == 1:
        return value
    _meet(0)
    box = [value]
    _travels(lambda: dist.broadcast_object_list(box, src=0))
    return box[0]
