"""What Lightning says, at every fit, of checkpoints in its folder: those of a later task are of the tasks before."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def earlier_checkpoints_expected(expected: bool) -> Iterator[None]:
    """Leave out, inside, the warning that the folder of checkpoints is not empty; all other filters stay as they are.

    Args:
        expected: whether tasks of this call have written there.

    Example:
        >>> with warnings.catch_warnings(record=True) as heard, earlier_checkpoints_expected(True):
        ...     warnings.warn("Checkpoint directory runs/mine exists and is not empty.", UserWarning)
        >>> len(heard)
        0
    """
    before = list(warnings.filters)
    if expected:
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    own = warnings.filters[0] if expected else None
    try:
        yield
    finally:
        if own in warnings.filters and own not in before:
            warnings.filters.remove(own)  # type: ignore[attr-defined]  # a list, annotated as a sequence


__all__ = ["earlier_checkpoints_expected"]
