"""What the energy-forgetting study's results say, in numbers, with intervals over seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import t
from torch import Tensor

from helpers.study_job import Job, Settings
from hopfield_replay.functional import holm, spearman

RESAMPLES = 2000
TERCILES = ("low_energy", "middle_energy", "high_energy")  # of a task's held-out images, by their energy before
MEASURES = ("reconstruction", "worst_tenth", *TERCILES, "seen", "new_task_error", "distance", "share_of_earlier")
Results = dict[Job, dict[str, Any]]
Arms = dict[tuple[str, int], dict[int, dict[str, float]]]


def worst_tenth(values: Tensor) -> float:
    """Mean of the largest tenth, of one value at least.

    Example:
        >>> worst_tenth(torch.arange(20.0))
        18.5
    """
    return float(values.topk(max(1, len(values) // 10)).values.mean())


def by_tercile(rises: Sequence[Tensor], energies: Sequence[Tensor]) -> list[float]:
    """Mean rise over the images in the lowest, middle and highest third of the energies, which are told task by task.

    Example:
        >>> by_tercile([torch.tensor([1.0, 2.0, 3.0])], [torch.tensor([9.0, 7.0, 8.0])])
        [2.0, 3.0, 1.0]
    """
    parts = [
        [rise[part] for part in energy.argsort().tensor_split(3)] for rise, energy in zip(rises, energies, strict=True)
    ]
    return [float(torch.cat(third).mean()) for third in zip(*parts, strict=True)]


def rejected(chances: Mapping[Any, float], level: float = 0.05) -> set[Any]:
    """Which null hypotheses are rejected, with at most ``level`` chance of a false one among all (Holm, 1979).

    Example:
        >>> sorted(rejected({"a": 0.001, "b": 0.02, "c": 0.04, "d": 0.5}))  # .02 would have to lie below .05 / 3
        ['a']
    """
    adjusted = holm(list(chances.values()))
    return {name for name, chance in zip(chances, adjusted, strict=True) if chance <= level}


def measure(result: dict[str, Any], generative: Callable[[Tensor], float], share: Callable[[Tensor], float]) -> Any:
    """The measures of one job after its last task, over the held-out (or training) images of all earlier tasks."""
    last = result["records"][-1]["probes"]
    by_task = [probe["error"] - probe["error_start"] for probe in last[:-1]]
    thirds = by_tercile(by_task, [probe["energy_start"] for probe in last[:-1]])
    rises = torch.cat(by_task)
    seen = torch.cat([probe["seen_error"] - probe["seen_error_start"] for probe in last[:-1]])
    return {
        "reconstruction": float(rises.mean()),
        "worst_tenth": worst_tenth(rises),
        **dict(zip(TERCILES, thirds, strict=True)),
        "seen": float(seen.mean()),
        "new_task_error": float(last[-1]["error"].mean()),
        "distance": generative(result["generated"]),
        "share_of_earlier": share(result["generated"]),
    }


def seed_draws(count: int) -> Tensor:
    """Bootstrap resamples of the seeds, (RESAMPLES, count)."""
    return torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds with its 95 % percentile bootstrap interval; nan with fewer than two seeds."""
    x = torch.tensor(values, dtype=torch.float64)
    low = high = math.nan
    if len(x) > 1:
        means = x[seed_draws(len(x))].mean(1)
        low, high = means.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return {"mean": float(x.mean()) if len(x) else math.nan, "low": low, "high": high, "seeds": len(x)}


def paired_difference(arm: dict[int, dict[str, float]], other: dict[int, dict[str, float]], name: str) -> Any:
    """Student's 95 % interval of arm - other over the seeds that both have, and the p-value of no difference."""
    return student([arm[seed][name] - other[seed][name] for seed in sorted(arm.keys() & other.keys())])


def student(values: Sequence[float]) -> dict[str, Any]:
    """Mean with Student's 95 % interval and the p-value of a mean of 0; nan with fewer than two values."""
    x = np.array(values, dtype=np.float64)
    low = high = chance = math.nan
    if len(x) > 1:
        error = float(x.std(ddof=1)) / math.sqrt(len(x))
        half = float(t.ppf(0.975, len(x) - 1)) * error
        low, high = x.mean() - half, x.mean() + half
        chance = 2 * float(t.sf(abs(x.mean()) / error, len(x) - 1)) if error > 0 else float(x.mean() == 0)
    mean = float(x.mean()) if len(x) else math.nan
    return {"mean": mean, "low": float(low), "high": float(high), "p": chance, "seeds": len(x)}


