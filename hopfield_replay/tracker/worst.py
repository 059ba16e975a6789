"""Which task was forgotten most: what a person wants to read first, and a mean over tasks hides."""

from collections.abc import Sequence
from typing import Any

from hopfield_replay.tracker.record import BoundaryRecord
from hopfield_replay.tracker.summary import summarize

MEASURES = {  # of a summary, in the order in which they are trusted, and how they are called
    "reconstruction": "reconstruction forgetting",
    "loss_forgetting": "loss forgetting",
    "intrinsic": "intrinsic forgetting",
}
LEVELS = {"reconstruction": "error", "loss_forgetting": "loss", "intrinsic": "energy"}  # whose rise each of them is


def measure_of(record: BoundaryRecord) -> str:
    """The name in a summary of what tells best what was forgotten: errors, else losses, else energies."""
    rows = summarize(record)
    return next((name for name in MEASURES if any(row[name] is not None for row in rows)), "intrinsic")


def curves(history: Sequence[BoundaryRecord]) -> dict[str, list[tuple[float, float]]]:
    """What was forgotten of each task after each task: for "task 0", ... the points (task that ended, forgetting)."""
    points: dict[str, list[tuple[float, float]]] = {}
    measure = measure_of(history[-1]) if history else "intrinsic"
    for record in history:
        for row in summarize(record):
            if row[measure] is not None:
                points.setdefault(f"task {row['task']}", []).append((record.task, row[measure]))
    return points


def worst_task(record: BoundaryRecord) -> dict[str, Any] | None:
    """The row of ``summarize(record)`` of the earlier task that was forgotten most; None where there is none yet.

    Example:
        >>> import torch
        >>> from hopfield_replay import ForgettingTracker, TaskSource
        >>> tracker = ForgettingTracker()
        >>> for centre in (0.0, 9.0):
        ...     record = tracker.end_task(TaskSource([centre + torch.arange(16.0).view(8, 2)]))
        >>> worst_task(tracker.history[0]), worst_task(record)["task"]
        (None, 0)
    """
    measure = measure_of(record)
    earlier = [row for row in summarize(record) if row["task"] < record.task and row[measure] is not None]
    return max(earlier, key=lambda row: row[measure], default=None)


def worst_sentence(record: BoundaryRecord) -> str | None:
    """The earlier task that was forgotten most, in a line; None where there is none."""
    row, measure = worst_task(record), measure_of(record)
    if row is None:
        return None
    level = LEVELS[measure]
    change = f" ({level} {row[level] - row[measure]:.4g} -> {row[level]:.4g})"
    return f"worst after task {record.task}: task {row['task']}, {MEASURES[measure]} {row[measure]:.4g}{change}"


__all__ = ["LEVELS", "MEASURES", "curves", "measure_of", "worst_sentence", "worst_task"]
