"""The benchmark's figures: what quality costs, old against new, and whether forgetting was to be expected."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from helpers.benchmark_measures import Results, Runs, measures
from helpers.benchmark_methods import METHODS
from helpers.benchmark_questions import foreseen_runs
from helpers.files import write_figure

Points = Mapping[str, Sequence[tuple[float, float]]]  # by method


def draw_price(runs: Runs, folder: Path) -> None:
    """Quality at the end against bytes kept and against seconds, one dot for each method."""
    panels: list[Points] = []
    for axis in ("kilobytes", "training"):
        means = {
            name: [np.nanmean([run[key] for run in mine.values()]) for key in (axis, "final")]
            for name, mine in runs.items()
        }
        panels.append({name: [(max(float(x), 1.0), float(y))] for name, (x, y) in means.items()})
    figure, axes = _drawn(panels, "")
    axes[0].set(xscale="log", xlabel="kept beside the model, kB (none: 1)", ylabel="FID-classifier after the last task")
    axes[1].set(xlabel="training, CPU seconds")
    for axis in axes:
        axis.set_yscale("log")
    write_figure(folder / "price.png", figure)


def draw_frontier(results: Results, kept: int, tuning: int, folder: Path) -> None:
    """Forgetting against the error on new tasks: a line through the means at every value that was run of a method.

    Left all methods, right those that forget at most three times as much as random.
    """
    keys = ("new_error", "forgetting")
    points: dict[str, list[tuple[float, float]]] = {}
    for name in METHODS:
        by_value: dict[str, list[dict[str, float]]] = {}
        for job, result in sorted(results.items(), key=lambda one: (one[0].method, one[0].value)):
            if job.method == name and job.kept == kept and job.seed != tuning and result["finite"]:
                by_value.setdefault(f"{job.value}", []).append(measures(result))
        if by_value:
            means = [[np.mean([run[key] for run in same]) for same in by_value.values()] for key in keys]
            points[name] = [(float(x), float(y)) for x, y in zip(*means, strict=True)]
    limit = 3 * max((y for _, y in points.get("random", [])), default=math.inf)
    near = {name: mine for name, mine in points.items() if all(y <= limit for _, y in mine)}
    figure, axes = _drawn([points, near], "-")
    axes[0].set_yscale("symlog", linthresh=0.01)
    axes[0].set_ylabel("forgetting (rise of the error on old tasks)")
    for axis in axes:
        axis.set_xlabel("error (loss) on new tasks")
    write_figure(folder / "frontier.png", figure)


def draw_foreseen(results: Results, kept: int, tuning: int, folder: Path) -> None:
    """What was known before the last task against what was forgotten, a dot for each run."""
    runs = foreseen_runs(results, kept, tuning)
    panels: list[Points] = [
        {
            name: [(run[key], run["forgetting"]) for job, run in runs.items() if job.method == name and key in run]
            for name in METHODS
        }
        for key in ("replayed", "drawn")
    ]
    figure, axes = _drawn([{name: mine for name, mine in panel.items() if mine} for panel in panels], "")
    axes[0].set(xlabel="rise of the energy under what is trained on", ylabel="forgetting (rise of the error)")
    axes[1].set(xlabel="replay gain of what is kept, as drawn")
    for axis in axes:
        axis.set_yscale("log")
    write_figure(folder / "foreseen.png", figure)


def draw_all(results: Results, runs: Runs, kept: int, tuning: int, folder: Path) -> None:
    """All of them."""
    draw_price(runs, folder)
    draw_frontier(results, kept, tuning, folder)
    draw_foreseen(results, kept, tuning, folder)


def _drawn(panels: Sequence[Points], line: str) -> tuple[Figure, Sequence[Any]]:
    """One panel beside the other, every method in its own colour and shape, with one legend."""
    figure = Figure(figsize=(9, 5.5), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(panels))
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes, panels, strict=True):
        for name, points in panel.items():
            at = list(METHODS).index(name)
            x, y = zip(*points, strict=True)
            style = {"marker": "os^Dv"[at // 10 + at % 2 * 2], "linestyle": line or "none", "color": f"C{at % 10}"}
            (handles[name],) = axis.plot(x, y, markersize=6, label=name, **style)
        axis.grid(color="0.9", linewidth=0.6)
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncol=4, fontsize=7)
    return figure, axes
