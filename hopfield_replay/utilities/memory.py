"""Memory: what may be taken for a file, and what to say when there is none left."""

import contextlib
import re
from collections.abc import Iterator

MAX_PIXELS = 1 << 26  # of one image, 8192 x 8192, likewise
MAX_BYTES = 1 << 32  # that one source of samples, or one model, may take unless the caller allows more
_HOST = re.compile(r"can't allocate memory|not enough memory|cannot allocate memory|bad_alloc", re.IGNORECASE)
_SAID = ("There is not enough memory for", "fit into the device's memory")  # what and why was said already
_BYTES = re.compile(r"(\d+) bytes")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on a device or on the host, where torch says so in plain words.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not fit"))
        (True, False)
    """
    if isinstance(error, MemoryError):
        return True
    return (isinstance(error, RuntimeError) and "out of memory" in str(error)) or is_out_of_host_memory(error)


def is_out_of_host_memory(error: BaseException) -> bool:
    """Whether torch, or the system, says that the host's memory has run out."""
    return isinstance(error, RuntimeError | OSError) and _HOST.search(str(error)) is not None


@contextlib.contextmanager
def memory_for(what: str, cure: str) -> Iterator[None]:
    """Say what memory was needed for if it runs out inside the block, and what helps.

    Args:
        what: that is made there.
        cure: what the user can do, a sentence without its full stop.

    Raises:
        MemoryError: memory has run out.

    Example:
        >>> import torch
        >>> with memory_for("a wide matrix", "make it narrower"):
        ...     torch.empty(1 << 58)
        Traceback (most recent call last):
        MemoryError: There is not enough memory for a wide matrix (1152921504606846976 bytes more): make it narrower.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        told = any(words in str(error) for words in _SAID)
        if told or not is_out_of_memory(error):
            raise
        host = isinstance(error, MemoryError) or is_out_of_host_memory(error)
        needed = _BYTES.search(str(error)) if host else None
        more = f" ({needed[1]} bytes more)" if needed else "" if host else f" ({str(error).splitlines()[0]})"
        raise MemoryError(f"There is not enough memory for {what}{more}: {cure}.") from error


__all__ = ["MAX_BYTES", "MAX_PIXELS", "is_out_of_host_memory", "is_out_of_memory", "memory_for"]
