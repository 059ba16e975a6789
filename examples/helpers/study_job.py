"""One job of the energy-forgetting study: one model, trained on one sequence of tasks under one policy."""

import itertools
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from helpers.ddpm import DDPM
from helpers.files import read_tensors, write_tensors, write_text
from helpers.splits import PRESETS, Split, load, split_classes, train_tasks
from hopfield_replay import run_report
from hopfield_replay.functional import knn_distance
from hopfield_replay.tracker import BoundaryRecord, ProbeRecord, sample_ids

NEIGHBOUR = 10  # the density control is the distance to this neighbour
NETWORK: dict[str, Literal["unet", "mlp"]] = {"digits": "mlp", "mnist": "mlp", "mnist28": "unet"}
MLP_WIDTH = {"digits": 256, "mnist": 384, "mnist28": 1024}
MLP_EPOCHS = {"digits": 60, "mnist": 30, "mnist28": 30}
GENERATED = {"digits": 200, "mnist": 500, "mnist28": 500}


@dataclass(frozen=True)
class Settings:
    """What the jobs on one data set have in common; results of other settings must not be mixed with these.

    Attributes:
        data: which digits.
        train: training images of each task.
        epochs: of each task.
        batch_size: of a task's own images.
        network: "unet" or "mlp".
        width: of the network.
        ema_decay: of the moving average of the weights that each task ends with; None: no average.
        gradient_clip: largest norm of the gradient; None: as it comes.
        seen: training images of each task that are followed beside the held-out ones.
        replay_ratio: share of each batch that is replayed.
        generated: images that are sampled from the model after its last task.
        sequences: the classes of each task, by the name of the sequence.
    """

    data: str
    train: int
    epochs: int
    batch_size: int
    network: Literal["unet", "mlp"]
    width: int
    ema_decay: float | None
    gradient_clip: float | None
    seen: int
    replay_ratio: float
    generated: int
    sequences: dict[str, list[list[int]]]

    @property
    def name(self) -> str:
        """Name of its results."""
        return f"{self.data}-{self.network}"


@dataclass(frozen=True)
class Job:
    """One model: the sequence of tasks, the policy ("none" with capacity 0: no replay) and the seed."""

    sequence: str
    policy: str
    capacity: int
    seed: int

    @property
    def file(self) -> str:
        """Name of its result."""
        return f"{self.sequence}-{self.policy}-{self.capacity}-{self.seed}.pt"


@lru_cache(maxsize=1)
def images_of(data: str, data_dir: Path) -> tuple[Tensor, Tensor]:
    """The images and labels; read once in each process."""
    return load(data, data_dir)


def class_distances(images: Tensor, labels: Tensor) -> Tensor:
    """Distances between the mean images of the ten digits, (10, 10)."""
    means = torch.stack([images[labels == digit].flatten(1).mean(0) for digit in range(10)])
    return torch.cdist(means, means)


def task_distance(distances: Tensor, first: list[int], second: list[int]) -> float:
    """Mean distance between the mean images of two tasks' classes."""
    return float(distances[first][:, second].mean())


def make_sequences(images: Tensor, labels: Tensor, tasks: int) -> dict[str, list[list[int]]]:
    """The digits in order, and, of all pairs of two-digit tasks, the nearest and the farthest, each in both orders."""
    distances = class_distances(images, labels)
    twos = [list(two) for two in itertools.combinations(range(10), 2)]
    pairs = [pair for pair in itertools.combinations(twos, 2) if not set(pair[0]) & set(pair[1])]
    near = min(pairs, key=lambda pair: task_distance(distances, *pair))
    far = max(pairs, key=lambda pair: task_distance(distances, *pair))
    return {
        "split": split_classes(tasks),
        "similar": [near[0], near[1]],
        "similar_reversed": [near[1], near[0]],
        "dissimilar": [far[0], far[1]],
        "dissimilar_reversed": [far[1], far[0]],
    }


