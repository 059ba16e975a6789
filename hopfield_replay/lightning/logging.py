"""A boundary's record in the trainer's loggers: scalars everywhere, histograms and figures in TensorBoard."""

import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from hopfield_replay.buffer import EnergyReplayBuffer
from hopfield_replay.figures import energy_against_forgetting
from hopfield_replay.table import error_rise, summarize


def scalars(record: dict[str, Any], buffer: EnergyReplayBuffer | None) -> dict[str, float]:
    """The record's numbers under the names they are logged by."""
    found = {"forgetting/beta": record["beta"], "forgetting/n_eff": record["n_eff"]}
    rows = summarize(record)
    earlier = [row for row in rows if row["task"] < record["task"]]
    for name in ("intrinsic", "reconstruction", "model_energy", "spearman_energy", "spearman_rise"):
        known = [row for row in earlier if row[name] is not None and math.isfinite(row[name])]
        values = [row[name] for row in known]
        found |= {f"forgetting/{name}/task_{row['task']}": row[name] for row in known}
        if values:
            found[f"forgetting/{name}/mean"] = sum(values) / len(values)
    found |= {f"forgetting/error/task_{row['task']}": row["error"] for row in rows if row["error"] is not None}
    if buffer is not None:
        found |= {"buffer/samples": float(len(buffer)), "buffer/bytes": float(buffer.nbytes)}
    return found


def log_record(trainer: Trainer, record: dict[str, Any], buffer: EnergyReplayBuffer | None) -> None:
    """Log one boundary; the step is the trainer's global step."""
    step = trainer.global_step
    for logger in trainer.loggers:
        logger.log_metrics(scalars(record, buffer), step=step)
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            _views(logger, record, step)
        logger.save()


def _views(logger: TensorBoardLogger, record: dict[str, Any], step: int) -> None:
    board = logger.experiment
    for probe in record["probes"]:
        board.add_histogram(f"energy/task_{probe['task']}", probe["energy"], step)
        if probe["task"] == record["task"]:
            continue
        board.add_histogram(f"intrinsic_forgetting/task_{probe['task']}", probe["energy"] - probe["energy_start"], step)
        rise = error_rise(probe)
        if rise is not None:
            board.add_histogram(f"reconstruction_forgetting/task_{probe['task']}", rise, step)
    try:
        figure = energy_against_forgetting(record)
    except ImportError:  # TensorBoard without matplotlib: scalars and histograms are there
        return
    if figure is not None:
        board.add_figure("energy_against_forgetting", figure, step)
