"""Changes that are made as a whole, whatever interrupts the program meanwhile."""

import _thread
import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Generic, TypeVar

_Result = TypeVar("_Result")
_inside = threading.local()  # whether this thread makes a change for another one


def to_the_end(change: Callable[[], _Result]) -> _Result:
    """Make a change as a whole: what interrupts the caller meanwhile arrives after it, or before it has begun.

    Signals wait for the end, those whose handlers raise (Ctrl-C, or an exit of the user's own) and those whose handlers
    look at what is being changed (a checkpoint that SLURM's signal asks for). So do exceptions that another thread
    raises in this one (timeouts of some libraries, notebooks), for the change runs in a thread of its own. Whoever
    calls this inside a change makes a part of it.

    Args:
        change: short, and free of what may take long or needs this thread: of user code, locks and settings of torch
            that hold for one thread. It runs at most once.

    Returns:
        What ``change`` returns.

    Raises:
        Exception: what ``change`` raises; whatever was held back.

    Example:
        >>> import os, signal
        >>> before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may ignore it
        >>> steps = []
        >>> def change():
        ...     os.kill(os.getpid(), signal.SIGINT)
        ...     steps.append("done")
        >>> try:
        ...     to_the_end(change)
        ... except KeyboardInterrupt:
        ...     print("interrupted after it was", *steps)
        interrupted after it was done
        >>> _ = signal.signal(signal.SIGINT, before)
    """
    if getattr(_inside, "change", False):
        return change()
    work, signals = _Work(change), _Signals()
    try:  # twice: whoever is hit in the inner one's last lines still has the outer one
        try:
            signals.hold()
            _thread.start_new_thread(work.run, ())  # threading's own way has locks that an exception here would break
            work.wait()
        finally:
            if work.has_begun():  # also if this thread was hit while it started that one
                work.wait()
            signals.restore()
    finally:
        if work.has_begun():
            work.wait()
        signals.restore()
    signals.deliver()
    return work.result()


class _Work(Generic[_Result]):
    """A change in a thread of its own, which begins unless it was given up before."""

    def __init__(self, change: Callable[[], _Result]) -> None:
        self._change = change
        self._claims: list[str] = []  # whoever stands first in it decides whether the change is made
        self._over = threading.Lock()
        self._over.acquire()
        self._outcomes: list[tuple[_Result | None, BaseException | None]] = []

    def run(self) -> None:
        """Make the change, unless it was given up."""
        self._claims.append("worker")
        if self._claims[0] != "worker":
            return
        _inside.change = True
        try:
            self._outcomes.append((self._change(), None))
        except BaseException as error:  # the caller's to handle
            self._outcomes.append((None, error))
        finally:
            self._over.release()

    def has_begun(self) -> bool:
        """Whether the change is made; if not, it never will be."""
        self._claims.append("caller")
        return self._claims[0] == "worker"

    def wait(self) -> None:
        """Return when the change is made."""
        while not self._outcomes:
            self._over.acquire(timeout=0.05)  # again and again: whoever was hit here may hold the lock already

    def result(self) -> _Result:
        """What the change returned; raises what it raised."""
        returned, error = self._outcomes[0]
        if error is not None:
            raise error
        return returned  # type: ignore[return-value]  # None only where the change returns it


class _Signals:
    """The signals that have a handler in Python; in other threads than the main one none arrives, and none is held."""

    def __init__(self) -> None:
        here = threading.current_thread() is threading.main_thread()
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()} if here else {}
        self._handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
        self._received: dict[int, FrameType | None] = {}  # each once, as the system itself counts them

    def hold(self) -> None:
        """Note what arrives from now on."""
        for number in self._handlers:
            signal.signal(number, self._received.setdefault)

    def restore(self) -> None:
        """Put the handlers back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """Call the handlers of what has arrived: all of them, also if one raises."""
        with contextlib.ExitStack() as calls:
            for number, frame in reversed(self._received.items()):
                calls.callback(self._handlers[signal.Signals(number)], number, frame)


__all__ = ["to_the_end"]