def settings_for(
    data: str,
    data_dir: Path,
    *,
    network: Literal["unet", "mlp"] | None,
    tasks: int,
    epochs: int | None,
    ema_decay: float | None,
    gradient_clip: float | None,
    seen: int,
    replay_ratio: float,
    generated: int | None,
) -> Settings:
    """The preset's settings; network, epochs and generated images by the data where None."""
    preset = PRESETS[data]
    network = network or NETWORK[data]
    usual = preset.epochs if network == "unet" else MLP_EPOCHS[data]
    return Settings(
        data=data,
        train=preset.train,
        epochs=usual if epochs is None else epochs,
        batch_size=preset.batch_size,
        network=network,
        width=preset.width if network == "unet" else MLP_WIDTH[data],
        ema_decay=ema_decay,
        gradient_clip=gradient_clip,
        seen=seen,
        replay_ratio=replay_ratio,
        generated=GENERATED[data] if generated is None else generated,
        sequences=make_sequences(*images_of(data, data_dir), tasks),
    )


def generate(model: DDPM, count: int) -> Tensor:
    """Images sampled from the model, uint8, on the CPU."""
    model.eval()
    images = model.sample(count)
    return ((images + 1) * 127.5).round().to("cpu", torch.uint8)


def positions(probe: ProbeRecord) -> Tensor:
    """Where the probes stand in their task's validation data, (n,), rising: the held-out images first."""
    at: Tensor = probe.ids - sample_ids(probe.task, torch.zeros(1), held_out=True)
    return at


def log_density(split: Split, probe: ProbeRecord) -> Tensor:
    """Logarithm of the distance of each held-out probe to its k-th neighbour among its own task's training images."""
    held_out, train = (dataset.tensors[0].flatten(1) for dataset in (split.held_out, split.train))
    at = positions(probe)
    return knn_distance(held_out[at[at < len(held_out)]], train, NEIGHBOUR).log()


def run_job(job: Job, settings: Settings, folder: Path, data_dir: Path, accelerator: str) -> float:
    """Train, measure, and write the result, all or nothing. Returns the seconds it took."""
    started = time.perf_counter()
    images, labels = images_of(settings.data, data_dir)
    tasks = [
        Split(images, labels, classes, settings.train, settings.batch_size, job.seed, seen=settings.seen)
        for classes in settings.sequences[job.sequence]
    ]
    with warnings.catch_warnings():
        # settings.seen of them, on purpose
        warnings.filterwarnings("ignore", message=r"\d+ of the \d+ probes of task \d+ are training samples")
        model, monitor = train_tasks(
            job.policy,
            tasks,
            partial(DDPM, images.shape[-1], width=settings.width, network=settings.network),
            capacity=job.capacity,
            replay_ratio=settings.replay_ratio,
            epochs=settings.epochs,
            seed=job.seed,
            accelerator=accelerator,
            ema_decay=settings.ema_decay,
            gradient_clip=settings.gradient_clip,
        )
    if accelerator == "gpu":
        model.to("cuda")  # the trainer has moved it back
    generated = generate(model, settings.generated)
    seconds = time.perf_counter() - started
    result = {
        "job": asdict(job),
        "seconds": seconds,
        "device": torch.cuda.get_device_name() if accelerator == "gpu" else "cpu",
        "records": [lean(record, tasks) for record in monitor.history],
        "density": [log_density(split, monitor.history[task].probes[task]) for task, split in enumerate(tasks)],
        "generated": generated,
    }
    page = run_report(monitor, title=f"What was forgotten: {Path(job.file).stem}").html()
    write_text((folder / job.file).with_suffix(".html"), page)
    write_tensors(folder / job.file, result)
    return seconds


def lean(record: BoundaryRecord, tasks: Sequence[Split]) -> dict[str, Any]:
    """One record of the monitor's history, its errors averaged over the timesteps, in float32.

    What was measured on a task's training images, which follow the held-out ones, is named "seen_...".
    """
    probes = []
    for probe in record.probes:
        count = int((positions(probe) < len(tasks[probe.task].held_out)).sum())
        row = {"task": probe.task}
        for name, value in probe.items():
            if name.startswith(("energy", "error")) and value is not None:
                mean = (value.mean(1) if value.ndim == 2 else value).float()
                row |= {name: mean[:count], f"seen_{name}": mean[count:]}
        probes.append(row)
    return {name: record[name] for name in ("task", "beta", "n_eff", "replayed", "timesteps")} | {"probes": probes}


def read_results(folder: Path) -> dict[Job, dict[str, Any]]:
    """All finished jobs of a folder."""
    results = (read_tensors(path) for path in sorted(folder.glob("*.pt")))
    return {Job(**result["job"]): result for result in results}
