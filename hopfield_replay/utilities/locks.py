"""A place that one run or one buffer uses at a time, told by a lock that goes with its process, however that ends."""

import contextlib
import errno
import os
import socket
import threading
import warnings
import weakref
from pathlib import Path

_held: set[tuple[int, int]] = set()  # files locked by this process, or by the one it was forked from
_guard = threading.Lock()
_BUSY = (errno.EACCES, errno.EAGAIN)


class InUse(ValueError):
    """Somebody else holds the lock; the message is who."""


class PathLock:
    """A lock on a file, held by one object of one process: not by processes that are forked from it.

    The operating system frees it when the process ends, also by a kill. On a file system that knows no locks (some
    network file systems) only this process keeps to it, and a warning says so.

    Args:
        path: the file, in a folder that exists.
        remove: whether the file goes when the lock is released; it stays after a kill, which does not matter.

    Attributes:
        shared: whether other processes see the lock.
        release: frees the lock; so does the end of this object.

    Raises:
        InUse: it is held by another object or process.
        OSError: the file cannot be made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = PathLock(Path(folder, "in_use"))
        ...     try:
        ...         PathLock(Path(folder, "in_use"))
        ...     except InUse as error:
        ...         print(str(error) == f"process {os.getpid()}, which is this one")
        ...     lock.release()
        True
    """

    def __init__(self, path: Path, *, remove: bool = False) -> None:
        with _guard:
            file, self.shared = _opened(path)
            status = os.fstat(file)
            key = (status.st_dev, status.st_ino)
            _held.add(key)
        with contextlib.suppress(OSError):  # for people; the lock holds without it
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self.release = weakref.finalize(self, _release, file, key, os.getpid(), path if remove else None)


def _opened(path: Path) -> tuple[int, bool]:
    """The file, locked, and whether other processes see that."""
    while True:
        if _key(path) in _held:  # to open it and close it again would free the lock
            raise InUse(f"process {os.getpid()}, which is this one")
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            shared = _lock(file, path)
            status = os.fstat(file)
            if _key(path) == (status.st_dev, status.st_ino):
                return file, shared
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # whoever held it removed it meanwhile: it is a lock on nothing


def _key(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _lock(file: int, path: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Unix
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a record lock: children do not inherit it
    except OSError as error:
        if error.errno in _BUSY:
            holder = os.read(file, 200).decode(errors="replace").strip()
            raise InUse(holder or "another process") from error
        warnings.warn(
            f"{path} cannot be locked ({error}): make sure that nobody else uses this folder at the same time.",
            stacklevel=6,
        )
        return False
    return True


def _release(file: int, key: tuple[int, int], process: int, remove: Path | None) -> None:
    if os.getpid() != process:  # what a forked process cleans up is not its own
        return
    with _guard:
        if remove is not None and _key(remove) == key:
            with contextlib.suppress(OSError):
                remove.unlink()
        _held.discard(key)
        os.close(file)


__all__ = ["InUse", "PathLock"]
