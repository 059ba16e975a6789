"""The one place that makes figures and says how they look; matplotlib loads only here."""

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes  # rooms that import nothing but torch take it from here
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches; at 100 dots per inch a figure is 800 pixels wide, and its smallest text 11 pixels high
NARROW = 4.0  # inches; the cards of dashboards are about 350 pixels wide
SMALL = "small"  # tick labels, legends, titles of panels
LABEL = 9  # points, axis labels
# Okabe and Ito (2008), told apart by every kind of colour vision; grey instead of their yellow, faint on white
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#555555")
MARKERS = "os^vDP*X"  # colour i goes with marker, line and hatch i, so that a print in grey can be read
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 3)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "--", "oo")
GUIDE = "0.6"  # grey of zero lines and diagonals


class Plot(NamedTuple):
    r"""What every ``plot`` returns: ``figure, axes = result.plot()``; the last line of a notebook's cell shows it.

    Example:
        >>> plot = axes_for(None)
        >>> figure, axes = plot
        >>> axes in figure.axes, plot._repr_png_()[:4]
        (True, b'\x89PNG')
    """

    figure: "Figure"
    axes: "Axes"

    def _repr_png_(self) -> bytes | None:
        if getattr(self.figure, "number", None) is not None:
            return None  # pyplot has it in its list, and shows it itself
        return as_png(self.figure)


class Estimated(Protocol):
    """A mean with a confidence interval."""

    @property
    def mean(self) -> float:
        """The mean."""

    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""


def new_figure(height: float, *, narrow: bool = False) -> "Figure":
    """Return an empty matplotlib figure, 800 pixels wide, that belongs to no window and no global state.

    Args:
        height: inches (of 100 pixels), > 0.
        narrow: 400 pixels wide, for a card of a dashboard, which would shrink a wider one until it cannot be read.

    Returns:
        The figure; ``figure.savefig(path)`` writes it.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> new_figure(3.0).get_size_inches().tolist(), new_figure(3.0, narrow=True).get_size_inches().tolist()
        ([8.0, 3.0], [4.0, 3.0])
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Figures need matplotlib: pip install "hopfield-replay[tensorboard]".') from error
    figure: Any = Figure(figsize=(NARROW if narrow else WIDTH, height), dpi=100, layout="constrained")
    figure._repr_png_ = partial(as_png, figure)  # notebooks show it, also without pyplot
    return figure  # type: ignore[no-any-return]  # an attribute that matplotlib does not know


def as_png(figure: "Figure") -> bytes:
    """A figure as the bytes of a PNG file."""
    held = io.BytesIO()
    figure.savefig(held, format="png")
    return held.getvalue()


def axes_for(ax: "Axes | None", *, height: float = 3.6) -> Plot:
    """Where a ``plot`` draws: on the axes that are given, or on those of a new figure.

    Args:
        ax: of matplotlib; None: of a new figure.
        height: of the new figure, in inches.

    Raises:
        TypeError: something else.
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        figure = new_figure(height)
        return Plot(figure, panels(figure, 1, 1)[0])
    owner = getattr(ax, "get_figure", None)
    if owner is None or not hasattr(ax, "plot"):
        raise TypeError(f"ax must be matplotlib Axes (figure, ax = plt.subplots()), or None, got {type(ax).__name__}.")
    return Plot(owner(), ax)


