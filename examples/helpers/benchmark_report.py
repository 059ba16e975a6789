"""What the benchmark's results say: one table of methods, a figure, and the questions that the method was built on."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import t, ttest_1samp
from torch import Tensor

from helpers.benchmark_job import Job, Preset
from helpers.benchmark_methods import METHODS
from helpers.files import read_tensors, write_figure
from helpers.study_statistics import interval, worst_tenth
from hopfield_replay import functional
from hopfield_replay.functional import spearman
from hopfield_replay.theory import markdown_table

REFERENCE = "random"
Runs = dict[str, dict[int, dict[str, Any]]]  # method, seed

COLUMNS = {  # measure: heading, format, whether lower is better
    "final": ("FID-classifier, end", ".1f"),
    "rate": ("FID, forgetting", ".1f"),
    "kid": ("KID-classifier, end", ".3f"),
    "old_right": ("old classes right", ".3f"),
    "forgetting": ("error, forgetting", ".4f"),
    "worst_tenth": ("worst 10 %", ".4f"),
    "loss": ("loss, forgetting", ".4f"),
    "new_error": ("error, new tasks", ".4f"),
    "precision": ("precision, old", ".3f"),
    "recall": ("recall, old", ".3f"),
    "training": ("training, CPU s", ".0f"),
    "boundaries": ("boundaries, s", ".1f"),
    "kilobytes": ("kept, kB", ".0f"),
}
TESTED = ("final", "forgetting", "worst_tenth", "new_error")


def measures(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one run that the table has; nan where the run diverged."""
    numbers = result["numbers"]
    rises = [
        after.mean(1) - before.mean(1)
        for before, after in zip(result["error_before"][:-1], result["error_after"][:-1], strict=True)
    ]
    every, losses = torch.cat(rises), result["losses"]
    last = len(losses) - 1
    new = [task_error.mean() for task_error in (row[-1] for row in losses[1:])]
    found = {
        "final": numbers["FID-classifier/average_final"],
        "rate": numbers["FID-classifier/forgetting_rate"],
        "incremental": numbers["FID-classifier/average_incremental"],
        "kid": numbers["KID-classifier/average_final"],
        "old_right": result["right"][last, :last].mean(),
        "forgetting": every.mean(),
        "worst_tenth": worst_tenth(every),
        "loss": torch.cat([losses[last][i] - losses[i][i] for i in range(last)]).mean(),
        "new_error": torch.stack([part.mean() for part in new]).mean(),
        "precision": numbers["precision-classifier"],
        "recall": numbers["recall-classifier"],
        "training": result["training_seconds"],
        "boundaries": result["boundary_seconds"],
        "kilobytes": result["bytes_kept"] / 1024,
    }
    return {name: float(value) if result["finite"] else math.nan for name, value in found.items()}


def read_runs(folder: Path) -> dict[Job, dict[str, Any]]:
    """All finished runs of a folder."""
    found = (read_tensors(path) for path in sorted(folder.glob("*.pt")))
    return {Job(**result["job"]): result for result in found}


def tuned(results: Mapping[Job, Mapping[str, Any]], method: str, kept: int, seed: int) -> float:
    """The value with the smallest distance at the end on the tuning seed; nan if nothing is tuned or has run.

    Distances of all tasks count, the newest too, so that holding on to the old at any price does not win.
    """
    tried = {
        job.value: measures(result)["final"]
        for job, result in results.items()
        if (job.method, job.kept, job.seed) == (method, kept, seed)
    }
    known = {value: distance for value, distance in tried.items() if not math.isnan(distance)}
    return min(known, key=known.__getitem__) if known else math.nan


def chosen_runs(results: Mapping[Job, Mapping[str, Any]], values: Mapping[str, float], kept: int, tuning: int) -> Runs:
    """The runs that the table is made of: with the tuned value, and of seeds that nothing was tuned on."""
    runs: Runs = {}
    for job, result in results.items():
        same = job.value == values.get(job.method) or (math.isnan(job.value) and math.isnan(values[job.method]))
        if job.method in values and same and job.kept == kept and job.seed != tuning:
            runs.setdefault(job.method, {})[job.seed] = measures(result)
    return runs


def holm(chances: Mapping[Any, float], level: float = 0.05) -> set[Any]:
    """Which null hypotheses are rejected, with at most ``level`` chance of a false one among all (Holm, 1979).

    Example:
        >>> sorted(holm({"a": 0.001, "b": 0.02, "c": 0.04, "d": 0.5}))  # .02 would have to lie below .05 / 3
        ['a']
    """
    adjusted = functional.holm(list(chances.values()))
    return {name for name, chance in zip(chances, adjusted, strict=True) if chance <= level}


