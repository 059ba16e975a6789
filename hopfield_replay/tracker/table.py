"""What a tracker's history says, in numbers and as text."""

from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional import spearman


def summarize(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Means over the probes of each task in one record of a ForgettingTracker's history.

    Returns:
        One dict for each task up to this one: ``task``, ``probes`` (how many), ``intrinsic`` (mean energy rise since
        the task was learned), ``intrinsic_boundary`` (since the task before), ``energy`` (mean), and, or None without a
        denoiser, ``reconstruction`` and ``reconstruction_p95`` (mean and 95th percentile of the error's rise since the
        task was learned, averaged over the timesteps), ``reconstruction_by_timestep`` (means), ``error`` (mean),
        ``model_energy`` (mean rise under the model, if it was asked for); and for earlier tasks Spearman's correlation
        of the reconstruction forgetting with the energy after the own task (``spearman_energy``), with the energy rise
        (``spearman_rise``), and with the rise at equal local density (``spearman_rise_at_density``).
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
                "reconstruction_by_timestep": None
                if rise is None
                else (probe["error"] - probe["error_start"]).mean(0).tolist(),
                "error": None if probe["error"] is None else _mean(probe["error"]),
                "model_energy": None
                if probe["model_energy"] is None or probe["model_energy_start"] is None
                else _mean(probe["model_energy"] - probe["model_energy_start"]),
                **_correlations(probe, None if probe["task"] == record["task"] else rise),
            }
        )
    return rows


def _correlations(probe: dict[str, Any], rise: Tensor | None) -> dict[str, float | None]:
    if rise is None or len(rise) < 5:
        return dict.fromkeys(("spearman_energy", "spearman_rise", "spearman_rise_at_density"))
    gain = probe["energy"] - probe["energy_start"]
    return {
        "spearman_energy": spearman(probe["energy_start"], rise),
        "spearman_rise": spearman(gain, rise),
        "spearman_rise_at_density": spearman(gain, rise, control=probe["density"]),
    }


def error_rise(probe: dict[str, Any]) -> Tensor | None:
    """Rise of each probe's reconstruction error since its task was learned, mean over timesteps, (n,); or None."""
    if probe["error"] is None or probe["error_start"] is None:
        return None
    rise: Tensor = (probe["error"] - probe["error_start"]).mean(1)
    return rise


def _mean(values: Tensor) -> float:
    return float(values.mean())


def by_label(rises: Tensor, labels: Tensor, flagged: Tensor, share: str) -> dict[int, dict[str, float]]:
    """For each label the number of its samples, their mean rise and the share of them that is flagged.

    Args:
        rises: (n,) of the samples.
        labels: (n,) integers.
        flagged: (n,) bool.
        share: the name of the share.

    Example:
        >>> by_label(torch.tensor([1.0, 3.0]), torch.tensor([7, 7]), torch.tensor([False, True]), "at_risk")
        {7: {'samples': 2.0, 'mean_rise': 2.0, 'at_risk': 0.5}}
    """
    return {
        int(label): {
            "samples": float(members.sum()),
            "mean_rise": float(rises[members].mean()),
            share: float(flagged[members].double().mean()),
        }
        for label in labels.unique()
        for members in [labels == label]
    }


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
