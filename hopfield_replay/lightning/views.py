"""What a boundary shows beside its scalars: figures, histograms and tables, free of any logger."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.choice import place_in_group
from hopfield_replay.buffer.drawing import default_sampling
from hopfield_replay.denoisers import Denoiser
from hopfield_replay.figures import (
    buffer_turnover,
    energy_against_forgetting,
    forgetting_over_tasks,
    picture_rows,
    protected_energy_curve,
)
from hopfield_replay.policies.greedy_gain import DEFAULT_REPLAY_RATIO
from hopfield_replay.policies.protection import ProtectionCurve, protection_curve
from hopfield_replay.tracker.record import BoundaryRecord
from hopfield_replay.tracker.summary import summarize
from hopfield_replay.tracker.tracker import PROBE_SIZE, ForgettingTracker
from hopfield_replay.tracker.worst import curves, measure_of, worst_sentence
from hopfield_replay.utilities.html import sentence
from hopfield_replay.utilities.nested import take

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNITS = {
    "reconstruction": "reconstruction forgetting\n(rise of the mean squared\nerror, per element)",
    "loss_forgetting": "loss forgetting (rise of\nthe module's own loss)",
    "intrinsic": "intrinsic forgetting (energy,\nsquared units of the vectors)",
}
_FORGOTTEN = 6  # samples shown of those that were forgotten most
_PER_TASK = 16  # samples shown of each task in the buffer
_TASKS = 12  # tasks of which the buffer's samples are shown, the newest


@dataclass(frozen=True)
class Table:
    """A table with one line for each row, and a sentence above it; ``newest`` of its rows are new, None: all."""

    columns: list[str]
    rows: list[list[str]]
    title: str = ""
    newest: int | None = None


@dataclass(frozen=True)
class Boundary:
    """The end of one task, and all that its views are made of.

    Attributes:
        tracker: after the boundary; the last record of its history is this boundary's.
        held: (ids, tasks) of the buffer's samples before it took its share of the task.
        denoiser: the model as it is now, or None.
        prepare: what happens to a batch on its way to the model.
        read: a prepared batch to the denoiser's samples and condition; None: as batches are split by default.
    """

    tracker: ForgettingTracker
    held: tuple[Tensor, Tensor] | None
    denoiser: Denoiser | None
    prepare: Callable[[Any], Any]
    read: Callable[[Any], tuple[Tensor, Any]] | None = None

    @property
    def record(self) -> BoundaryRecord:
        """The record of this boundary."""
        return self.tracker.history[-1]

    @property
    def buffer(self) -> EnergyReplayBuffer | None:
        """The buffer, after it took its share; None if there is none, or nothing in it."""
        return self.tracker.buffer if self.tracker.buffer is not None and len(self.tracker.buffer) else None

    @cached_property
    def turnover(self) -> dict[int, tuple[int, int, int]]:
        """For each task the samples in the buffer that stayed, are new, and were dropped."""
        if self.buffer is None or self.held is None:
            return {}
        ids, tasks = self.held
        kept, now = self.buffer.ids, self.buffer.tasks
        stayed, gone = torch.isin(kept, ids), ~torch.isin(ids, kept)
        return {
            task: (
                int((stayed & (now == task)).sum()),
                int((~stayed & (now == task)).sum()),
                int((gone & (tasks == task)).sum()),
            )
            for task in torch.cat([now, tasks]).unique().tolist()
        }

    @cached_property
    def protection(self) -> ProtectionCurve | None:
        """What the buffer would protect of the probes of all tasks."""
        buffer = self.buffer
        if buffer is None:
            return None
        vectors = [self.tracker.probe(entry.task).vectors for entry in self.record.probes]
        if sum(map(len, vectors)) < 2:
            return None
        groups = {"task": buffer.tasks, "label": buffer.labels}.get(buffer.groups or "")
        order = torch.arange(len(buffer))
        if groups is not None:  # each group's best first
            order = place_in_group(groups.unique(return_inverse=True)[1]).argsort(stable=True)
        return protection_curve(
            buffer.vectors[order],
            torch.cat(vectors),
            self.record.beta,
            similarity=self.tracker.similarity,
            replay_ratio=self.record.replay_ratio or buffer.replay_ratio or DEFAULT_REPLAY_RATIO,
        )


def figures(boundary: Boundary) -> "dict[str, Callable[[], Figure | None]]":
    """What draws each figure, by the name it is shown under."""
    return {
        "1_forgetting/over_tasks": lambda: over_tasks(boundary.tracker.history),
        "2_most_forgotten/denoised": lambda: most_forgotten(boundary),
        "3_buffer/contents": lambda: contents(boundary),
        "3_buffer/protected_energy": lambda: protected(boundary),
        "3_buffer/turnover": lambda: buffer_turnover(boundary.turnover, narrow=True) if boundary.turnover else None,
        "4_against_forgetting/energy_rise": lambda: energy_against_forgetting(boundary.record, panel="rise"),
        "4_against_forgetting/energy_when_learned": lambda: energy_against_forgetting(boundary.record, panel="energy"),
    }


def histograms(record: BoundaryRecord) -> Iterable[tuple[str, Tensor]]:
    """Values of every probe, by the name they are shown under."""
    for probe in record.probes:
        task = f"task_{probe.task}"
        yield f"7_energy_after/{task}", probe.energy
        if probe.task == record.task:
            continue
        if probe.reconstruction is not None:
            yield f"5_reconstruction_forgetting/{task}", probe.reconstruction
        if probe.loss_forgetting is not None:
            yield f"5_loss_forgetting/{task}", probe.loss_forgetting
        yield f"6_intrinsic_forgetting/{task}", probe.intrinsic
        yield f"8_energy_before/{task}", probe.energy_before


def result(history: list[BoundaryRecord]) -> Table:
    """What was forgotten: the worst task in a sentence, and every task after every task, the newest boundary first."""
    names = {
        "probes": "probes",
        "intrinsic": "intrinsic forgetting",
        "reconstruction": "reconstruction forgetting",
        "reconstruction_p95": "95th percentile",
        "error": "error",
        "spearman_rise": "Spearman (rise)",
    }
    summaries = [(record.task, row) for record in reversed(history) for row in summarize(record)]
    if any(row["loss"] is not None for _, row in summaries):
        names |= {"loss_forgetting": "loss forgetting", "loss": "loss"}
    rows = [[str(task), str(row["task"]), *(_number(row[name]) for name in names)] for task, row in summaries]
    lead = sentence(worst_sentence(history[-1]) or "")
    return Table(["after task", "of task", *names.values()], rows, lead, len(history[-1].probes))


def settings(boundary: Boundary) -> dict[str, Any]:
    """What this run was made with, as far as it is known here: numbers and words."""
    tracker, buffer = boundary.tracker, boundary.tracker.buffer
    values: dict[str, Any] = {
        "beta": boundary.record.beta,
        "similarity": tracker.similarity,
        "probe_size": tracker.probe_size,
        "draws": tracker.draws,
        "replay_ratio": boundary.record.replay_ratio,
        "seed": tracker.seed,
        "policy": "none" if buffer is None else type(buffer.policy).__name__,
    }
    if buffer is not None:
        values |= {"capacity": buffer.capacity, "groups": buffer.groups or "none", "sampling": buffer.sampling}
    return values


def varied(tracker: ForgettingTracker, replay_ratio: Any) -> dict[str, Any]:
    """What runs are likely to differ in, under the same names in all of them, and what else is not as by default.

    Args:
        tracker: before its first task.
        replay_ratio: of the task's data, if they say it.
    """
    buffer = tracker.buffer
    values: dict[str, Any] = {
        "policy": "none" if buffer is None else type(buffer.policy).__name__,
        "capacity": 0 if buffer is None else buffer.capacity,
        "replay_ratio": 0.0 if buffer is None else replay_ratio if isinstance(replay_ratio, float) else "varies",
        "seed": tracker.seed,
    }
    others: dict[str, tuple[Any, Any]] = {
        "similarity": (tracker.similarity, "distance"),
        "beta": (tracker.beta or "auto", "auto"),
        "probe_size": (tracker.probe_size, PROBE_SIZE),
        "draws": (tracker.draws, 1),
    }
    if buffer is not None:
        others |= {"sampling": (buffer.sampling, default_sampling(buffer.policy))}
        others |= {"groups": (buffer.groups or "none", "task")}
    return values | {name: value for name, (value, default) in others.items() if value != default}


def changed(module: Any) -> dict[str, Any]:
    """A module's hyperparameters that are numbers or words and not as its class has them by default."""
    defaults = {name: one.default for name, one in inspect.signature(type(module).__init__).parameters.items()}
    given: Mapping[str, Any] = getattr(module, "hparams", {})
    return {
        name: value
        for name, value in plain(given).items()
        if name not in defaults or (not _is(defaults[name], value) and defaults[name] is not inspect.Parameter.empty)
    }


