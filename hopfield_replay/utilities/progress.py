"""Progress bars: silent in the library, shown where a person waits."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

_Item = TypeVar("_Item")
_shown: ContextVar[bool] = ContextVar("shown", default=False)


@contextmanager
def show_progress(shown: bool = True) -> Iterator[None]:
    """Show a bar on standard error, if that is a terminal, for everything that is tracked inside.

    Args:
        shown: whether to show bars.

    Example:
        >>> with show_progress():
        ...     list(track([1, 2], "Counting"))
        [1, 2]
    """
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)


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
    if not _shown.get():
        return items
    from tqdm.auto import tqdm

    bar: Iterable[_Item] = tqdm(items, desc=description, total=total, leave=False, disable=None)  # None: no terminal
    return bar


__all__ = ["show_progress", "track"]
