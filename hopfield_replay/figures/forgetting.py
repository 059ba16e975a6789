"""Figures of what a model forgot: against the energies, and task after task."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from hopfield_replay.functional.correlation import spearman
from hopfield_replay.tracker.record import BoundaryRecord
from hopfield_replay.utilities.drawing import (
    COLOURS,
    GUIDE,
    MARKERS,
    draw_lines,
    legend_above,
    legend_below,
    new_figure,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SERIES = len(COLOURS)
_MEASURES = {"energy": (0, "energy after its own task"), "rise": (1, "intrinsic forgetting: energy rise since then")}


def energy_against_forgetting(
    record: Mapping[str, Any], *, panel: Literal["energy", "rise"] | None = None
) -> "Figure | None":
    """Per-sample scatter after one task: what the energies say against what the model lost.

    Left: reconstruction forgetting against the energy before the task change; right: against the energy rise, which is
    the intrinsic forgetting. Each dot is a probe of an earlier task; Spearman's rank correlation is in the legends. Of
    more than eight earlier tasks neighbours share a colour and one correlation.

    Args:
        record: one item of a ForgettingTracker's history, or its ``to_dict()``, of a task after the first, measured
            with a denoiser.
        panel: only the left (``"energy"``) or the right (``"rise"``) one, 400 pixels wide, for a card of a dashboard.

    Returns:
        The figure; None if there is nothing to show.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> energies = {"energy_start": torch.tensor([1.0, 2.0, 3.0]), "energy": torch.tensor([4.0, 6.0, 9.0])}
        >>> errors = {"error_start": torch.zeros(3, 1), "error": torch.tensor([[0.1], [0.2], [0.4]])}
        >>> figure = energy_against_forgetting({"task": 1, "probes": [{"task": 0, **energies, **errors}]})
        >>> [axis.get_legend_handles_labels()[1] for axis in figure.axes]
        [['task 0: Spearman +1.00 (n = 3)'], ['task 0: Spearman +1.00 (n = 3)']]
    """
    boundary = BoundaryRecord.of(record)
    earlier = [
        (probe.task, probe.energy_start, probe.intrinsic, forgetting)
        for probe in boundary.probes
        if probe.task < boundary.task and (forgetting := probe.reconstruction) is not None
    ]
    if not earlier:
        return None
    size = -(-len(earlier) // _SERIES)
    groups = [earlier[i : i + size] for i in range(0, len(earlier), size)]
    shown = [name for name in _MEASURES if panel in (None, name)]
    figure = new_figure((3.9 if panel is None else 2.6) + 0.2 * len(groups), narrow=panel is not None)
    axes = panels(figure, len(shown), 2, sharey=True)
    for axis, (part, label) in zip(axes, (_MEASURES[name] for name in shown), strict=True):
        for i, group in enumerate(groups):
            x, y = (torch.cat([probe[column] for _, *probe in group]) for column in (part, 2))
            rho = spearman(x, y) if len(x) > 2 else float("nan")
            first, last = group[0][0], group[-1][0]
            name = f"task {first}" if first == last else f"tasks {first}-{last}"
            axis.scatter(
                x,
                y,
                s=12,
                alpha=0.6,
                linewidths=0,
                color=COLOURS[i],
                marker=MARKERS[i],
                label=f"{name}: Spearman {rho:+.2f} (n = {len(x)})",
            )
        axis.set_xlabel(f"{label}\n(squared units of the vectors)")
        axis.axhline(0.0, color=GUIDE, linewidth=0.8, zorder=0)
        legend_above(axis)
    axes[0].set_ylabel(
        "reconstruction forgetting\n(rise of the mean squared\nerror, per element)"
        if panel
        else "reconstruction forgetting\n(rise of the mean squared error, per element)"
    )
    figure.suptitle(f"Earlier tasks' probes after task {record['task']}", fontsize="medium")
    return figure


def forgetting_over_tasks(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    ylabel: str = "reconstruction forgetting of earlier tasks\n(rise of the mean squared error, per element)",
    *,
    narrow: bool = False,
) -> "Figure":
    """Forgetting after each task, one line for each run (or for each task of one run).

    Args:
        curves: for each name the points (task that ended, forgetting).
        ylabel: what is forgotten, with its unit.
        narrow: 400 pixels wide, for a card of a dashboard.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> (axis,) = forgetting_over_tasks({"none": [(1, 0.09), (2, 0.1)], "random": [(1, 0.01), (2, 0.02)]}).axes
        >>> [line.get_ydata().tolist() for line in axis.lines[:2]], axis.get_xticks().tolist()
        ([[0.09, 0.1], [0.01, 0.02]], [1, 2])
    """
    columns = min(3 if narrow else 5, len(curves))
    figure = new_figure((2.6 if narrow else 3.6) + 0.2 * -(-len(curves) // columns), narrow=narrow)
    (axis,) = panels(figure, 1, 1)
    draw_lines(axis, curves)
    axis.axhline(0.0, color=GUIDE, linewidth=0.8, zorder=0)
    axis.set_xticks(sorted({at for points in curves.values() for at, _ in points}))
    axis.set_xlabel("after task")
    axis.set_ylabel(ylabel)
    legend_below(figure, axis, columns)
    return figure
