"""What a tracker's history says, in numbers and as text."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hopfield_replay.functional import spearman
from hopfield_replay.tracker.record import BoundaryRecord, ProbeRecord

if TYPE_CHECKING:
    import pandas as pd


def summarize(record: BoundaryRecord) -> list[dict[str, Any]]:
    """Means over the probes of each task in one record of a ForgettingTracker's history.

    Args:
        record: one item of the history.

    Returns:
        One dict for each task up to this one: ``task``, ``probes`` (how many), ``intrinsic`` (mean energy rise since
        the task was learned), ``intrinsic_boundary`` (since the task before), ``energy`` (mean), and, or None without a
        denoiser, ``reconstruction`` and ``reconstruction_p95`` (mean and 95th percentile of the error's rise since the
        task was learned, averaged over the timesteps), ``reconstruction_by_timestep`` (means), ``error`` (mean),
        ``model_energy`` (mean rise under the model, if it was asked for); and for earlier tasks Spearman's correlation
        of the reconstruction forgetting with the energy after the own task (``spearman_energy``), with the energy rise
        (``spearman_rise``), and with the rise at equal local density (``spearman_rise_at_density``).

    Example:
        >>> from hopfield_replay import ForgettingTracker, TaskSource
        >>> tracker = ForgettingTracker()
        >>> record = tracker.end_task(TaskSource([torch.arange(16.0).view(8, 2)]))
        >>> [(row["task"], row["probes"], row["intrinsic"]) for row in summarize(record)]
        [(0, 8, 0.0)]
    """
    rows = []
    for probe in record.probes:
        rises, forgetting = probe.error_rises, probe.reconstruction
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
                **_correlations(probe, None if probe.task == record.task else forgetting),
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


def history_frame(history: list[BoundaryRecord], *, samples: bool = False) -> "pd.DataFrame":
    """A history as a tidy pandas DataFrame, for tables, plots and files of one's own.

    Args:
        history: of a ForgettingTracker or a ForgettingMonitor.
        samples: a row for each followed sample at each boundary, with its ``id``, energies (``energy_start``,
            ``energy_before``, ``energy``), errors (means over the timesteps), ``intrinsic`` and ``reconstruction``
            forgetting, ``density`` and whether it was ``stored``; False: a row for each probe set at each boundary,
            with the numbers of :func:`summarize`.

    Returns:
        Among the columns ``after_task`` (the boundary) and ``task`` (of the samples), counted from 0. What is not known
        is NaN.

    Raises:
        ImportError: pandas is not installed.

    Example:
        >>> from hopfield_replay import ForgettingTracker, TaskSource
        >>> tracker = ForgettingTracker()
        >>> _ = tracker.end_task(TaskSource([torch.arange(16.0).view(8, 2)]))
        >>> history_frame(tracker.history)[["after_task", "task", "probes", "intrinsic"]].values.tolist()
        [[0.0, 0.0, 8.0, 0.0]]
        >>> len(history_frame(tracker.history, samples=True))
        8
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError('The history as a DataFrame needs pandas: pip install "hopfield-replay[pandas]".') from error
    if not samples:
        rows = [
            {"after_task": record.task, **{name: _blank(value) for name, value in row.items() if not _several(value)}}
            | {"beta": record.beta, "n_eff": record.n_eff, "replay_ratio": record.replay_ratio}
            for record in history
            for row in summarize(record)
        ]
        return pd.DataFrame(rows)
    frames = []
    for record in history:
        for probe in record.probes:
            nothing = torch.full_like(probe.energy, torch.nan)
            columns = {
                "id": probe.ids,
                "energy_start": probe.energy_start,
                "energy_before": probe.energy_before,
                "energy": probe.energy,
                "intrinsic": probe.intrinsic,
                "error_start": nothing if probe.error_start is None else probe.error_start.mean(1),
                "error_before": nothing if probe.error_before is None else probe.error_before.mean(1),
                "error": nothing if probe.error is None else probe.error.mean(1),
                "reconstruction": nothing if probe.reconstruction is None else probe.reconstruction,
                "density": probe.density,
                "stored": probe.stored,
            }
            numbers = {name: values.numpy() for name, values in columns.items()}
            frames.append(pd.DataFrame({"after_task": record.task, "task": probe.task, **numbers}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _several(value: Any) -> bool:
    return isinstance(value, list)


def _blank(value: Any) -> Any:
    return float("nan") if value is None else value


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


def forgetting_table(history: list[BoundaryRecord]) -> str:
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
                f"{record.task:10d}  {row['task']:7d}  {row['probes']:6d}  {_number(row['intrinsic']):>20}  "
                f"{_number(row['reconstruction']):>25}  {_number(row['reconstruction_p95']):>17}  "
                f"{_number(row['error']):>9}"
            )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
