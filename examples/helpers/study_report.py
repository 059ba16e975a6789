"""Tables and figures of the energy-forgetting study."""

import math
from pathlib import Path
from typing import Any

from helpers.digit_classifier import GenerativeDistance
from helpers.files import write_figure
from helpers.splits import make_buffer
from helpers.study_job import Settings, class_distances, images_of, read_results, task_distance
from helpers.study_statistics import (
    MEASURES,
    TERCILES,
    Arms,
    correlations,
    interval,
    matching_capacity,
    measure,
    paired_difference,
    rejected,
)
from hopfield_replay.figures import legend_above, new_figure, panels, series_style
from hopfield_replay.theory import markdown_table

CORRELATIONS = {
    "before": "energy before",
    "before_partial": "energy before, given density",
    "rise": "energy rise",
    "rise_partial": "energy rise, given density",
}
TESTED = ("reconstruction", "worst_tenth", *TERCILES, "new_task_error", "distance")  # one family, by Holm's method
HIGHLIGHTED = ("random", "greedy_gain", "high_energy")


def summarize(folder: Path, settings: Settings, data_dir: Path) -> dict[str, Any] | None:
    """Everything that the finished jobs on one data set say, for JSON; None if none has finished."""
    results = read_results(folder)
    if not results:
        return None
    images, labels = images_of(settings.data, data_dir)
    generative = GenerativeDistance(images, labels, settings.generated)
    classes = settings.sequences["split"]
    earlier = [digit for task in classes[:-1] for digit in task]
    arms: Arms = {}
    for job, result in results.items():
        if job.sequence == "split":
            measured = measure(result, generative, lambda images: generative.share_of(images, earlier))
            arms.setdefault((job.policy, job.capacity), {})[job.seed] = measured
    policies = []
    for (policy, capacity), runs in arms.items():
        row: dict[str, Any] = {"policy": policy, "capacity": capacity, "runs": runs}
        row |= {name: interval([run[name] for run in runs.values()]) for name in MEASURES}
        if policy not in ("none", "random") and ("random", capacity) in arms:
            row["against_random"] = {name: paired_difference(runs, arms["random", capacity], name) for name in MEASURES}
        policies.append(row)
    policies.sort(key=lambda row: (row["capacity"], row["reconstruction"]["mean"]))
    rows = correlations(results, settings)
    distances = class_distances(images, labels)
    for row in rows:
        row["task_distance"] = task_distance(distances, row["from"], row["to"])
    return {
        "data": settings.data,
        "network": settings.network,
        "jobs": len(results),
        "core_seconds": sum(result["seconds"] for result in results.values()),
        "devices": sorted({result["device"] for result in results.values()}),
        "beta": interval([result["records"][0]["beta"] for job, result in results.items() if job.sequence == "split"]),
        "extractor": {
            "name": f"FID-DigitClassifier({settings.data})",
            "accuracy": generative.accuracy,
            "floor": generative.floor,
            "generated": settings.generated,
            "expected_share_of_earlier": len(earlier) / 10,
        },
        "policies": policies,
        "random_needs": matching_capacity(arms, "greedy_gain", "reconstruction"),
        "correlations": rows,
    }


def number(estimate: dict[str, float], digits: int = 4, sign: bool = False) -> str:
    """Mean with its interval; nothing for what was not measured."""
    if math.isnan(estimate["mean"]):
        return ""
    form = f"{'+' if sign else ''}.{digits}f"
    text = format(estimate["mean"], form)
    return text if math.isnan(estimate["low"]) else f"{text} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def markdown(summary: dict[str, Any]) -> str:
    """The study's tables on one data set."""
    title = f"## {summary['data']}, {summary['network']}"
    parts = [title, by_policy(summary), random_needs(summary), by_boundary(summary)]
    return "\n\n".join(part for part in parts if part) + "\n"


