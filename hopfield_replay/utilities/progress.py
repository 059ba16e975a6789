"""Progress bars: silent in the library, shown where a person waits."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

_Item = TypeVar("_Item")
_delay: ContextVar[float | None] = ContextVar("delay", default=None)  # seconds; None: no bars


@contextmanager
def show_progress(shown: bool = True, *, delay: float = 0.0) -> Iterator[None]:
    """Show a bar on standard error, if that is a terminal, for everything that is tracked inside.

    Args:
        shown: whether to show bars.
        delay: seconds after which a bar appears, so that none does for what is done at once.

    Example:
        >>> with show_progress():
        ...     list(track([1, 2], "Counting"))
        [1, 2]
    """
    token = _delay.set(delay if shown else None)
    try:
        yield
    finally:
        _delay.reset(token)


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
    delay = _delay.get()
    if delay is None:
        return items
    from tqdm.auto import tqdm

    # disable=None: no bar where there is no terminal
    bar: Iterable[_Item] = tqdm(items, desc=description, total=total, leave=False, delay=delay, disable=None)
    return bar


__all__ = ["show_progress", "track"]
