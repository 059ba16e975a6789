"""Ctrl-C at a moment when half of something is written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C (SIGINT) back until the block is done, so that what it changes is changed as a whole or not at all.

    In threads other than the main one there is nothing to hold back: signals do not arrive there.

    Example:
        >>> import os, signal
        >>> before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may ignore it
        >>> try:
        ...     with interrupts_wait():
        ...         os.kill(os.getpid(), signal.SIGINT)
        ...         done = True
        ... except KeyboardInterrupt:
        ...     print("interrupted after it was", done)
        interrupted after it was True
        >>> _ = signal.signal(signal.SIGINT, before)
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            handler(*received[0])
