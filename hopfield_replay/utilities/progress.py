"""Progress bars: silent in the library, shown where a person waits."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeVar

_Item = TypeVar("_Item")
_Where = Literal["nowhere", "terminal", "everywhere"]
_SILENCE = 10.0  # seconds without a line, where there is no terminal
_DELAY = 1.0  # seconds after which a bar appears: none does for what is done at once
_where: ContextVar[_Where] = ContextVar("where", default="nowhere")


@contextmanager
def show_progress(shown: bool = True, *, everywhere: bool = False) -> Iterator[None]:
    """Show a bar for everything that is tracked inside and takes longer than a second.

    Args:
        shown: whether to show bars.
        everywhere: also in notebooks and in files of logs; otherwise, where standard error is no terminal, a line every
            ten seconds takes the place of a bar.

    Example:
        >>> with show_progress():
        ...     list(track([1, 2], "Counting"))
        [1, 2]
    """
    token = _where.set("nowhere" if not shown else "everywhere" if everywhere else "terminal")
    try:
        yield
    finally:
        _where.reset(token)


def track(items: Iterable[_Item], description: str, total: int | None = None) -> Iterable[_Item]:
    """Iterate, with a bar where bars are shown.

    Args:
        items: what to iterate over.
        description: of the work, before the bar.
        total: number of items; None: their length, if they have one.

    Example:
        >>> list(track("ab", "Reading"))
        ['a', 'b']
    """
    where = _where.get()
    if where == "nowhere":
        return items
    if where == "terminal" and not sys.stderr.isatty():
        return _told(items, description, total)
    from tqdm.auto import tqdm

    disable = None if where == "terminal" else False  # None: tqdm looks for a terminal, and takes a notebook for none
    bar: Iterable[_Item] = tqdm(items, desc=description, total=total, leave=False, delay=_DELAY, disable=disable)
    return bar


def _told(items: Iterable[_Item], description: str, total: int | None) -> Iterator[_Item]:
    """Iterate, with a line every now and then: a bar is no text for a file."""
    count = total if total is not None else len(items) if isinstance(items, Sized) else None
    told = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - told > _SILENCE:
            told = time.monotonic()
            of = "" if count is None else f" of {count}"
            print(f"{description}: {done}{of} done", file=sys.stderr, flush=True)
        yield item


__all__ = ["show_progress", "track"]
