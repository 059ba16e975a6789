"""Figure of a series of versions: what each of them lost against the first."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hopfield_replay.utilities.drawing import GUIDE, SMALL, draw_lines, legend_below, new_figure, panels
from hopfield_replay.utilities.text import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CURVES = 8  # as many as have a look of their own


def rises_over_versions(
    versions: Sequence[str],
    curves: Mapping[str, Sequence[float]],
    threshold: float | None = None,
    last_passing: int | None = None,
) -> "Figure":
    """A curve for each group: its relative rise under each version, in the order of training.

    Args:
        versions: their names.
        curves: by group the relative rise under each version, 0.1 for ten per cent; nan where there is none. Of more
            than eight the first and the seven whose rise is highest at any version are drawn.
        threshold: rise that is allowed, as a line; None: none.
        last_passing: which version is marked; None: none.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> (axis,) = rises_over_versions(["a", "b"], {"all": [0.0, 0.2], "cat": [0.1, 0.5]}, 0.1, 0).axes
        >>> bool(axis.get_ylim()[1] > 50), axis.get_legend_handles_labels()[1]
        (True, ['all', 'cat', 'allowed', 'last that passes'])
    """
    figure = new_figure(3.9)
    (axis,) = panels(figure, 1, 1)
    draw_rises(axis, versions, curves, threshold, last_passing)
    legend_below(figure, axis, columns=3)
    return figure


def draw_rises(
    axis: "Axes",
    versions: Sequence[str],
    curves: Mapping[str, Sequence[float]],
    threshold: float | None,
    last_passing: int | None,
) -> None:
    """Draw :func:`rises_over_versions` on axes, without a legend."""
    first, *others = curves
    others.sort(key=lambda name: -max((value for value in curves[name] if not math.isnan(value)), default=-math.inf))
    drawn = {name: curves[name] for name in [first, *others[: _CURVES - 1]]}
    percent = {name: [100 * value for value in values] for name, values in drawn.items()}
    draw_lines(axis, {figure_label(name): list(enumerate(values)) for name, values in percent.items()})
    axis.axhline(0.0, color=GUIDE, linewidth=0.8, zorder=0)
    if threshold is not None:
        axis.axhline(100 * threshold, color="black", linestyle=(0, (4, 3)), linewidth=1.2, label="allowed")
    if last_passing is not None:
        axis.axvline(last_passing, color=GUIDE, linewidth=8, alpha=0.35, zorder=0, label="last that passes")
    names = [figure_label(name) for name in versions]
    long = sum(map(len, names)) > 80
    axis.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center")
    axis.tick_params(axis="x", labelsize=SMALL)
    axis.set_xlim(-0.3, len(names) - 0.7)
    axis.set_ylabel("relative rise of the error (%)")
    axis.set_xlabel("version, in the order of training")


__all__ = ["draw_rises", "rises_over_versions"]
