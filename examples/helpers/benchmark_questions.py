"""The questions that the method was built on, asked of the benchmark's runs: who forgets, where, was it foreseen?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.benchmark_job import Job
from helpers.benchmark_measures import REFERENCE, Chosen, Results, measures, old_rises
from helpers.benchmark_methods import METHODS
from helpers.study_statistics import by_tercile
from hopfield_replay.functional import spearman
from hopfield_replay.theory import markdown_table

PREDICTORS = {  # what is known before the last task: heading, and the sign of its correlation if it is right
    "replayed": ("rise of the energy under what is trained on", +1),
    "protected": ("replay gain, as certified", -1),
    "drawn": ("replay gain, as drawn", -1),
    "weighted": ("replay gain, as drawn, weighted by the rise", -1),
}


def paper_table(chosen: Chosen) -> str:
    """Spearman's correlation of a held-out image's energy with its error, without replay, at each boundary."""
    questions: dict[str, dict[int, list[float]]] = {}
    for result in chosen.get("none", {}).values():
        for number, record in enumerate(result.get("boundaries", []), 1):
            before, after = record["error_before"], record["error_after"]
            energy, rise = record["energy_before"], record["energy_after"] - record["energy_before"]
            for name, (x, y) in {
                "energy before, level of the error after": (energy, after),
                "energy before, level of the error before": (energy, before),
                "energy before, rise of the error": (energy, after - before),
                "rise of the energy, rise of the error": (rise, after - before),
                "level of the error before, rise of the error": (before, after - before),
            }.items():
                questions.setdefault(name, {}).setdefault(number, []).append(spearman(x, y))
    rows = []
    for name, by_boundary in questions.items():
        every = [value for values in by_boundary.values() for value in values]
        means = [f"{np.mean(values):+.2f}" for values in by_boundary.values()]
        rows.append([name, f"{np.mean(every):+.2f}", f"{min(every):+.2f} to {max(every):+.2f}", *means])
    count = max((len(by_boundary) for by_boundary in questions.values()), default=0)
    headings = ["Spearman, without replay", "mean", "range over seeds and boundaries"]
    return markdown_table([*headings, *(f"boundary {number}" for number in range(1, count + 1))], rows) if rows else ""


def samples_table(chosen: Chosen) -> str:
    """Spearman's correlations within each earlier task after the last one, by method: mean over tasks and seeds."""
    rows = []
    for method in METHODS:
        found: list[list[float]] = []
        for result in chosen.get(method, {}).values():
            for task in range(len(result["error_after"]) - 1) if result["finite"] else ():
                before, after = (result[f"error_{when}"][task].mean(1) for when in ("before", "after"))
                energy = result["energy_before"][task]
                rise = result["energy_after"][task] - energy
                found.append(
                    [spearman(rise, after - before), spearman(energy, after), spearman(energy, after - before)]
                )
        if found:
            low, high = np.min(found, axis=0)[0], np.max(found, axis=0)[0]
            means = [f"{value:+.2f}" for value in np.mean(found, axis=0)]
            rows.append([method, f"{means[0]} ({low:+.2f} to {high:+.2f})", *means[1:]])
    headings = [
        "rise of the energy, rise of the error",
        "energy before, level after",
        "energy before, rise of the error",
    ]
    return markdown_table(["Spearman, after the last task", *headings], rows) if rows else ""


def terciles(result: Mapping[str, Any]) -> Tensor:
    """Mean forgetting of the held-out images in each third of the energy before, low to high, over the old tasks."""
    return torch.tensor(by_tercile(old_rises(result), result["energy_before"][:-1]))


def tercile_table(chosen: Chosen) -> str:
    """Forgetting in each third of the energy before, by method: mean difference to random, paired by seed."""
    thirds = {
        name: {seed: terciles(run) for seed, run in runs.items() if run["finite"]} for name, runs in chosen.items()
    }
    reference, rows = thirds.get(REFERENCE, {}), []
    for method in METHODS:
        mine = thirds.get(method, {})
        seeds = sorted(mine.keys() & reference.keys())
        if not seeds:
            continue
        own = method == REFERENCE
        shifts = torch.stack([mine[seed] - (0 if own else reference[seed]) for seed in seeds])
        half = shifts.std(0) / math.sqrt(len(seeds)) if len(seeds) > 1 else torch.full((3,), math.nan)
        cells = [f"{float(v):+.4f} ± {float(e):.4f}" for v, e in zip(shifts.mean(0), half, strict=True)]
        rows.append([method + (" (its forgetting)" if own else ""), *cells])
    return markdown_table(["difference to random ± standard error", "low energy", "middle", "high"], rows)