def differences(runs: Runs, reference: str = REFERENCE) -> dict[tuple[str, str], dict[str, float]]:
    """Paired differences to the reference, by method and measure: mean, half width of Student's t, and its p-value."""
    found = {}
    for method, mine in runs.items():
        seeds = sorted(mine.keys() & runs.get(reference, {}).keys())
        if method == reference or len(seeds) < 2:
            continue
        for name in TESTED:
            values = np.array([mine[seed][name] - runs[reference][seed][name] for seed in seeds])
            values = values[np.isfinite(values)]
            if len(values) < 2:
                continue
            half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
            chance = float(ttest_1samp(values, 0).pvalue) if values.std() > 0 else 1.0
            found[method, name] = {"mean": float(values.mean()), "half": half, "p": chance, "seeds": len(values)}
    return found


def methods_table(runs: Runs, values: Mapping[str, float]) -> str:
    """One row for each method: means over the seeds; a star: not random's, by Holm's method over all of them."""
    against = differences(runs)
    stars = holm({name: one["p"] for name, one in against.items()})
    rows = []
    for name, method in METHODS.items():
        if name not in runs:
            continue
        mine = runs[name]
        diverged = sum(math.isnan(run["final"]) for run in mine.values())
        value = "" if method.tuned is None else f"{method.tuned} {values[name]:g}"
        row = [name, value, f"{len(mine)}" + (f", {diverged} diverged" if diverged else ""), method.keeps]
        for measure, (_, form) in COLUMNS.items():
            known = [run[measure] for run in mine.values() if not math.isnan(run[measure])]
            row.append(format(float(np.mean(known)), form) + "*" * ((name, measure) in stars) if known else "")
        rows.append([*row, str(method.lines)])
    return markdown_table(
        ["method", "tuned", "seeds", "what is kept", *(heading for heading, _ in COLUMNS.values()), "lines"], rows
    )


def differences_table(runs: Runs) -> str:
    """Each method against random, paired by seed, with Student's and bootstrap intervals."""
    against = differences(runs)
    stars = holm({name: one["p"] for name, one in against.items()})
    rows = []
    for method in METHODS:
        if not any(name == method for name, _ in against):
            continue
        cells = []
        for name in TESTED:
            one = against.get((method, name))
            if one is None:
                cells.append("")
                continue
            form = COLUMNS[name][1]
            seeds = sorted(runs[method].keys() & runs[REFERENCE].keys())
            pairs = [runs[method][seed][name] - runs[REFERENCE][seed][name] for seed in seeds]
            boot = interval([pair for pair in pairs if not math.isnan(pair)])
            star = "*" * ((method, name) in stars)
            cells.append(
                f"{one['mean']:+{form}}{star} ±{one['half']:{form}} [{boot['low']:+{form}}, {boot['high']:+{form}}]"
            )
        rows.append([method, *cells])
    return markdown_table(["against random", *(COLUMNS[name][0] for name in TESTED)], rows)


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


def prediction_table(results: Mapping[Job, Mapping[str, Any]]) -> str:
    """Whether the predicted rise of the energy ranks runs by what they forget: methods that replay, and none."""
    predicted, measured, plain = [], [], []
    groups: dict[str, list[tuple[float, float]]] = {}
    for job, result in results.items():
        if not result["finite"] or not result["expected"] or METHODS[job.method].regulariser is not None:
            continue
        last = result["expected"][-1]
        value = last.get("replayed", last["alone"])
        forgotten = measures(result)["forgetting"]
        predicted.append(value)
        measured.append(forgotten)
        plain.append(last["alone"])
        groups.setdefault(job.method, []).append((value, forgotten))
    rows = [["all", str(len(predicted)), rank(predicted, measured)]]
    rows += [
        [name, str(len(pairs)), rank([a for a, _ in pairs], [b for _, b in pairs])]
        for name, pairs in groups.items()
        if len(pairs) > 3
    ]
    means = [tuple(np.mean(pairs, axis=0).tolist()) for pairs in groups.values()]
    rows.insert(1, ["means of the methods", str(len(means)), rank([a for a, _ in means], [b for _, b in means])])
    return markdown_table(["runs of", "n", "Spearman, predicted rise against forgetting"], rows)


def rank(first: Sequence[float], second: Sequence[float]) -> str:
    """Spearman's rank correlation as text."""
    if len(first) < 3:
        return ""
    return f"{spearman(torch.tensor(first), torch.tensor(second)):+.2f}"