def draw_lines(axis: "Axes", curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """A line for each curve through its points (x, y), in colours, markers and dashes of its own."""
    for i, (name, points) in enumerate(curves.items()):
        axis.plot([x for x, _ in points], [y for _, y in points], label=name, **series_style(i))


def draw_bars(axis: "Axes", values: Mapping[str, float], *, colour: int = 0) -> None:
    """A horizontal bar for each value, the first on top, and zero as a line."""
    places = range(len(values))
    axis.barh(places, list(values.values()), 0.7, color=COLOURS[colour])
    axis.set_yticks(places, list(values), fontsize=SMALL)
    axis.invert_yaxis()
    axis.axvline(0.0, color=GUIDE, linewidth=0.8)


def panels(figure: Any, count: int, per_row: int, **settings: Any) -> "list[Axes]":
    """Divide a figure into axes, beside and below each other, without the frame's upper and right line.

    Args:
        figure: of :func:`new_figure`, or one of its subfigures.
        count: number of axes, >= 1.
        per_row: so many beside each other, >= 1.
        settings: for ``Figure.subplots``, such as ``sharey=True``.

    Returns:
        The axes, row by row.

    Example:
        >>> figure = new_figure(4.0)
        >>> len(panels(figure, 3, per_row=2)), len(figure.axes)  # two rows, the last place stays empty
        (3, 4)
    """
    columns = min(count, per_row)
    grid = figure.subplots(-(-count // columns), columns, squeeze=False, **settings).flatten()
    for spare in grid[count:]:
        spare.set_axis_off()
    for axis in grid[:count]:
        plain(axis)
    return list(grid[:count])


def plain(axis: "Axes") -> None:
    """Take the frame's upper and right line away, and keep ticks and labels small and apart."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=SMALL)
    axis.locator_params(nbins=6)
    axis.xaxis.label.set_fontsize(LABEL)
    axis.yaxis.label.set_fontsize(LABEL)


def histogram(axis: "Axes", values: Tensor, what: str) -> None:
    """Draw how often values (n,) occur, their number in the label, and their mean as a dashed line."""
    axis.hist(values.numpy(), bins=40, color=COLOURS[0])
    mean = float(values.mean())
    axis.axvline(mean, color=COLOURS[3], linestyle="--", label=f"mean {mean:+.3g}")
    axis.locator_params(axis="y", integer=True)
    axis.set_ylabel(f"{what} (of {len(values)})")
    legend_above(axis)


def legend_above(axis: "Axes", columns: int = 1) -> None:
    """Put the legend above the axes, where it covers no data; the axes need no title then.

    Args:
        axis: one of :func:`panels`, with labelled lines, bars or dots in it.
        columns: entries of the legend beside each other.

    Example:
        >>> (axis,) = panels(new_figure(3.0), 1, 1)
        >>> _ = axis.plot([1, 2], [3, 4], label="forgetting")
        >>> legend_above(axis)
        >>> [text.get_text() for text in axis.get_legend().get_texts()]
        ['forgetting']
    """
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.02),
        borderaxespad=0.0,
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        columnspacing=1.2,
        markerscale=1.4,
        handletextpad=0.4,
    )


def legend_below(figure: Any, axis: "Axes", columns: int) -> None:
    """Put the legend of one of its axes below the whole figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL)


def series_style(i: int) -> dict[str, Any]:
    """Colour, marker and line of series ``i``, for ``plot`` or ``errorbar``; after eight, colours get new markers.

    Args:
        i: number of the series, from 0.

    Returns:
        Keyword arguments.

    Example:
        >>> series_style(0)["color"] == series_style(8)["color"], series_style(0)["marker"], series_style(8)["marker"]
        (True, 'o', 's')
    """
    style = i % len(COLOURS)
    marker = MARKERS[(style + i // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[style], "marker": marker, "linestyle": LINES[style]}


def half_widths(values: Sequence[Estimated]) -> list[list[float]]:
    """Lengths of error bars below and above the means, the way ``errorbar`` takes them."""
    return [[v.mean - v.interval()[0] for v in values], [v.interval()[1] - v.mean for v in values]]


def spans_decades(values: Iterable[float] | Tensor) -> bool:
    """Whether all values are positive and the largest is over 100 times the smallest: what a log axis is for.

    Example:
        >>> spans_decades([0.01, 2.0]), spans_decades([1.0, 2.0]), spans_decades([0.0, 1000.0])
        (True, False, False)
    """
    finite = torch.as_tensor(values if isinstance(values, Tensor) else list(values), dtype=torch.float64)
    finite = finite[finite.isfinite()]
    return bool(len(finite)) and bool(finite.min() > 0) and bool(finite.max() > 100 * finite.min())
