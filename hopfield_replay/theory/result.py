"""What every experiment hands back: numbers, a table, a figure, and the statements that the numbers support."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result(ABC):
    """Base of the result dataclasses; their fields hold plain Python values only.

    Attributes:
        statement: what the experiment puts to the test, one sentence.
    """

    statement: ClassVar[str]

    @abstractmethod
    def table(self) -> str:
        """Return the numbers as a Markdown table."""

    @abstractmethod
    def figure(self) -> "Figure":
        """Return a matplotlib figure (needs ``pip install 'hopfield-replay[tensorboard]'``)."""

    @abstractmethod
    def verdict(self) -> str:
        """Return whether the statement holds, always or on average, and where it stops; worked out from the numbers."""

    @abstractmethod
    def findings(self) -> list[str]:
        """Return the statements that these numbers support, one sentence each, worked out from the numbers."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as nested dicts and lists, ready for ``json.dumps``."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # subclasses are dataclasses


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows as an aligned Markdown table; floats with four significant digits.

    Args:
        headers: column names.
        rows: cells, one sequence as long as ``headers`` for each row.

    Returns:
        The table, without a trailing newline.

    Example:
        >>> print(markdown_table(["group", "rise"], [["outlier", 0.0300114]]))
        | group   | rise    |
        |---------|---------|
        | outlier | 0.03001 |
    """
    cells = [list(headers), *([f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


__all__ = ["Result", "markdown_table"]