def by_policy(summary: dict[str, Any]) -> str:
    """What each policy forgets, keeps and generates."""
    extractor = summary["extractor"]
    count = max(row["reconstruction"]["seeds"] for row in summary["policies"]) if summary["policies"] else 0
    heads = [
        "policy",
        "drawn by",
        "kept",
        "seeds",
        "reconstruction forgetting",
        "difference",
        "worst 10 %",
        "difference",
    ]
    heads += [f"{name.removesuffix('_energy')} energies, difference" for name in TERCILES]
    heads += ["training images", "difference"]
    heads += ["error, new task", "difference", extractor["name"], "difference", "share of earlier tasks"]
    rows, stars = [], surprising(summary["policies"])
    for row in summary["policies"]:
        drawn = "" if row["policy"] == "none" else make_buffer(row["policy"], max(1, row["capacity"])).sampling
        cells = [row["policy"], drawn, str(row["capacity"]), str(row["reconstruction"]["seeds"])]
        against = row.get("against_random")
        for name in ("reconstruction", "worst_tenth", *TERCILES, "seen", "new_task_error", "distance"):
            digits = 1 if name == "distance" else 4
            if name not in TERCILES:
                cells.append(number({"mean": row[name]["mean"], "low": math.nan}, digits))
            star = "*" * ((row["policy"], row["capacity"], name) in stars)
            cells.append(number(against[name], digits, sign=True) + star if against else "")
        rows.append([*cells, f"{row['share_of_earlier']['mean']:.2f}"])
    return (
        f"{summary['jobs']} runs on {', '.join(summary['devices'])}. After the last task, held-out images of all "
        f"earlier tasks; mean over up to {count} seeds [95 % interval by Student's t]. Differences are paired by seed, "
        "against random at the same capacity; negative means less. A star: not 0 at 5 %, by Holm's method over all "
        "starred columns and rows. Energies: forgetting of the images in that third of their task's energies before. "
        "Drawn by: how kept samples are drawn for replay; policies that are drawn otherwise differ in two things.\n\n"
        f"{markdown_table(heads, rows)}\n\n"
        f"{extractor['name']}: Frechet distance of {extractor['generated']} generated images to real images of all "
        f"tasks, in the 32 features of a classifier trained on this data ({100 * extractor['accuracy']:.1f} % "
        f"right on images it was not trained on); {extractor['generated']} other real images are at "
        f"{extractor['floor']:.1f}. Share of earlier tasks: of the generated images, by that classifier; "
        f"{extractor['expected_share_of_earlier']:.2f} would be even."
    )


def surprising(policies: list[dict[str, Any]]) -> set[tuple[str, int, str]]:
    """Which differences to random are not 0, of all that are tested together."""
    return rejected(
        {
            (row["policy"], row["capacity"], name): row["against_random"][name]["p"]
            for row in policies
            if "against_random" in row
            for name in TESTED
            if not math.isnan(row["against_random"][name]["p"])
        }
    )


def random_needs(summary: dict[str, Any]) -> str:
    """How many samples random needs to forget as little as greedy_gain; empty where it was not measured."""
    if not summary["random_needs"]:
        return ""
    measured = summary["random_needs"][0]["random_measured_at"]
    rows = []
    for row in summary["random_needs"]:
        needs, low, high = (capacity_text(row[name], measured) for name in ("random_needs", "low", "high"))
        rows.append([str(row["capacity"]), needs, f"{low} to {high}", str(row["seeds"])])
    return (
        "Kept samples with which random forgets as little as greedy_gain, interpolated (linear in log capacity) on "
        f"random's curve, measured at {', '.join(map(str, measured))}:\n\n"
        + markdown_table(["greedy_gain keeps", "random needs", "95 % interval", "seeds"], rows)
    )


def by_boundary(summary: dict[str, Any]) -> str:
    """How forgetting without replay ranks with the energies; empty where it was not measured."""
    if not summary["correlations"]:
        return ""
    heads = ["boundary", "classes", "distance", "seeds", "mean forgetting", *CORRELATIONS.values()]
    rows = []
    for row in summary["correlations"]:
        arrow = " <-> " if row["both_orders"] else " -> "
        classes = arrow.join(",".join(map(str, row[end])) for end in ("from", "to"))
        cells = [row["boundary"], classes, f"{row['task_distance']:.2f}", str(row["forgetting"]["seeds"])]
        cells += [f"{row['forgetting']['mean']:.4f}"]
        rows.append(cells + [number(row[name], 2, sign=True) for name in CORRELATIONS])
    return (
        "Without replay: Spearman's rank correlation of each held-out image's forgetting at the boundary (images of "
        "the task just before it) with its energy before and its energy rise; given density: partial, controlled for "
        "the log distance to the 10th neighbour in its own task. Distance: between the tasks' class means, "
        "averaged.\n\n" + markdown_table(heads, rows)
    )


def capacity_text(value: float, measured: list[int]) -> str:
    """A capacity, or that it lies outside the measured ones."""
    if math.isinf(value):
        return f"> {measured[-1]}"
    return f"<= {measured[0]}" if value <= measured[0] else f"{value:.0f}"


def whiskers(estimate: dict[str, float]) -> list[list[float]]:
    """Lengths of the error bar below and above the mean; none without an interval."""
    if math.isnan(estimate["low"]):
        return [[0.0], [0.0]]
    return [[max(0.0, estimate["mean"] - estimate["low"])], [max(0.0, estimate["high"] - estimate["mean"])]]