def crossing(capacities: Sequence[float], curve: Sequence[float], level: float) -> float:
    """Capacity at which a falling curve first reaches the level, linear in log capacity between the measured points.

    The smallest capacity if it is there already, infinity if no measured capacity suffices.

    Example:
        >>> round(crossing([20, 80], [3.0, 1.0], 2.0), 6)
        40.0
    """
    if curve[0] <= level:
        return capacities[0]
    for i in range(1, len(curve)):
        if curve[i] <= level:
            share = (curve[i - 1] - level) / (curve[i - 1] - curve[i])
            return float(capacities[i - 1] * (capacities[i] / capacities[i - 1]) ** share)
    return math.inf


def matching_capacity(arms: Arms, policy: str, name: str) -> list[dict[str, Any]]:
    """For each capacity of the policy: the capacity at which random, on its measured curve, forgets as little.

    ``low`` and ``high`` are a bootstrap over the seeds that all these runs have; infinity is beyond the largest
    capacity measured for random.
    """
    sizes = sorted(capacity for other, capacity in arms if other == "random")
    rows = []
    for capacity in sorted(capacity for other, capacity in arms if other == policy):
        runs = [arms[policy, capacity], *(arms["random", size] for size in sizes)]
        seeds = sorted(set.intersection(*(set(run) for run in runs)))
        if len(sizes) < 2 or not seeds:
            continue
        table = torch.tensor([[run[seed][name] for seed in seeds] for run in runs], dtype=torch.float64)
        resampled = table[:, seed_draws(len(seeds))].mean(2) if len(seeds) > 1 else table
        drawn = sorted(crossing(sizes, column[1:], column[0]) for column in resampled.T.tolist())
        mean = table.mean(1).tolist()
        rows.append(
            {
                "capacity": capacity,
                "random_needs": crossing(sizes, mean[1:], mean[0]),
                "low": drawn[int(0.025 * len(drawn))],
                "high": drawn[min(len(drawn) - 1, int(0.975 * len(drawn)))],
                "random_measured_at": sizes,
                "seeds": len(seeds),
            }
        )
    return rows


def boundary_correlations(result: dict[str, Any], task: int) -> dict[str, float]:
    """At the boundary into ``task``: how the probes' forgetting of the task before ranks with their energies.

    Spearman's correlation of the rise of the reconstruction error with the energy before the boundary and with the
    energy's rise; ``..._partial``: the same among samples of equal local density (log distance to a neighbour).
    """
    probe = result["records"][task]["probes"][task - 1]
    before = result["records"][task - 1]["probes"][task - 1]
    forgetting, rise = probe["error"] - before["error"], probe["energy"] - before["energy"]
    density = result["density"][task - 1]
    return {
        "before": spearman(before["energy"], forgetting),
        "before_partial": spearman(before["energy"], forgetting, control=density),
        "rise": spearman(rise, forgetting),
        "rise_partial": spearman(rise, forgetting, control=density),
        "forgetting": float(forgetting.mean()),
    }


def correlations(results: Results, settings: Settings) -> list[dict[str, Any]]:
    """One row for each boundary of the arm without replay, in the split, and for the similar and dissimilar pairs.

    A pair's two orders are averaged within each seed.
    """
    rows = []
    places = [(f"boundary {t}", [("split", t)]) for t in range(1, len(settings.sequences["split"]))]
    places += [(kind, [(kind, 1), (f"{kind}_reversed", 1)]) for kind in ("similar", "dissimilar")]
    for label, parts in places:
        by_seed: dict[int, list[dict[str, float]]] = {}
        for job, result in results.items():
            for sequence, task in parts:
                if job.policy == "none" and job.sequence == sequence:
                    by_seed.setdefault(job.seed, []).append(boundary_correlations(result, task))
        complete = [runs for _, runs in sorted(by_seed.items()) if len(runs) == len(parts)]
        if complete:
            sequence, task = parts[0]
            classes = settings.sequences[sequence]
            rows.append(
                {"boundary": label, "from": classes[task - 1], "to": classes[task], "both_orders": len(parts) > 1}
                | {
                    name: interval([sum(part[name] for part in runs) / len(runs) for runs in complete])
                    for name in complete[0][0]
                }
            )
    return rows
