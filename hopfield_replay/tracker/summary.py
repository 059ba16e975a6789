"""What a record of a tracker's history says, in numbers: of each task, and of all together."""

from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional import spearman
from hopfield_replay.tracker.record import BoundaryRecord, ProbeRecord


def summarize(record: BoundaryRecord) -> list[dict[str, Any]]:
    """Means over the probes of each task in one record of a ForgettingTracker's history.

    Args:
        record: one item of the history.

    Returns:
        One dict for each task up to this one: ``task``, ``probes`` (how many), ``intrinsic`` (mean energy rise since
        the task was learned), ``intrinsic_boundary`` (since the task before), ``energy`` (mean), and, or None without a
        denoiser, ``reconstruction`` and ``reconstruction_p95`` (mean and 95th percentile of the error's rise since the
        task was learned, averaged over the timesteps), ``reconstruction_by_timestep`` (means), ``error`` (mean),
        ``model_energy`` (mean rise under the model, if it was asked for); where only the model's loss is measured,
        ``loss_forgetting`` (mean rise of the paired loss since the task was learned), ``loss`` (mean), else None; and
        for earlier tasks Spearman's correlation of the reconstruction (or loss) forgetting with the energy after the
        own task (``spearman_energy``), with the energy rise (``spearman_rise``), and with the rise at equal local
        density (``spearman_rise_at_density``).

    Example:
        >>> from hopfield_replay import ForgettingTracker, TaskSource
        >>> tracker = ForgettingTracker()
        >>> record = tracker.end_task(TaskSource([torch.arange(16.0).view(8, 2)]))
        >>> [(row["task"], row["probes"], row["intrinsic"]) for row in summarize(record)]
        [(0, 8, 0.0)]
    """
    rows = []
    for probe in record.probes:
        rises, forgetting, lost = probe.error_rises, probe.reconstruction, probe.loss_forgetting
        explained = lost if forgetting is None else forgetting
        rows.append(
            {
                "task": probe.task,
                "probes": len(probe.ids),
                "intrinsic": _mean(probe.intrinsic),
                "intrinsic_boundary": _mean(probe.energy - probe.energy_before),
                "energy": _mean(probe.energy),
                "reconstruction": None if forgetting is None else _mean(forgetting),
                "reconstruction_p95": None if forgetting is None else float(torch.quantile(forgetting, 0.95)),
                "reconstruction_by_timestep": None if rises is None else rises.mean(0).tolist(),
                "error": None if probe.error is None else _mean(probe.error),
                "model_energy": None
                if probe.model_energy is None or probe.model_energy_start is None
                else _mean(probe.model_energy - probe.model_energy_start),
                "loss_forgetting": None if lost is None else _mean(lost),
                "loss": None if probe.loss is None else _mean(probe.loss),
                **_correlations(probe, None if probe.task == record.task else explained),
            }
        )
    return rows


def _correlations(probe: ProbeRecord, forgetting: Tensor | None) -> dict[str, float | None]:
    if forgetting is None or len(forgetting) < 5:
        return dict.fromkeys(("spearman_energy", "spearman_rise", "spearman_rise_at_density"))
    return {
        "spearman_energy": spearman(probe.energy_start, forgetting),
        "spearman_rise": spearman(probe.intrinsic, forgetting),
        "spearman_rise_at_density": spearman(probe.intrinsic, forgetting, control=probe.density),
    }


def _mean(values: Tensor) -> float:
    return float(values.mean())


def overall(record: BoundaryRecord) -> dict[str, float]:
    """What was forgotten in all, under the names of :func:`summarize`.

    These are means over the followed samples of all earlier tasks, each of which counts once: where tasks have equally
    many followed samples, as they have by default, the mean over the tasks, too.

    Args:
        record: one item of the history.

    Returns:
        ``intrinsic``, ``reconstruction``, ``reconstruction_p95`` (95th percentile), ``loss_forgetting`` and
        ``model_energy``, as far as they are known; nothing after the first task.

    Example:
        >>> from hopfield_replay import ForgettingTracker, TaskSource
        >>> tracker = ForgettingTracker()
        >>> for centre in (0.0, 9.0):
        ...     record = tracker.end_task(TaskSource([centre + torch.arange(16.0).view(8, 2)]))
        >>> overall(tracker.history[0]), list(overall(record))
        ({}, ['intrinsic'])
    """
    earlier = [probe for probe in record.probes if probe.task < record.task]
    rises: dict[str, list[Tensor | None]] = {
        "intrinsic": [probe.intrinsic for probe in earlier],
        "reconstruction": [probe.reconstruction for probe in earlier],
        "loss_forgetting": [probe.loss_forgetting for probe in earlier],
        "model_energy": [
            None
            if probe.model_energy is None or probe.model_energy_start is None
            else probe.model_energy - probe.model_energy_start
            for probe in earlier
        ],
    }
    numbers = {}
    for name, parts in rises.items():
        if known := [part for part in parts if part is not None]:
            numbers[name] = _mean(torch.cat(known))
            if name == "reconstruction":
                numbers["reconstruction_p95"] = float(torch.quantile(torch.cat(known), 0.95))
    return numbers


__all__ = ["overall", "summarize"]
