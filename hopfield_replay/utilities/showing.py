"""How results show themselves: at a prompt in a line, in a notebook as a table, as a frame, as a plot."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from hopfield_replay.utilities import html
from hopfield_replay.utilities.drawing import Plot, axes_for
from hopfield_replay.utilities.frames import as_frame
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_MOST = 12  # rows that a notebook shows of a long table


class ShownSettings:
    """Shows itself as its class and what its constructor was given, as far as attributes of the same names hold it.

    Example:
        >>> class Threshold(ShownSettings):
        ...     def __init__(self, level, above=len):
        ...         self.level, self.above = level, above
        >>> Threshold(0.5)
        Threshold(level=0.5, above=len)
    """

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={_setting(getattr(self, name))}' for name in names)})"


def _setting(value: Any) -> str:
    """A value in short: functions and modules by their names."""
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else repr(value)


class ShownText(str):
    r"""Text that a prompt shows as it prints, without quotes, and a notebook as a table.

    Args:
        text: the text.
        markup: the same as HTML, made with :mod:`hopfield_replay.utilities.html`; None: the text as it is.

    Example:
        >>> ShownText("task  rise\n   0   0.1")
        task  rise
           0   0.1
        >>> ShownText("<b>")._repr_html_()
        '<pre>&lt;b&gt;</pre>'
    """

    __slots__ = ("_markup",)
    _markup: str | None

    def __new__(cls, text: str, markup: str | None = None) -> Self:  # noqa: D102  # documented on the class
        made = super().__new__(cls, text)
        made._markup = markup
        return made

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self._markup)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self)}</pre>" if self._markup is None else self._markup


class Shown(ABC):
    """A result that shows itself, everywhere in the same way."""

    @abstractmethod
    def _line(self) -> str:
        """What it is, in one line: no tensors, no addresses."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """What :meth:`to_frame` shows, in plain Python."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All of it in plain Python, ready for ``json.dumps``: None for what is no finite number."""

    @abstractmethod
    def _draw(self, axis: "Axes") -> None:
        """Draw the one picture that tells most."""

    def __repr__(self) -> str:
        return printable(self._line(), None)

    def _tables(self) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        """Headers and cells of the tables that a notebook shows."""
        rows = self.rows()
        return [(list(rows[0]), [list(map(cell, row.values())) for row in rows])] if rows else []

    def _repr_html_(self) -> str:
        parts = [html.paragraph(repr(self))]
        for headers, rows in self._tables():
            parts.append(html.table(headers, rows[:_MOST]))
            if len(rows) > _MOST:
                parts.append(html.paragraph(f"{_MOST} of {len(rows)} rows; .to_frame() has all.", "note"))
        return "".join(parts)

    def to_frame(self) -> "pd.DataFrame":
        """The rows as a pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        return as_frame(self.rows())

    def plot(self, ax: "Axes | None" = None) -> Plot:
        """Draw the picture that tells most.

        Args:
            ax: matplotlib axes to draw on; None: those of a new figure.

        Returns:
            The figure and the axes.

        Raises:
            ImportError: matplotlib is not installed.
            TypeError: ``ax`` is something else.
        """
        plot = axes_for(ax)
        self._draw(plot.axes)
        return plot


def cell(value: Any) -> str:
    r"""A value as a cell of a table: floats with four digits, nothing for None.

    Example:
        >>> cell(0.123456), cell(3), cell(None), cell("cat\n")
        ('0.1235', '3', '', 'cat\\n')
    """
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else printable(value)


def jsonable(value: Any) -> Any:
    """Tensors as lists, keys as text, and None for what is no finite number (JSON knows none).

    Example:
        >>> jsonable({0: float("nan"), "rises": Tensor([0.5])})
        {'0': None, 'rises': [0.5]}
    """
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["Shown", "ShownSettings", "ShownText", "cell", "jsonable"]
