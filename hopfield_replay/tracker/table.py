"""A tracker's history as a table and as a frame."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hopfield_replay.tracker.record import BoundaryRecord
from hopfield_replay.tracker.summary import summarize
from hopfield_replay.tracker.worst import worst_sentence
from hopfield_replay.utilities import html
from hopfield_replay.utilities.frames import as_frame, pandas
from hopfield_replay.utilities.showing import ShownText
from hopfield_replay.utilities.tables import text_table

if TYPE_CHECKING:
    import pandas as pd


_MOST = 30  # lines of a table


def history_frame(history: list[BoundaryRecord], *, samples: bool = False) -> "pd.DataFrame":
    """A history as a tidy pandas DataFrame, for tables, plots and files of one's own.

    Args:
        history: of a ForgettingTracker or a ForgettingMonitor.
        samples: a row for each followed sample at each boundary, with its ``id``, energies (``energy_start``,
            ``energy_before``, ``energy``), errors (means over the timesteps), ``intrinsic`` and ``reconstruction``
            forgetting, paired losses and ``loss_forgetting``, ``density`` and whether it was ``stored``; False: a row
            for each probe set at each boundary, with the numbers of :func:`summarize`.

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
    pd = pandas()
    if not samples:
        return as_frame([{name: _blank(value) for name, value in row.items()} for row in history_rows(history)])
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
                "loss_start": nothing if probe.loss_start is None else probe.loss_start,
                "loss": nothing if probe.loss is None else probe.loss,
                "loss_forgetting": nothing if probe.loss_forgetting is None else probe.loss_forgetting,
                "density": probe.density,
                "stored": probe.stored,
            }
            numbers = {name: values.numpy() for name, values in columns.items()}
            frames.append(pd.DataFrame({"after_task": record.task, "task": probe.task, **numbers}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def history_rows(history: list[BoundaryRecord]) -> list[dict[str, Any]]:
    """The rows of :func:`history_frame` in plain Python; None for what is not known."""
    return [
        {"after_task": record.task, **{name: value for name, value in row.items() if not isinstance(value, list)}}
        | {"beta": record.beta, "n_eff": record.n_eff, "replay_ratio": record.replay_ratio}
        for record in history
        for row in summarize(record)
    ]


def _blank(value: Any) -> Any:
    return float("nan") if value is None else value


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


def forgetting_table(history: list[BoundaryRecord]) -> ShownText:
    """A table with a line for each task after each task, and the one that was forgotten most; text that shows itself.

    Of a long history the last boundary alone; :func:`history_frame` has all.

    Example:
        >>> print(forgetting_table([]))
        No task has ended yet.
    """
    if not history:
        return ShownText("No task has ended yet.")
    shown = history if sum(len(record.probes) for record in history) <= _MOST else history[-1:]
    rows = [(record.task, row) for record in shown for row in summarize(record)]
    columns = {"intrinsic": "intrinsic\nforgetting"}
    if any(row["error"] is not None for _, row in rows):
        columns |= {"reconstruction": "reconstruction\nforgetting", "reconstruction_p95": "95th\npercentile"}
        columns |= {"error": "error"}
    if any(row["loss"] is not None for _, row in rows):
        columns |= {"loss_forgetting": "loss\nforgetting", "loss": "loss"}
    headers = ["after\ntask", "of\ntask", "probes", *columns.values()]
    cells = [
        [str(task), str(row["task"]), str(row["probes"]), *(_number(row[name]) for name in columns)]
        for task, row in rows
    ]
    notes = [worst] if (worst := worst_sentence(history[-1])) is not None else []
    if len(shown) < len(history):
        notes.append(f"(after the last of {len(history)} tasks; history_frame() has all)")
    flat = [header.replace("\n", " ") for header in headers]
    return ShownText(
        "\n".join([text_table(headers, cells, left=0), *notes]),
        html.table(flat, cells) + "".join(map(html.paragraph, notes)),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
