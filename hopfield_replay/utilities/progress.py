"""Progress bars: silent in the library, shown where a person waits."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeVar

_Item = TypeVar("_Item")
_Where = Literal["nowhere", "terminal", "everywhere"]
_DELAY = 1.0  # seconds after which a bar appears: none does for what is done at once
_where: ContextVar[_Where] = ContextVar("where", default="nowhere")


@contextmanager
def show_progress(shown: bool = True, *, everywhere: bool = False) -> Iterator[None]:
    """Show a bar for everything that is tracked inside and takes longer than a second.

    Args:
        shown: whether to show bars.
        everywhere: also in notebooks and in files of logs; otherwise only where standard error is a terminal.

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
    from tqdm.auto import tqdm

    disable = None if where == "terminal" else False  # None: tqdm looks for a terminal, and takes a notebook for none
    bar: Iterable[_Item] = tqdm(items, desc=description, total=total, leave=False, delay=_DELAY, disable=disable)
    return bar


__all__ = ["show_progress", "track"]
