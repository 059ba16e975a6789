"""A boundary's record in the trainer's loggers: scalars everywhere, views where they can be held."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.encoders import Columns
from hopfield_replay.figures import as_pictures
from hopfield_replay.lightning.sinks import Sink, sinks
from hopfield_replay.lightning.views import (
    Boundary,
    Table,
    changed,
    figures,
    histograms,
    plain,
    result,
    settings,
    varied,
)
from hopfield_replay.tracker.record import BoundaryRecord
from hopfield_replay.tracker.summary import overall, summarize
from hopfield_replay.tracker.tracker import ForgettingTracker

_FORGETTING = {  # of a summary, by the names they are logged by
    "intrinsic": "intrinsic",
    "reconstruction": "reconstruction",
    "loss": "loss_forgetting",
    "model_energy": "model_energy",
}
_CORRELATIONS = ("spearman_energy", "spearman_rise")
_COMPARED = tuple(
    f"forgetting/{name}" for name in ("reconstruction/worst", "reconstruction/mean", "loss/worst", "intrinsic/worst")
)  # of runs, in this order
_EMBEDDED = 2000  # samples in the projector, the best first
_SPRITE = 32  # pixels: pictures beside the projector's points


def scalars(record: BoundaryRecord, buffer: EnergyReplayBuffer | None) -> dict[str, float]:
    """The record's numbers under the names they are logged by.

    "worst" is the largest of the means of the earlier tasks, and "mean" that of all their followed samples, as
    :func:`~hopfield_replay.tracker.overall` has it; of correlations it is that of the tasks.
    """
    numbers: dict[str, float] = {"task": record.task, "forgetting/beta": record.beta, "forgetting/n_eff": record.n_eff}
    rows, whole = summarize(record), overall(record)
    earlier = [row for row in rows if row["task"] < record.task]
    for name, column in (_FORGETTING | {name: name for name in _CORRELATIONS}).items():
        known = [row for row in earlier if row[column] is not None and math.isfinite(row[column])]
        values = [row[column] for row in known]
        numbers |= {f"forgetting/{name}/task_{row['task']}": row[column] for row in known}
        if values:
            mean = whole.get(column, math.nan) if name in _FORGETTING else sum(values) / len(values)
            numbers |= {f"forgetting/{name}/mean": mean} if math.isfinite(mean) else {}
            numbers |= {f"forgetting/{name}/worst": max(values)} if name in _FORGETTING else {}
    numbers |= {f"forgetting/error/task_{row['task']}": row["error"] for row in rows if row["error"] is not None}
    if buffer is not None:
        numbers |= {"buffer/samples": float(len(buffer)), "buffer/bytes": float(buffer.nbytes)}
        counts = buffer.tasks.bincount().tolist()
        numbers |= {f"buffer/share/task_{task}": count / len(buffer) for task, count in enumerate(counts) if count}
    return numbers


class BoundaryLog:
    """Logs boundaries; what cannot be shown is warned of once, and costs nothing else.

    Args:
        embedding: whether the buffer's vectors go to TensorBoard's projector.
    """

    def __init__(self, embedding: bool = False) -> None:
        self.embedding = embedding
        self._failed: set[str] = set()
        self._begun = False

    def begin(self, trainer: Trainer, tracker: ForgettingTracker) -> None:
        """Say which settings the run has and by which metrics runs are compared, once, before the module's own do."""
        if self._begun or not trainer.is_global_zero:
            return
        self._begun = True
        module = trainer.lightning_module
        ratio = getattr(getattr(trainer, "datamodule", None), "replay_ratio", None)
        for sink in sinks(trainer):
            self._try("settings", partial(_compare, sink, tracker, ratio, module))

    def log(self, trainer: Trainer, boundary: Boundary) -> None:
        """Log one boundary, from the first process; the step is the trainer's global step."""
        step = trainer.global_step
        numbers = scalars(boundary.record, boundary.tracker.buffer)
        if boundary.turnover:
            numbers["buffer/new"] = float(sum(new for _, new, _ in boundary.turnover.values()))
            numbers["buffer/dropped"] = float(sum(dropped for *_, dropped in boundary.turnover.values()))
        places = sinks(trainer) if trainer.is_global_zero else []
        if places and (curve := self._try("protected energy", lambda: boundary.protection)) is not None:
            numbers["buffer/protected_energy"] = curve.kept[-1]
            if curve.bound is not None:
                numbers["buffer/protected_energy_bound"] = curve.bound
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=step)
        if places:
            self._show(trainer, places, boundary, step)
        for logger in trainer.loggers:
            logger.save()

    def _show(self, trainer: Trainer, places: list[Sink], boundary: Boundary, step: int) -> None:
        for name, draw in figures(boundary).items():
            figure = self._try(name, draw)
            if figure is not None:
                for sink in places:
                    self._try(name, partial(sink.figure, name, figure, step))
        for sink in places:
            for name, values in histograms(boundary.record):
                self._try(name, partial(sink.histogram, name, values, step))
            self._try("table", partial(sink.table, "0_summary/1_result", result(boundary.tracker.history), step))
            given = plain(getattr(trainer.lightning_module, "hparams", {})) | settings(boundary)
            self._try("settings", partial(sink.settings, "0_summary/2_settings", given, step))
            if self.embedding and boundary.buffer is not None:
                self._try("projector", partial(_embed, sink, boundary.buffer, boundary.tracker.columns, step))

    def _try(self, name: str, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except ImportError as error:  # a logger without matplotlib: scalars, histograms and tables are there
            if "import" not in self._failed:
                self._failed.add("import")
                rank_zero_info(f"Boundaries are logged without figures. {error}")
        except Exception as error:
            kind = name.split("/")[0]
            if kind not in self._failed:
                self._failed.add(kind)
                rank_zero_warn(f"A boundary's view {name!r} could not be shown ({type(error).__name__}: {error}).")
        return None


def _compare(sink: Sink, tracker: ForgettingTracker, ratio: Any, module: Any) -> None:
    sink.compare(varied(tracker, ratio) | changed(module), _COMPARED)


def _embed(sink: Sink, buffer: EnergyReplayBuffer, where: Columns, step: int) -> None:
    import torch

    chosen = torch.arange(min(len(buffer), _EMBEDDED))
    columns = ["task", "id", "energy"]
    parts = [buffer.tasks[chosen].tolist(), buffer.ids[chosen].tolist(), buffer.energies[chosen].tolist()]
    if buffer.labels is not None:
        columns.append("label")
        parts.append(buffer.labels[chosen].tolist())
    rows = [
        [f"{value:.6g}" if isinstance(value, float) else str(value) for value in row]
        for row in zip(*parts, strict=True)
    ]
    pictures = as_pictures(where.inputs_of(buffer.gather(chosen)))
    if pictures is not None:
        pictures = torch.nn.functional.interpolate(pictures.permute(0, 3, 1, 2), (_SPRITE, _SPRITE))
    sink.embedding(buffer.vectors[chosen], Table(columns, rows), pictures, step)
