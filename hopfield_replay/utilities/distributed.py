"""The few collectives that a tracker needs; without a process group each is the identity."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class SharedError(Exception):
    """An error that is of one kind on all ranks, so that all of them can go on in the same way."""


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
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(size)]
    dist.all_gather(counts, torch.tensor([len(tensor)], device=device))
    most = max(int(count) for count in counts)
    padded = torch.zeros(most, *tensor.shape[1:], dtype=tensor.dtype, device=device)
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)]).to(tensor.device)


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in the order of the ranks; plain Python and small tensors."""
    size = world()[1]
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


@contextmanager
def raise_on_all_ranks(what: str) -> Iterator[None]:
    """Run a part in which a rank may fail: if one does, all do, instead of waiting for it in the next collective.

    Args:
        what: is being done, for the others' error message. There must be no collective in it.

    Raises:
        RuntimeError: on the ranks that did not fail; those that did raise what they raised. A :class:`SharedError`
            is raised as one by all.

    Example:
        >>> with raise_on_all_ranks("adding"):
        ...     total = 1 + 1
        >>> total
        2
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    kind = type(error) if isinstance(error, SharedError) else RuntimeError
    errors = gather_objects(None if error is None else (f"{type(error).__name__}: {error}", kind))
    if error is not None:
        raise error
    for rank, failed in enumerate(errors):
        if failed is not None:
            raise failed[1](f"Process {rank} failed while {what}: {failed[0]}")


def warn_once(message: str) -> None:
    """Warn the user, in the first process alone."""
    if world()[0] == 0:
        warnings.warn(message, UserWarning, stacklevel=3)


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank; any nesting of tensors and plain Python."""
    if world()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
