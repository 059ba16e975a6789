"""One run of the benchmark: one class-conditional model, one method, one sequence of tasks, one seed."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.utils.data import TensorDataset

from helpers.benchmark_methods import METHODS, Method
from helpers.cifar10 import load_cifar10
from helpers.ddpm import DDPM
from helpers.digit_classifier import DigitClassifier, train_classifier
from helpers.files import write_tensors, write_text
from helpers.noise_levels import ForgettingLevels, LevelledDDPM, loss_by_level
from helpers.regularisers import L2, DiagonalEWC, Distillation, LoRA, RankOneEWC, Regulariser, noised
from helpers.splits import Split, load, split_classes, train_tasks
from hopfield_replay import ForgettingMonitor, run_report
from hopfield_replay.functional import energy, predicted_rises, replay_gain, rise_weights
from hopfield_replay.metrics import GenerativeTaskMatrix, KNNPrecisionRecall

LOSS_DRAWS = 8  # noises and timesteps of each held-out image in the loss


@dataclass(frozen=True)
class Preset:
    """Data, model and training that all methods share.

    Attributes:
        data: which images.
        train: images of each task, at most.
        epochs: of each task.
        batch_size: of a task's own images.
        network: "mlp" or "unet".
        width, levels: of the network.
        learning_rate: of Adam.
        ema_decay: of the average of the weights that a task ends with.
        kept: samples that a buffer keeps in all.
        generated: images of each class that are drawn to be judged, after every task.
        steps: of the sampler (DDIM).
        tasks: of equally many classes each.
    """

    data: Literal["digits", "mnist14", "cifar16", "mnist32", "fashion32", "cifar32"]
    train: int
    epochs: int
    batch_size: int
    network: Literal["mlp", "unet"]
    width: int
    learning_rate: float
    ema_decay: float
    kept: int
    generated: int
    levels: tuple[int, ...] = (1, 2)
    steps: int = 25
    tasks: int = 5


_GPU: dict[str, Any] = {
    "train": 100_000,
    "epochs": 200,
    "batch_size": 128,
    "network": "unet",
    "width": 128,
    "levels": (1, 2, 2, 2),
    "learning_rate": 2e-4,
    "ema_decay": 0.999,
    "kept": 500,
    "generated": 500,
    "steps": 50,
}
PRESETS = {
    "digits": Preset("digits", 300, 60, 32, "mlp", 256, 2e-3, 0.95, 50, 50),
    "mnist14": Preset("mnist14", 1000, 40, 64, "mlp", 384, 2e-3, 0.99, 100, 50),
    "cifar16": Preset("cifar16", 1000, 60, 64, "mlp", 512, 1e-3, 0.99, 100, 50),
    "mnist32": Preset("mnist32", **_GPU),
    "fashion32": Preset("fashion32", **_GPU),
    "cifar32": Preset("cifar32", **_GPU),
}


@dataclass(frozen=True)
class Data:
    """Training and test images in [-1, 1] with labels; the same tensors where the test images are left out of them."""

    images: Tensor
    labels: Tensor
    test: tuple[Tensor, Tensor] | None


@lru_cache(maxsize=1)
def read(name: str, folder: Path) -> Data:
    """The images of a preset; read once in each process.

    Raises:
        SystemExit: the data is not there.
    """
    if name == "digits":
        return Data(*load("digits", folder), None)
    if name == "mnist14":
        return Data(*load("mnist", folder), None)
    if name.startswith("cifar"):
        try:
            train, test = load_cifar10(folder)
        except ValueError as error:
            raise SystemExit(str(error)) from None
        if name == "cifar16":
            train, test = ((avg_pool2d(images, 2), labels) for images, labels in (train, test))
        return Data(*train, test)
    from torchvision.datasets import MNIST, FashionMNIST

    kind = MNIST if name == "mnist32" else FashionMNIST
    parts = []
    for training in (True, False):
        try:
            found = kind(str(folder), train=training, download=True)
        except (RuntimeError, OSError) as error:
            raise SystemExit(f"{kind.__name__} is not in {folder} and could not be downloaded ({error}).") from None
        images = torch.nn.functional.pad(found.data[:, None].float() / 127.5 - 1.0, (2, 2, 2, 2), value=-1.0)
        parts.append((images, found.targets))
    return Data(*parts[0], parts[1])


@lru_cache(maxsize=1)
def classifier_of(name: str, folder: Path) -> tuple[DigitClassifier, float]:
    """The classifier whose features and answers judge generated images, and its accuracy on images of no use to it."""
    data = read(name, folder)
    return train_classifier(data.images, data.labels)


class JointSplit(Split):
    """All training images so far, and the held-out ones of the newest task."""

    def __init__(self, splits: Sequence[Split]) -> None:  # a Split that is made of others
        super(Split, self).__init__()
        newest = splits[-1]
        self.classes, self.batch_size = newest.classes, newest.batch_size
        self.held_out, self.seen = newest.held_out, newest.seen
        columns = zip(*(split.train.tensors for split in splits), strict=True)
        self.train = TensorDataset(*(torch.cat(column) for column in columns))


class Judge(Callback):
    """After every task: images of every class so far, the loss on held-out images, and what was to be expected.

    Args:
        tasks: the sequence.
        preset: of the run.
        classifier: that judges.
        ratio: share of each batch that is replayed.
    """

    def __init__(self, tasks: Sequence[Split], preset: Preset, classifier: DigitClassifier, ratio: float) -> None:
        self.tasks, self.preset, self.classifier, self.ratio = tasks, preset, classifier, ratio
        self.learned = 0
        self.seconds = 0.0  # of training alone
        self.fid = GenerativeTaskMatrix(len(tasks), classifier.features, distance="fid", name="classifier")
        self.kid = GenerativeTaskMatrix(len(tasks), classifier.features, distance="kid", name="classifier")
        for number, split in enumerate(tasks):
            for metric in (self.fid, self.kid):
                metric.update(split.held_out.tensors[0], task=number)
        self.right = torch.full((len(tasks), len(tasks)), math.nan)
        self.losses: list[list[Tensor]] = []
        self.by_level: list[Tensor] = []
        self.expected: list[dict[str, float]] = []
        self.last: list[Tensor] = []
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.learned:
            (monitor,) = (one for one in trainer.callbacks if isinstance(one, ForgettingMonitor))  # type: ignore[attr-defined]
            self.expected.append(self.expect(monitor))
        self._started = time.process_time()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.process_time() - self._started
        assert isinstance(pl_module, DDPM)
        was = pl_module.training
        pl_module.eval()
        with torch.random.fork_rng(devices=[pl_module.device] if pl_module.device.type == "cuda" else []):
            self.last = []
            for number, split in enumerate(self.tasks[: self.learned + 1]):
                labels = torch.tensor(split.classes).repeat_interleave(self.preset.generated)
                images = pl_module.sample(len(labels), labels, steps=self.preset.steps, seed=number).cpu()
                self.right[self.learned, number] = float((self.classifier.classify(images) == labels).float().mean())
                for metric in (self.fid, self.kid):
                    metric.update(images, task=number, after=self.learned)
                self.last.append(images)
            so_far = self.tasks[: self.learned + 1]
            self.losses.append([held_out_loss(pl_module, split) for split in so_far])
            self.by_level.append(torch.stack([loss_by_level(pl_module, split) for split in so_far]))
        pl_module.train(was)
        self.learned += 1

    def expect(self, monitor: ForgettingMonitor) -> dict[str, float]:
        """What is known before a task of how the earlier tasks' held-out images will fare; means over them.

        "alone": rise of their energies under the next task's data. "replayed": under what is trained on, a mixture of
        that and the kept samples, as often as they are drawn. "protected": the replay gain of the kept samples, all
        with the same mass, which the certificate is about. "drawn": the same, with masses as they are drawn.
        "weighted": the latter weighted by :func:`rise_weights`.
        """
        own, buffer, beta = vectors_of(self.tasks[self.learned]), monitor.buffer, monitor.history[-1].beta
        found: dict[str, list[Tensor]] = {"alone": [], "replayed": [], "protected": [], "drawn": [], "weighted": []}
        for split in self.tasks[: self.learned]:
            x, old = split.held_out.tensors[0].flatten(1), vectors_of(split)
            before, after = energy(x, old, beta), energy(x, own, beta)
            found["alone"].append(after - before)
            if buffer is None or not len(buffer):
                continue
            kept, shares = buffer.vectors.to(own), buffer.draw_shares
            masses = torch.full((len(own),), (1 - self.ratio) / len(own), dtype=torch.float64)
            both, masses = torch.cat([own, kept]), torch.cat([masses, self.ratio * shares])
            found["replayed"].append(energy(x, both, beta, masses=masses) - before)
            total = len(own) * self.ratio / (1 - self.ratio)  # of what is replayed, in samples of the next task
            even = torch.full((len(kept),), total / len(kept), dtype=torch.float64)
            found["protected"].append(replay_gain(x, old, own, kept, beta, replay_masses=even))
            gain = replay_gain(x, old, own, kept, beta, replay_masses=total * shares)
            found["drawn"].append(gain)
            found["weighted"].append(gain * rise_weights(predicted_rises(before, after)))
        return {name: float(torch.cat(parts).mean()) for name, parts in found.items() if parts}


def vectors_of(split: Split) -> Tensor:
    """The training images of a task as vectors."""
    vectors: Tensor = split.train.tensors[0].flatten(1)
    return vectors


@torch.no_grad()
def held_out_loss(model: DDPM, split: Split) -> Tensor:
    """The training loss of each held-out image (n,), with the same noise for every model."""
    images, labels = (column.to(model.device) for column in split.held_out.tensors)
    torch.manual_seed(11)
    found = []
    for _ in range(LOSS_DRAWS):
        noisy, times, noise = noised(model, images)
        found.append((model(noisy, times, labels) - noise).square().flatten(1).mean(1).cpu())
    return torch.stack(found).mean(0)


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
    held = [regulariser] if isinstance(regulariser, Regulariser | ForgettingLevels) else []
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
    del model
    page = run_report(monitor, title=f"What was forgotten: {Path(job.file).stem}").html()
    write_text((folder / job.file).with_suffix(".html"), page)
    write_tensors(folder / job.file, result_of(job, method, judge, monitor, regulariser, started, tasks))


def generated_of(preset: Preset) -> int:
    """Candidates that a model draws before each task."""
    return 10 * preset.kept


def regulariser_of(
    method: Method, job: Job, tasks: Sequence[Split], preset: Preset
) -> Regulariser | LoRA | ForgettingLevels | None:
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
    regulariser: Regulariser | LoRA | ForgettingLevels | None,
    started: float,
    tasks: Sequence[Split],
) -> dict[str, Any]:
    """What one run leaves: numbers, matrices, and one row for each held-out image."""
    buffer = monitor.buffer
    precision = KNNPrecisionRecall(judge.classifier.features, name="classifier")
    for split, images in zip(tasks[:-1], judge.last[:-1], strict=True):
        precision.update(split.held_out.tensors[0], real=True)
        precision.update(images, real=False)
    extra = regulariser.nbytes if isinstance(regulariser, Regulariser) else 0
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
        "labels": [split.held_out.tensors[1] for split in tasks],
        "timesteps": list(monitor.history[-1].timesteps or ()),
    }
