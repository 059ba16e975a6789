"""What a tracker's history says, in numbers and as text."""

from typing import Any

import torch
from torch import Tensor


def summarize(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Means over the probes of each task in one record of a ForgettingTracker's history.

    Returns:
        One dict for each task up to this one: ``task``, ``probes`` (how many), ``intrinsic`` (mean energy rise since
        the task was learned), ``intrinsic_boundary`` (since the task before), ``energy`` (mean), and, or None without a
        denoiser, ``reconstruction`` and ``reconstruction_p95`` (mean and 95th percentile of the error's rise since the
        task was learned, averaged over the timesteps), ``error`` (mean).
    """
    rows = []
    for probe in record["probes"]:
        rise = error_rise(probe)
        rows.append(
            {
                "task": probe["task"],
                "probes": len(probe["ids"]),
                "intrinsic": _mean(probe["energy"] - probe["energy_start"]),
                "intrinsic_boundary": _mean(probe["energy"] - probe["energy_before"]),
                "energy": _mean(probe["energy"]),
                "reconstruction": None if rise is None else _mean(rise),
                "reconstruction_p95": None if rise is None else float(torch.quantile(rise, 0.95)),
                "error": None if probe["error"] is None else _mean(probe["error"]),
            }
        )
    return rows


def error_rise(probe: dict[str, Any]) -> Tensor | None:
    """Rise of each probe's reconstruction error since its task was learned, mean over timesteps, (n,); or None."""
    if probe["error"] is None or probe["error_start"] is None:
        return None
    rise: Tensor = (probe["error"] - probe["error_start"]).mean(1)
    return rise


def _mean(values: Tensor) -> float:
    return float(values.mean())


def forgetting_table(history: list[dict[str, Any]]) -> str:
    """A table with one line for each earlier task after each task.

    Example:
        >>> print(forgetting_table([]))
        No task has ended yet.
    """
    if not history:
        return "No task has ended yet."
    lines = [
        "after task  of task  probes  intrinsic forgetting  reconstruction forgetting  (95th percentile)      error",
    ]
    for record in history:
        for row in summarize(record):
            lines.append(
                f"{record['task']:10d}  {row['task']:7d}  {row['probes']:6d}  {_number(row['intrinsic']):>20}  "
                f"{_number(row['reconstruction']):>25}  {_number(row['reconstruction_p95']):>17}  "
                f"{_number(row['error']):>9}"
            )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
