"""The benchmark's figures: what quality costs, old against new, and whether forgetting was to be expected."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from helpers.benchmark_measures import Results, Runs, measures
from helpers.benchmark_methods import METHODS
from helpers.benchmark_questions import foreseen_runs
from helpers.files import write_figure


def draw_price(runs: Runs, folder: Path) -> None:
    """Quality at the end against bytes kept and against seconds, one dot for each method."""
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (name, label) in zip(
        axes, (("kilobytes", "kept beside the model, kB"), ("training", "training, CPU seconds")), strict=True
    ):
        for method, mine in runs.items():
            x, y = (float(np.nanmean([run[one] for run in mine.values()])) for one in (name, "final"))
            x = max(x, 0.1)
            axis.plot(x, y, "o")
            axis.annotate(method, (x, y), fontsize=6, xytext=(3, 2), textcoords="offset points")
        axis.set_xlabel(label)
        axis.set_yscale("log")
    axes[0].set_xscale("log")
    axes[0].set_ylabel("FID-classifier after the last task")
    write_figure(folder / "price.png", figure)


def draw_frontier(results: Results, kept: int, tuning: int, folder: Path) -> None:
    """Forgetting against the error on new tasks: a line through the means at every value that was run of a method."""
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    axis = figure.subplots()
    for name in METHODS:
        by_value: dict[float, list[dict[str, float]]] = {}
        for job, result in results.items():
            if job.method == name and job.kept == kept and job.seed != tuning and result["finite"]:
                by_value.setdefault(job.value, []).append(measures(result))
        points = [
            [float(np.mean([run[key] for run in by_value[value]])) for key in ("new_error", "forgetting")]
            for value in sorted(by_value)
        ]
        if points:
            x, y = zip(*points, strict=True)
            axis.plot(x, y, "o-", markersize=4)
            axis.annotate(name, (x[-1], y[-1]), fontsize=6, xytext=(3, 2), textcoords="offset points")
    axis.set(xlabel="error (loss) on new tasks", ylabel="forgetting (rise of the error on old tasks)")
    write_figure(folder / "frontier.png", figure)


def draw_foreseen(results: Results, kept: int, tuning: int, folder: Path) -> None:
    """What was known before the last task against what was forgotten, a dot for each run."""
    runs = foreseen_runs(results, kept, tuning)
    figure = Figure(figsize=(8, 4), dpi=100, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, predictor, label in zip(
        axes,
        ("replayed", "drawn"),
        ("rise of the energy under what is trained on", "replay gain of what is kept, as drawn"),
        strict=True,
    ):
        for i, name in enumerate(dict.fromkeys(job.method for job in runs)):
            mine = [run for job, run in runs.items() if job.method == name and predictor in run]
            if mine:
                x, y = ([run[key] for run in mine] for key in (predictor, "forgetting"))
                axis.plot(x, y, "os^Dv"[i % 5], color=f"C{i % 10}", markersize=4, label=name)
        axis.set_xlabel(label)
    axes[0].set_ylabel("forgetting (rise of the error)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=4, fontsize=7)
    write_figure(folder / "foreseen.png", figure)


def draw_all(results: Results, runs: Runs, kept: int, tuning: int, folder: Path) -> None:
    """All of them."""
    draw_price(runs, folder)
    draw_frontier(results, kept, tuning, folder)
    draw_foreseen(results, kept, tuning, folder)
