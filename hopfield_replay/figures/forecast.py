"""Figures of a forecast: what will be forgotten, and what a buffer would protect."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from hopfield_replay.utilities.drawing import (
    GUIDE,
    SMALL,
    histogram,
    legend_above,
    new_figure,
    panels,
    series_style,
    spans_decades,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rises_and_protection(
    rises: Tensor, capacities: Sequence[int], curves: Mapping[str, Sequence[float]], recommended: int | None = None
) -> "Figure":
    """Left: the distribution of the predicted energy rises; right: the protected energy against the buffer's size.

    Args:
        rises: (n,) predicted rise of each old sample.
        capacities: buffer sizes, rising.
        curves: for each policy the mean protected energy at each size; at most eight are told apart.
        recommended: the size to mark; None: none.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> curves = {"random": [2.0, 3.0], "greedy_gain": [4.0, 5.0]}
        >>> left, right = rises_and_protection(torch.rand(100), [20, 50], curves, recommended=50).axes
        >>> right.get_legend_handles_labels()[1]
        ['random', 'greedy_gain', 'recommended: 50']
    """
    figure = new_figure(4.2)
    left, right = panels(figure, 2, 2)
    histogram(left, rises, "old samples")
    left.set_xlabel("predicted energy rise\n(squared units of the vectors)")
    for i, (name, values) in enumerate(curves.items()):
        right.plot(capacities, values, label=name, **series_style(i))
    if recommended is not None:
        right.axvline(recommended, color=GUIDE, linewidth=0.8, zorder=0, label=f"recommended: {recommended}")
    if spans_decades(capacities) or capacities[-1] > 10 * capacities[0]:
        right.set_xscale("log")
        right.set_xticks(list(capacities), [str(size) for size in capacities], fontsize=SMALL)
        right.minorticks_off()
    if spans_decades(value for values in curves.values() for value in values):
        right.set_yscale("log")
    right.set_xlabel("samples kept")
    right.set_ylabel("protected energy, mean over old samples\n(squared units of the vectors)")
    legend_above(right, columns=2)
    return figure