def noise_levels_table(chosen: Chosen) -> str:
    """Rise of the training loss of old tasks' held-out images since each was learned, at ten noise levels."""
    rows, count = [], 0
    for method in ("none", REFERENCE, "greedy_gain", "greedy_gain at the levels that forget", "joint"):
        rises = []
        for result in chosen.get(method, {}).values():
            if result["finite"] and len(result.get("by_level", [])) > 1:
                after = result["by_level"]
                learned = torch.stack([after[task][task] for task in range(len(after) - 1)])
                rises.append((after[-1][:-1] - learned).mean(0))
        if rises:
            mean = torch.stack(rises).mean(0)
            count = len(mean)
            rows.append([method, *(f"{float(v):+.4f}" for v in mean)])
    headings = [f"{100 * i // count}-{100 * (i + 1) // count} %" for i in range(count)]
    return markdown_table(["rise of the loss at this part of the timesteps", *headings], rows) if rows else ""


def foreseen_runs(results: Results, kept: int, tuning: int) -> dict[Job, dict[str, float]]:
    """Of every run that replays, or does not, and nothing else: what was foreseen, and what it forgot."""
    found = {}
    for job, result in results.items():
        plain = METHODS[job.method].regulariser is None
        if plain and result["finite"] and result["expected"] and job.kept == kept and job.seed != tuning:
            last = result["expected"][-1]
            numbers = measures(result)
            known = last if "replayed" in last else {"replayed": last["alone"]}
            found[job] = {**known, "forgetting": numbers["forgetting"], "worst_tenth": numbers["worst_tenth"]}
    return found


def prediction_table(results: Results, kept: int, tuning: int) -> str:
    """How well what is known before the last task ranks runs by what they forget, and which methods it misjudges."""
    runs = foreseen_runs(results, kept, tuning)
    methods = [name for name in METHODS if any(job.method == name for job in runs)]
    by_method = {name: [run for job, run in runs.items() if job.method == name] for name in methods}
    rows = []
    for predictor, (heading, sign) in PREDICTORS.items():
        known = {name: [run for run in mine if predictor in run] for name, mine in by_method.items()}
        every = [run for mine in known.values() for run in mine]
        means = {
            name: {key: float(np.mean([run[key] for run in mine])) for key in (predictor, "forgetting", "worst_tenth")}
            for name, mine in known.items()
            if mine
        }
        within = [
            sign * value
            for mine in known.values()
            if len(mine) > 3 and not math.isnan(value := _rank(mine, predictor, "forgetting"))
        ]
        rows.append(
            [
                heading,
                f"{len(every)}",
                f"{sign * _rank(every, predictor, 'forgetting'):+.2f}",
                f"{sign * _rank(list(means.values()), predictor, 'forgetting'):+.2f}",
                f"{sign * _rank(list(means.values()), predictor, 'worst_tenth'):+.2f}",
                f"{np.mean(within):+.2f}" if within else "",
                misjudged(means, predictor),
            ]
        )
    headings = ["known before the last task", "runs", "all runs", "methods", "methods, worst 10 %", "within a method"]
    return (
        "Spearman's correlation with forgetting, its sign turned where more is to mean less forgetting, so that +1 is "
        "right: of all runs, of the means of the methods, and the mean over methods of that between their runs. Last: "
        "the methods furthest from a straight line through the means; + forgets more than the line says.\n\n"
        + markdown_table([*headings, "misjudged"], rows)
    )


def misjudged(means: Mapping[str, Mapping[str, float]], predictor: str) -> str:
    """The two methods with the largest residuals of a least-squares line, and its share of the variance."""
    if len(means) < 3:
        return ""
    x, y = (np.array([mean[key] for mean in means.values()]) for key in (predictor, "forgetting"))
    if not np.ptp(x) or not np.ptp(y):
        return ""
    residuals = y - np.polyval(np.polyfit(x, y, 1), x)
    largest = sorted(zip(means, residuals.tolist(), strict=True), key=lambda pair: -abs(pair[1]))[:2]
    explained = 1 - residuals.var() / y.var()
    return "; ".join(f"{name} {residual:+.4f}" for name, residual in largest) + f" (R² {explained:.2f})"


def _rank(runs: Sequence[Mapping[str, float]], first: str, second: str) -> float:
    if len(runs) < 3:
        return math.nan
    return spearman(torch.tensor([run[first] for run in runs]), torch.tensor([run[second] for run in runs]))