def _is(default: Any, value: bool | int | float | str) -> bool:
    return isinstance(default, bool | int | float | str) and default == value


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of hyperparameters is a number or a word."""
    return {str(name): value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def over_tasks(history: list[BoundaryRecord]) -> "Figure | None":
    """Reconstruction forgetting of every task after every task; of the loss or the energy without errors."""
    if len(history) < 2:
        return None
    return forgetting_over_tasks(curves(history), _UNITS[measure_of(history[-1])], narrow=True)


def most_forgotten(boundary: Boundary) -> "Figure | None":
    """The most forgotten samples of earlier tasks, noised, and denoised by the model as it is now."""
    record = boundary.record
    known = [(p, rise) for p in record.probes if p.task < record.task and (rise := p.reconstruction) is not None]
    if boundary.denoiser is None or not known or record.timesteps is None:
        return None
    rises = torch.cat([rise for _, rise in known])
    owners = torch.cat([torch.full((len(rise),), i) for i, (_, rise) in enumerate(known)])
    places = torch.cat([torch.arange(len(rise)) for _, rise in known])
    worst = rises.argsort(descending=True, stable=True)[:_FORGOTTEN].tolist()
    column = len(record.timesteps) // 2
    meter = boundary.tracker.meter(boundary.denoiser, boundary.prepare, boundary.read)
    shown, captions = [], []
    for position in worst:
        entry, place = known[int(owners[position])][0], int(places[position])
        batch = boundary.tracker.probe(entry.task).batch
        if batch is None:
            return None
        one = take(batch, torch.tensor([place]))
        shown.append(
            (
                boundary.tracker.columns.inputs_of(one),
                *meter.reconstruct(one, entry.ids[[place]], record.timesteps[column]),
            )
        )
        before, after = (float(error[place, column]) for error in (entry.error_start, entry.error) if error is not None)
        captions.append(f"task {entry.task}\n{before:.2g} to\n{after:.2g}")
    clean, noisy, denoised = (torch.cat([part.cpu() for part in parts]) for parts in zip(*shown, strict=True))
    step = f"t = {record.timesteps[column]:g}"
    return picture_rows(
        [
            ("sample", clean),
            (f"noised to {step}", noisy),
            ("denoised by the model now; its error when learned, and now", denoised),
        ],
        captions=captions,
        title=f"Most forgotten after task {record.task}",
        narrow=True,
    )


def contents(boundary: Boundary) -> "Figure | None":
    """The buffer's samples, a row for each task, the best first."""
    buffer = boundary.buffer
    if buffer is None:
        return None
    rows = []
    for task in buffer.tasks.unique().tolist()[-_TASKS:]:
        mine = (buffer.tasks == task).nonzero().flatten()
        samples = boundary.tracker.columns.inputs_of(buffer.gather(mine[:_PER_TASK]))
        rows.append((f"task {task}: {min(len(mine), _PER_TASK)} of {len(mine)} kept", samples))
    return picture_rows(rows, title=f"The buffer after task {boundary.record.task}", narrow=True)


def protected(boundary: Boundary) -> "Figure | None":
    """What the buffer would protect of the probes, by the number of its samples."""
    curve = boundary.protection
    return (
        None if curve is None else protected_energy_curve(curve.sizes, curve.kept, curve.best, curve.bound, narrow=True)
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
