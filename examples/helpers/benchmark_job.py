"""One run of the benchmark: one class-conditional model, one method, one sequence of tasks, one seed."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from helpers.benchmark_judge import Judge
from helpers.benchmark_methods import METHODS, Method
from helpers.benchmark_presets import Preset, classifier_of, read
from helpers.files import write_tensors, write_text
from helpers.noise_levels import ForgettingLevels, LevelledDDPM
from helpers.regularisers import L2, DiagonalEWC, Distillation, LoRA, RankOneEWC, Regulariser
from helpers.splits import Split, split_classes, train_tasks
from hopfield_replay import ReplayDistillation, run_report
from hopfield_replay.metrics import KNNPrecisionRecall
from hopfield_replay.tracker import BoundaryRecord


class JointSplit(Split):
    """All training images so far, and the held-out ones of the newest task."""

    def __init__(self, splits: Sequence[Split]) -> None:  # a Split that is made of others
        super(Split, self).__init__()
        newest = splits[-1]
        self.classes, self.batch_size = newest.classes, newest.batch_size
        self.held_out, self.seen = newest.held_out, newest.seen
        columns = zip(*(split.train.tensors for split in splits), strict=True)
        self.train = TensorDataset(*(torch.cat(column) for column in columns))


@dataclass(frozen=True)
class Job:
    """One run: the method, the value of what is tuned for it (nan: nothing is), samples kept, and the seed."""

    method: str
    value: float
    kept: int
    seed: int

    @property
    def file(self) -> str:
        """Name of its result.

        Example:
            >>> Job("EWC, rank 1", 0.01, 50, 3).file
            'ewc_rank_1-0.01-50-3.pt'
        """
        name = "_".join("".join(c if c.isalnum() else " " for c in self.method.lower()).split())
        return f"{name}-{self.value:g}-{self.kept}-{self.seed}.pt"


def run_job(job: Job, preset: Preset, folder: Path, data_dir: Path, accelerator: str) -> None:
    """Train, judge, and write the result, all or nothing; a run that diverges is a result, too."""
    method = METHODS[job.method]
    data = read(preset.data, data_dir)
    classifier, _ = classifier_of(preset.data, data_dir)
    tasks = [
        Split(data.images, data.labels, classes, preset.train, preset.batch_size, job.seed, test=data.test)
        for classes in split_classes(preset.tasks)
    ]
    ratio = job.value if method.tuned == "replay_ratio" else 0.5
    judge = Judge(tasks, preset, classifier, ratio)
    regulariser = regulariser_of(method, job, tasks, preset)
    held = [regulariser] if isinstance(regulariser, Regulariser | ForgettingLevels | ReplayDistillation) else []
    trained = [JointSplit(tasks[: i + 1]) for i in range(len(tasks))] if method.regulariser == "joint" else tasks
    started = time.process_time()
    model, monitor = train_tasks(
        method.policy,
        trained,
        lambda: LevelledDDPM(
            data.images.shape[-1],
            data.images.shape[1],
            preset.width,
            preset.learning_rate,
            network=preset.network,
            levels=preset.levels,
            classes=10,
        ),
        capacity=generated_of(preset) if method.all_generated else job.kept,
        replay_ratio=ratio,
        epochs=preset.epochs,
        seed=job.seed,
        accelerator=accelerator,
        ema_decay=preset.ema_decay,
        generated=generated_of(preset) if method.generated else 0,
        first=[regulariser] if isinstance(regulariser, LoRA) else [],
        callbacks=[*held, judge],
    )
    page = run_report(monitor, title=f"What was forgotten: {Path(job.file).stem}").html()
    write_text((folder / job.file).with_suffix(".html"), page)
    weights = sum(weight.nbytes for weight in model.network.parameters())
    write_tensors(folder / job.file, result_of(job, method, judge, monitor, regulariser, started, tasks, weights))


def generated_of(preset: Preset) -> int:
    """Candidates that a model draws before each task."""
    return 10 * preset.kept


def regulariser_of(
    method: Method, job: Job, tasks: Sequence[Split], preset: Preset
) -> Regulariser | LoRA | ForgettingLevels | ReplayDistillation | None:
    """The callback of a method."""
    strength = job.value if method.tuned == "strength" else 1.0
    match method.regulariser:
        case "l2":
            return L2(tasks, strength, job.seed)
        case "ewc":
            return DiagonalEWC(tasks, strength, job.seed)
        case "rank1":
            return RankOneEWC(tasks, strength, job.seed)
        case "distillation":
            options = {"count": generated_of(preset), "batch_size": preset.batch_size}
            return Distillation(tasks, strength, job.seed, **options)
        case "held":
            return ReplayDistillation(strength, network="network")
        case "lora":
            return LoRA(int(job.value))
        case "levels":
            return ForgettingLevels(tasks, job.value)
    return None


def result_of(
    job: Job,
    method: Method,
    judge: Judge,
    monitor: Any,
    regulariser: Regulariser | LoRA | ForgettingLevels | ReplayDistillation | None,
    started: float,
    tasks: Sequence[Split],
    weights: int,
) -> dict[str, Any]:
    """What one run leaves: numbers, matrices, and one row for each held-out image."""
    buffer = monitor.buffer
    precision = KNNPrecisionRecall(judge.classifier.features, name="classifier")
    for split, images in zip(tasks[:-1], judge.last[:-1], strict=True):
        precision.update(split.held_out.tensors[0], real=True)
        precision.update(images, real=False)
    extra = regulariser.nbytes if isinstance(regulariser, Regulariser) else 0
    if method.regulariser == "held":
        extra = weights  # of the model before, while a task lasts
    if method.regulariser == "joint":
        extra = sum(column.nbytes for split in tasks for column in split.train.tensors)
    numbers = {**judge.fid.compute(), **judge.kid.compute(), **precision.compute()}
    last = monitor.history[-1].probes
    return {
        "job": asdict(job),
        "finite": all(bool(part.isfinite().all()) for row in judge.losses for part in row),
        "seconds": time.process_time() - started,
        "training_seconds": judge.seconds,
        "boundary_seconds": sum(record.seconds for record in monitor.history),
        "bytes_kept": extra + (0 if buffer is None else int(buffer.nbytes)),
        "numbers": {name: value.double() for name, value in numbers.items()},
        "right": judge.right,
        "losses": judge.losses,
        "by_level": judge.by_level,
        "expected": judge.expected,
        "energy_before": [probe.energy_start.float() for probe in last],
        "energy_after": [probe.energy.float() for probe in last],
        "error_before": [None if probe.error_start is None else probe.error_start.float() for probe in last],
        "error_after": [None if probe.error is None else probe.error.float() for probe in last],
        "boundaries": [at_boundary(record) for record in monitor.history[1:]],
        "labels": [split.held_out.tensors[1] for split in tasks],
        "timesteps": list(monitor.history[-1].timesteps or ()),
    }


def at_boundary(record: BoundaryRecord) -> dict[str, Tensor]:
    """Energies and errors (n,) of the task just before, when it had been learned and after the next one."""
    probe = record.probes[record.task - 1]
    found = {
        "energy_before": probe.energy_start,
        "energy_after": probe.energy,
        "error_before": probe.error_start,
        "error_after": probe.error,
    }
    return {
        name: value.mean(1).float() if value.ndim == 2 else value.float()
        for name, value in found.items()
        if value is not None
    }
