"""Figures of the replay buffer: what came and went, and what it protects."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hopfield_replay.utilities.drawing import COLOURS, HATCHES, legend_below, new_figure, panels, series_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def buffer_turnover(counts: Mapping[int, tuple[int, int, int]], *, narrow: bool = False) -> "Figure":
    """Bars for each task: samples that stayed, came and (below zero) were dropped at a boundary.

    Args:
        counts: for each task (stayed, new, dropped).
        narrow: 400 pixels wide, for a card of a dashboard.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> (axis,) = buffer_turnover({0: (25, 0, 25), 1: (0, 25, 0)}).axes
        >>> axis.get_legend_handles_labels()[1]
        ['stayed (25)', 'new (25)', 'dropped (25)']
    """
    figure = new_figure(3.0 if narrow else 3.4, narrow=narrow)
    (axis,) = panels(figure, 1, 1)
    places = range(len(counts))
    stayed, new, dropped = ([row[part] for row in counts.values()] for part in range(3))
    for label, heights, bottom, style in (
        (f"stayed ({sum(stayed)})", stayed, [0] * len(stayed), 0),
        (f"new ({sum(new)})", new, stayed, 1),
        (f"dropped ({sum(dropped)})", [-count for count in dropped], [0] * len(stayed), 3),
    ):
        axis.bar(
            places,
            heights,
            0.7,
            bottom=bottom,
            label=label,
            color=COLOURS[style],
            hatch=HATCHES[style],
            edgecolor="white",
            linewidth=0,
        )
    step = max(1, -(-len(counts) // (10 if narrow else 20)))
    axis.set_xticks(list(places)[::step], [str(task) for task in counts][::step])
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.locator_params(axis="y", integer=True)
    axis.set_xlabel("task that the samples come from")
    axis.set_ylabel("samples in the buffer")
    legend_below(figure, axis, 3)
    return figure


def protected_energy_curve(
    sizes: Sequence[int],
    kept: Sequence[float],
    best: Sequence[float] = (),
    bound: float | None = None,
    *,
    narrow: bool = False,
) -> "Figure":
    """Protected energy against the number of samples kept, beside the greedy choice and the bound on any choice.

    Args:
        sizes: numbers of kept samples, rising.
        kept: what the first so many kept samples protect, mean over the followed samples.
        best: what a greedy choice that sees the followed samples protects; empty: not drawn.
        bound: no set of the last size protects more; None: not drawn.
        narrow: 400 pixels wide, for a card of a dashboard.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> (axis,) = protected_energy_curve([1, 5, 10], [2.0, 5.0, 6.0], bound=7.0).axes
        >>> axis.get_legend_handles_labels()[1]
        ['kept samples, best first', 'bound on any choice']
    """
    figure = new_figure(3.3 if narrow else 3.6, narrow=narrow)
    (axis,) = panels(figure, 1, 1)
    axis.plot(sizes, kept, label="kept samples, best first", **series_style(0))
    if best:
        axis.plot(sizes, best, label="greedy choice among them and the probes", **series_style(1))
    if bound is not None:
        axis.plot([sizes[-1]], [bound], label="bound on any choice", **series_style(3) | {"linestyle": "none"})
    axis.set_xscale("log")
    ticks = [10**power for power in range(6) if 10**power < sizes[-1] / 2.5]
    axis.set_xticks([*ticks, sizes[-1]], [str(size) for size in [*ticks, sizes[-1]]])
    axis.minorticks_off()
    axis.set_ylim(bottom=0.0)
    axis.set_xlabel("samples kept")
    axis.set_ylabel(
        "protected energy,\nmean over probes\n(squared units)"
        if narrow
        else "protected energy, mean over probes\n(squared units of the vectors)"
    )
    legend_below(figure, axis, 1 if narrow else 3)
    return figure