def paper_table(results: Mapping[Job, Mapping[str, Any]], kept: int, tuning: int) -> str:
    """The paper's questions, as it asks them: energy against the level of the error, and arms by tercile of energy."""
    rows = []
    pairs: dict[str, list[float]] = {}
    for job, result in results.items():
        if job.method != "none" or job.seed == tuning:
            continue
        for task in range(len(result["error_after"]) - 1):
            before, after = result["error_before"][task].mean(1), result["error_after"][task].mean(1)
            energy, rise = result["energy_before"][task], result["energy_after"][task] - result["energy_before"][task]
            for name, (x, y) in {
                "energy before, error level after": (energy, after),
                "energy before, error level before": (energy, before),
                "energy before, rise of the error": (energy, after - before),
                "rise of the energy, rise of the error": (rise, after - before),
            }.items():
                pairs.setdefault(name, []).append(spearman(x, y))
    for name, values in pairs.items():
        rows.append(
            [f"Spearman, no replay: {name}", f"{np.mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"]
        )
    return markdown_table(["question", "mean over tasks and seeds (range)"], rows)


def tercile_table(results: Mapping[Job, Mapping[str, Any]], values: Mapping[str, float], kept: int, tuning: int) -> str:
    """Forgetting of held-out images in each third of the energy before, by method: mean difference to random."""
    thirds: dict[str, dict[int, Tensor]] = {}
    for job, result in results.items():
        value = values.get(job.method, math.nan)
        same = job.value == value or (math.isnan(job.value) and math.isnan(value))
        if job.kept != kept or job.seed == tuning or not same or not result["finite"]:
            continue
        parts: list[list[Tensor]] = [[], [], []]
        for task in range(len(result["error_after"]) - 1):
            rise = result["error_after"][task].mean(1) - result["error_before"][task].mean(1)
            for third, part in enumerate(result["energy_before"][task].argsort().tensor_split(3)):
                parts[third].append(rise[part])
        thirds.setdefault(job.method, {})[job.seed] = torch.stack([torch.cat(part).mean() for part in parts])
    rows = []
    for method in METHODS:
        mine, reference = thirds.get(method, {}), thirds.get(REFERENCE, {})
        seeds = sorted(mine.keys() & reference.keys())
        if seeds:
            shift = torch.stack([mine[seed] - (0 if method == REFERENCE else reference[seed]) for seed in seeds]).mean(
                0
            )
            rows.append(
                [method + (" (its forgetting)" if method == REFERENCE else ""), *(f"{float(v):+.4f}" for v in shift)]
            )
    return markdown_table(["held-out images, difference to random", "low energy", "middle", "high"], rows)


def noise_levels_table(results: Mapping[Job, Mapping[str, Any]], tuning: int) -> str:
    """Which noise levels forget: rise of the error at each measured timestep, without replay and with random."""
    rows = []
    for method in ("none", REFERENCE):
        rises, times = [], []
        for job, result in results.items():
            if job.method == method and job.seed != tuning and result["finite"]:
                times = result["timesteps"]
                parts = zip(result["error_before"][:-1], result["error_after"][:-1], strict=True)
                rises.append(torch.cat([after - before for before, after in parts]).mean(0))
        if rises:
            rows.append([method, *(f"{float(v):+.4f}" for v in torch.stack(rises).mean(0))])
            headings = ["rise of the error", *(f"t = {time}" for time in times)]
    return markdown_table(headings, rows) if rows else ""


def report(
    results: Mapping[Job, Mapping[str, Any]], preset: Preset, values: Mapping[str, float], tuning: int, accuracy: float
) -> str:
    """The whole page."""
    runs = chosen_runs(results, values, preset.kept, tuning)
    parts: list[tuple[str, Callable[[], str]]] = [
        ("Methods", lambda: methods_table(runs, values)),
        ("Against random, paired by seed", lambda: differences_table(runs)),
        ("The paper's questions", lambda: paper_table(results, preset.kept, tuning)),
        ("Who is protected", lambda: tercile_table(results, values, preset.kept, tuning)),
        ("Which noise levels forget", lambda: noise_levels_table(results, tuning)),
        ("Is the objective the right one?", lambda: prediction_table(results)),
    ]
    lines = [
        f"# Benchmark: {preset.data}",
        "",
        f"{len(results)} runs; {preset.tasks} tasks; settings {asdict(preset)}. Judged by a classifier that is right "
        f"on {accuracy:.1%} of other images. A star: not random's, by paired t-tests at 5 %, with Holm's method over "
        "all methods and tested columns.",
    ]
    for title, make in parts:
        lines += ["", f"## {title}", "", make()]
    return "\n".join(lines) + "\n"
