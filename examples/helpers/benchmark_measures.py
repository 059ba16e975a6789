"""The numbers of the benchmark's runs: what each measured, which count, and their differences paired by seed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.benchmark_job import Job
from helpers.files import read_tensors
from helpers.study_statistics import student, worst_tenth

REFERENCE = "random"
Results = Mapping[Job, Mapping[str, Any]]
Chosen = Mapping[str, Mapping[int, Mapping[str, Any]]]  # method, seed
Runs = dict[str, dict[int, dict[str, float]]]  # method, seed
TESTED = ("final", "forgetting", "worst_tenth", "new_error")


def measures(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one run that the table has; nan where the run diverged."""
    numbers = result["numbers"]
    every, losses = torch.cat(old_rises(result)), result["losses"]
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
        "worst_class": max(class_rises(result).values()),
        "loss": torch.cat([losses[last][i] - losses[i][i] for i in range(last)]).mean(),
        "new_error": torch.stack([part.mean() for part in new]).mean(),
        "precision": numbers["precision-classifier"],
        "recall": numbers["recall-classifier"],
        "training": result["training_seconds"],
        "boundaries": result["boundary_seconds"],
        "kilobytes": result["bytes_kept"] / 1024,
    }
    return {name: float(value) if result["finite"] else math.nan for name, value in found.items()}


def old_rises(result: Mapping[str, Any]) -> list[Tensor]:
    """Forgetting (n,) of the held-out images of each earlier task: rise of the error since it was learned."""
    errors = zip(result["error_before"][:-1], result["error_after"][:-1], strict=True)
    return [after.mean(1) - before.mean(1) for before, after in errors]


def class_rises(result: Mapping[str, Any]) -> dict[int, float]:
    """Mean forgetting of the held-out images of each class of the earlier tasks."""
    return {
        int(label): float(rise[labels == label].mean())
        for rise, labels in zip(old_rises(result), result["labels"][:-1], strict=True)
        for label in labels.unique()
    }


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


def chosen_results(
    results: Mapping[Job, Mapping[str, Any]], values: Mapping[str, float], kept: int, tuning: int
) -> dict[str, dict[int, Mapping[str, Any]]]:
    """What the page is made of, by method and seed: with the tuned value, and of seeds that nothing was tuned on."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for job, result in results.items():
        same = job.value == values.get(job.method) or (math.isnan(job.value) and math.isnan(values.get(job.method, 0)))
        if same and job.kept == kept and job.seed != tuning:
            found.setdefault(job.method, {})[job.seed] = result
    return found


def measured(chosen: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Runs:
    """The numbers of each run."""
    return {name: {seed: measures(result) for seed, result in by_seed.items()} for name, by_seed in chosen.items()}


def differences(runs: Runs, reference: str = REFERENCE) -> dict[tuple[str, str], dict[str, float]]:
    """Paired differences to the reference, by method and measure: mean, half width of Student's t, and its p-value."""
    found = {}
    for method, mine in runs.items():
        seeds = sorted(mine.keys() & runs.get(reference, {}).keys())
        if method == reference or len(seeds) < 2:
            continue
        for name in TESTED:
            values = [mine[seed][name] - runs[reference][seed][name] for seed in seeds]
            one = student([value for value in values if math.isfinite(value)])
            if one["seeds"] > 1:
                found[method, name] = one | {"half": (one["high"] - one["low"]) / 2}
    return found
