"""What the benchmark's results say: one table of methods, their differences, and a page with all that was asked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from helpers.benchmark_measures import (
    REFERENCE,
    TESTED,
    Chosen,
    Results,
    Runs,
    chosen_results,
    class_rises,
    differences,
    measured,
)
from helpers.benchmark_methods import METHODS
from helpers.benchmark_presets import Preset
from helpers.benchmark_questions import noise_levels_table, paper_table, prediction_table, samples_table, tercile_table
from helpers.study_statistics import interval, rejected
from hopfield_replay.theory import markdown_table

COVERAGE = ("weighted k-means", "facility_location + weight", "greedy_gain, by weight", "random", "random, by class")
COLUMNS = {  # measure: heading, format, whether lower is better
    "final": ("FID-classifier, end", ".1f"),
    "incremental": ("FID, over the tasks", ".1f"),
    "rate": ("FID, forgetting", ".1f"),
    "kid": ("KID-classifier, end", ".3f"),
    "old_right": ("old classes right", ".3f"),
    "forgetting": ("error, forgetting", ".4f"),
    "worst_tenth": ("worst 10 %", ".4f"),
    "worst_class": ("worst class", ".4f"),
    "loss": ("loss, forgetting", ".4f"),
    "new_error": ("error, new tasks", ".4f"),
    "precision": ("precision, old", ".3f"),
    "recall": ("recall, old", ".3f"),
    "training": ("training, CPU s", ".0f"),
    "boundaries": ("boundaries, s", ".1f"),
    "kilobytes": ("kept, kB", ".0f"),
}


def methods_table(runs: Runs, values: Mapping[str, float]) -> str:
    """One row for each method: means over the seeds; a star: not random's, by Holm's method over all of them."""
    against = differences(runs)
    stars = rejected({name: one["p"] for name, one in against.items()})
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


def differences_table(runs: Runs, reference: str = REFERENCE, methods: Sequence[str] = tuple(METHODS)) -> str:
    """Each method against another, paired by seed, with Student's and bootstrap intervals."""
    against = {one: found for one, found in differences(runs, reference).items() if one[0] in methods}
    stars = rejected({name: one["p"] for name, one in against.items()})
    rows = []
    for method in methods:
        if not any(name == method for name, _ in against):
            continue
        cells = []
        for name in TESTED:
            one = against.get((method, name))
            if one is None:
                cells.append("")
                continue
            form = COLUMNS[name][1]
            seeds = sorted(runs[method].keys() & runs[reference].keys())
            pairs = [runs[method][seed][name] - runs[reference][seed][name] for seed in seeds]
            boot = interval([pair for pair in pairs if not math.isnan(pair)])
            star = "*" * ((method, name) in stars)
            cells.append(
                f"{one['mean']:+{form}}{star} ±{one['half']:{form}} [{boot['low']:+{form}}, {boot['high']:+{form}}]"
            )
        rows.append([method, *cells])
    return markdown_table([f"against {reference}", *(COLUMNS[name][0] for name in TESTED)], rows)


def classes_table(chosen: Chosen) -> str:
    """Mean forgetting of the held-out images of each class that is not of the newest task, by method."""
    rows, classes = (
        [],
        sorted({label for runs in chosen.values() for run in runs.values() for label in class_rises(run)}),
    )
    for name in METHODS:
        if name in chosen:
            runs = [class_rises(run) for run in chosen[name].values() if run["finite"]]
            rows.append([name, *(f"{np.mean([run[label] for run in runs]):.4f}" if runs else "" for label in classes)])
    return markdown_table(["error, forgetting of class", *map(str, classes)], rows)


def report(results: Results, preset: Preset, values: Mapping[str, float], tuning: int, accuracy: float) -> str:
    """The whole page."""
    chosen = chosen_results(results, values, preset.kept, tuning)
    runs = measured(chosen)
    parts: list[tuple[str, Callable[[], str]]] = [
        ("Methods", lambda: methods_table(runs, values)),
        ("Against random, paired by seed", lambda: differences_table(runs)),
        ("Against greedy_gain, paired by seed", lambda: differences_table(runs, "greedy_gain", COVERAGE)),
        ("Forgetting of each class", lambda: classes_table(chosen)),
        ("The paper's questions", lambda: paper_table(chosen)),
        ("Which samples are forgotten", lambda: samples_table(chosen)),
        ("Who is protected", lambda: tercile_table(chosen)),
        ("Which noise levels forget", lambda: noise_levels_table(chosen)),
        ("Is the objective the right one?", lambda: prediction_table(results, preset.kept, tuning)),
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