def draw_policies(summary: dict[str, Any], path: Path) -> None:
    """Left: forgetting against capacity. Right: paired differences against random, the best policy on top."""
    rows = {(row["policy"], row["capacity"]): row for row in summary["policies"]}
    sizes = sorted({capacity for _, capacity in rows if capacity})
    compared: dict[str, dict[int, dict[str, float]]] = {}
    for (policy, capacity), row in rows.items():
        if "against_random" in row:
            compared.setdefault(policy, {})[capacity] = row["against_random"]["reconstruction"]
    figure = new_figure(max(4.0, 1.5 + 0.3 * len(compared)))
    left, right = panels(figure, 2, 2)
    draw_curves(left, rows, sizes)
    # by the size that most policies have, then by the differences there
    common = max(sizes, key=lambda size: sum(size in by_size for by_size in compared.values()), default=0)
    worst_first = sorted(compared, key=lambda name: -compared[name].get(common, {"mean": -math.inf})["mean"])
    for i, size in enumerate(sizes):
        label: str | None = f"{size} kept"
        for height, name in enumerate(worst_first):
            if size not in compared[name]:
                continue
            difference = compared[name][size]
            style = series_style(i) | {"linestyle": "none"}
            shift = 0.22 * ((len(sizes) - 1) / 2 - i)
            right.errorbar(
                [difference["mean"]], [height + shift], xerr=whiskers(difference), capsize=2, label=label, **style
            )
            label = None
    right.set_yticks(range(len(worst_first)), worst_first)
    right.axvline(0.0, color="0.7", linewidth=0.8, zorder=0)
    right.set_xlabel("difference to random (mean squared\nerror, per pixel; negative: forgets less)")
    if compared:
        legend_above(right, columns=len(sizes))
    figure.suptitle(f"{summary['data']}, {summary['network']}", fontsize="medium")
    write_figure(path, figure)


def draw_curves(axis: Any, rows: dict[tuple[str, int], dict[str, Any]], sizes: list[int]) -> None:
    """Forgetting against capacity; the policies that are not named in HIGHLIGHTED in grey."""
    others: str | None = "other policies"
    for name in dict.fromkeys(policy for policy, _ in sorted(rows)):
        if name == "none":
            axis.axhline(rows[name, 0]["reconstruction"]["mean"], color="0.5", linestyle="--", label="none")
            continue
        measured = [size for size in sizes if (name, size) in rows]
        estimates = [rows[name, size]["reconstruction"] for size in measured]
        means = [one["mean"] for one in estimates]
        if name in HIGHLIGHTED:
            errors = [whiskers(one) for one in estimates]
            bars = [[error[side][0] for error in errors] for side in (0, 1)]
            axis.errorbar(measured, means, yerr=bars, capsize=2, label=name, **series_style(HIGHLIGHTED.index(name)))
        else:
            axis.plot(measured, means, color="0.8", linewidth=0.8, marker=".", zorder=1, label=others)
            others = None
    if sizes:
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
    axis.axhline(0.0, color="0.7", linewidth=0.8, zorder=0)
    axis.set_xlabel("samples kept")
    axis.set_ylabel("reconstruction forgetting, held out\n(rise of the mean squared error, per pixel)")
    legend_above(axis, columns=2)


def draw_correlations(summary: dict[str, Any], path: Path) -> None:
    """Rank correlations at each boundary, with intervals."""
    figure = new_figure(1.5 + 0.5 * len(summary["correlations"]))
    (axis,) = panels(figure, 1, 1)
    for shift, (name, label) in enumerate(CORRELATIONS.items()):
        style = series_style(int(name.startswith("rise"))) | {"marker": "os^v"[shift], "linestyle": "none"}
        if name.endswith("partial"):
            style["markerfacecolor"] = "white"
        for height, row in enumerate(summary["correlations"]):
            axis.errorbar(
                [row[name]["mean"]],
                [height + 0.15 * (shift - 1.5)],
                xerr=whiskers(row[name]),
                capsize=2,
                label=label if height == 0 else None,
                **style,
            )
    axis.set_yticks(
        range(len(summary["correlations"])),
        [f"{row['boundary']}\n{row['from']} to {row['to']}" for row in summary["correlations"]],
    )
    axis.axvline(0.0, color="0.7", linewidth=0.8, zorder=0)
    axis.set_xlim(-1, 1)
    axis.set_xlabel("Spearman's rank correlation with reconstruction forgetting, no replay")
    if summary["correlations"]:
        legend_above(axis, columns=4)
    figure.suptitle(f"{summary['data']}, {summary['network']}", fontsize="medium")
    write_figure(path, figure)
