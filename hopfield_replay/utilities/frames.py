"""Rows of plain Python as a pandas DataFrame, where pandas is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def as_frame(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Rows as a DataFrame; what is None in a column of numbers is NaN.

    Args:
        rows: cells by the names of their columns.

    Raises:
        ImportError: pandas is not installed.

    Example:
        >>> as_frame([{"task": 0, "rise": 0.5}, {"task": 1, "rise": None}]).rise.tolist()
        [0.5, nan]
    """
    return pandas().DataFrame(list(rows))


def pandas() -> Any:
    """The module.

    Raises:
        ImportError: it is not installed; the message names the command.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError('A DataFrame needs pandas: pip install "hopfield-replay[pandas]".') from error
    return pd


__all__ = ["as_frame", "pandas"]
