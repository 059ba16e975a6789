"""Labelled images split into tasks, and a DDPM trained on them under a replay policy: shared by the examples."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from helpers.ddpm import DDPM
from hopfield_replay import (
    EnergyReplayBuffer,
    Forecast,
    ForgettingMonitor,
    GeneratedTask,
    ReplayDataModule,
    calibrate_beta,
    fit_tasks,
    forecast,
)
from hopfield_replay.functional import Correlation, energy, spearman_interval
from hopfield_replay.policies import POLICIES, Policy, balanced
from hopfield_replay.tracker import BoundaryRecord

_SAMPLINGS = ("uniform", "weight", "rise_weight", "energy", "rise", "gain")


@dataclass(frozen=True)
class Preset:
    """Training images and epochs of each task, batch size, model width, decay of the weights' average, CPU threads.

    The average covers the last two or three epochs. Without it the noise of the last steps is as large as the
    difference between replay policies.
    """

    train: int
    epochs: int
    batch_size: int
    width: int
    ema_decay: float
    threads: int


PRESETS = {
    # convolutions of 8x8 images are too small to share between threads: a busy second core would slow both down
    "digits": Preset(train=300, epochs=20, batch_size=32, width=16, ema_decay=0.95, threads=1),
    "mnist": Preset(train=2000, epochs=30, batch_size=64, width=16, ema_decay=0.99, threads=2),
    # for a GPU: 2340 steps a task. With 468 the first one was hardly learned, and nothing forgotten; "mnist" takes 930
    "mnist28": Preset(train=5000, epochs=60, batch_size=128, width=32, ema_decay=0.99, threads=2),
}


def load(data: str, data_dir: Path) -> tuple[Tensor, Tensor]:
    """Images (n, 1, h, w) in [-1, 1] and labels (n,): "digits" 8x8, "mnist" 14x14, "mnist28" 28x28."""
    if data == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8.0 - 1.0, torch.tensor(digits.target)
    from torchvision.datasets import MNIST

    try:
        mnist = MNIST(str(data_dir), train=True, download=True)
    except (RuntimeError, OSError) as error:
        raise SystemExit(
            f"MNIST is not in {data_dir} and could not be downloaded ({error}). Either use the embedded data with "
            f"--data digits, or put the four MNIST files (train-images-idx3-ubyte, ...) into {data_dir}/MNIST/raw and "
            f"pass --data-dir {data_dir}."
        ) from None
    images = mnist.data[:, None].float() / 127.5 - 1.0
    return images if data == "mnist28" else torch.nn.functional.avg_pool2d(images, 2), mnist.targets


class Split(LightningDataModule):
    """The images of some classes, one task: at most ``train`` of them to train on, up to 200 others held out.

    Args:
        images: (n, channels, h, w).
        labels: (n,).
        classes: of this task.
        train: most images to train on.
        batch_size: of the training batches.
        seed: of the choice of images.
        test: images and labels to hold out from; None: a fifth or more of ``images`` is not trained on.
        seen: so many of the training images follow the held-out ones in the validation data.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: list[int],
        train: int,
        batch_size: int,
        seed: int = 0,
        *,
        test: tuple[Tensor, Tensor] | None = None,
        seen: int = 0,
    ) -> None:
        super().__init__()
        mine = shuffled(labels, classes, seed)
        if test is None:
            train = min(train, int(0.8 * len(mine)))
            test, held_out = (images, labels), mine[train : train + 200]
        else:
            held_out = shuffled(test[1], classes, seed)[:200]
        self.classes = classes
        self.batch_size = batch_size
        self.train = TensorDataset(images[mine[:train]], labels[mine[:train]])
        self.held_out = TensorDataset(test[0][held_out], test[1][held_out])
        self.seen = Subset(self.train, range(min(seen, len(self.train))))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(ConcatDataset([self.held_out, self.seen]), batch_size=256)


def shuffled(labels: Tensor, classes: list[int], seed: int) -> Tensor:
    """Where labels are of these classes, in random order."""
    mine = torch.isin(labels, torch.tensor(classes)).nonzero().flatten()
    return mine[torch.randperm(len(mine), generator=torch.Generator().manual_seed(seed))]


def split_classes(tasks: int) -> list[list[int]]:
    """The ten classes in order, in as many parts as there are tasks."""
    return [part.tolist() for part in torch.arange(10).tensor_split(tasks)]


def unknown_policies(policies: Sequence[str]) -> str:
    """What is wrong with these policies (see :func:`make_buffer`), or an empty string."""
    unknown = []
    for policy in policies:
        name, _, after = policy.partition("+")
        if policy != "none" and (name.removesuffix("_by_label") not in POLICIES or after not in ("", *_SAMPLINGS)):
            unknown.append(policy)
    return f"unknown policies {unknown}; choose from none, {', '.join(POLICIES)}" if unknown else ""


def be_quiet() -> None:
    """Silence what Lightning says at every one of many fits."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # lightning 2.6.6 with torch 2.15
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # data in memory needs none
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)


def start_worker(threads: int = 1) -> None:
    """Begin a worker process; one thread on a CPU: convolutions of small images do not gain from more."""
    torch.set_num_threads(threads)
    be_quiet()


def forecast_boundary(old: Split, new: Split, *, capacity: int, replay_ratio: float, seed: int) -> Forecast:
    """What training on the second task will make a model of the first forget, from their training images alone."""
    images, labels = old.train.tensors
    sizes = sorted({size for size in (capacity // 2, capacity, 2 * capacity, 4 * capacity) if 0 < size <= len(images)})
    return forecast(
        images,
        new.train.tensors[0],
        labels=labels,
        capacities=sizes or [len(images)],
        replay_ratio=replay_ratio,
        seed=seed,
    )


def predicted_rise(x: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """The forecast's energy rise (n,) of held-out images when the training images change from old to new."""
    beta = calibrate_beta(old)
    return energy(x, new, beta) - energy(x, old, beta)


def forecast_agreement(history: Sequence[BoundaryRecord], tasks: Sequence[Split]) -> list[Correlation]:
    """How well the forecast ranks what was forgotten at each boundary, over the held-out probes of the task before it.

    Args:
        history: a monitor's, of a run whose probes are the tasks' held-out images.
        tasks: the data of the run.

    Returns:
        For each task but the last Spearman's correlation, with its bootstrap interval, of the predicted energy rise and
        the rise of the reconstruction error while the next task was learned.
    """
    agreement = []
    for task, predicted in foreseen(history, tasks).items():
        measured = history[task + 1].probes[task].reconstruction
        assert measured is not None  # the monitor knows the DDPM's denoiser
        agreement.append(spearman_interval(predicted, measured))
    return agreement


def foreseen(history: Sequence[BoundaryRecord], tasks: Sequence[Split]) -> dict[int, Tensor]:
    """For each task but the last the energy rises of its held-out probes that the training images alone predict."""
    predicted = {}
    for record, old, new in zip(history[1:], tasks, tasks[1:], strict=False):
        probe = record.probes[record.task - 1]
        images = old.held_out.tensors[0][probe.ids & ((1 << 39) - 1)]  # the position is in the id's lowest bits
        predicted[record.task - 1] = predicted_rise(images, old.train.tensors[0], new.train.tensors[0])
    return predicted


def train_tasks(
    policy: str,
    tasks: Sequence[Split],
    make_model: Callable[[], DDPM],
    *,
    capacity: int,
    replay_ratio: float,
    epochs: int,
    seed: int,
    accelerator: str,
    precision: Any = "32-true",
    ema_decay: float | None = None,
    gradient_clip: float | None = None,
    generated: int = 0,
    first: Sequence[Callback] = (),
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
) -> tuple[DDPM, ForgettingMonitor]:
    """Train a new DDPM on one task after the other under one policy ("none": no replay).

    Args:
        policy: the replay policy, or "none"; "herding+weight": with ``sampling="weight"``; see
            :func:`make_buffer`.
        tasks: in this order.
        make_model: makes the model; called after the random generators are seeded.
        capacity: samples kept in all.
        replay_ratio: share of each batch that is replayed.
        epochs: of each task.
        seed: of model, data order, buffer and noise.
        accelerator: of the Trainer.
        precision: of the Trainer.
        ema_decay: decay of the exponential moving average of the weights, which every task ends with; None: no average.
        gradient_clip: largest norm of the gradient; None: as it comes.
        generated: so many images that the model draws before each task are chosen from, and no stored ones; 0: stored
            ones.
        first: callbacks for the Trainer, before all others.
        callbacks: for the Trainer, after the monitor.
        logger: for the Trainer; None: no logger.

    Returns:
        The model after the last task, and the monitor, whose probes are each task's held-out images.
    """
    seed_everything(seed, verbose=False)
    buffer = None
    datamodules: list[LightningDataModule] = list(tasks)
    if policy != "none":
        buffer = make_buffer(policy, capacity, seed)
        datamodules = [ReplayDataModule(split, buffer, replay_ratio=replay_ratio) for split in tasks]
    drawn = None

    def draw(count: int) -> list[Tensor]:
        return drawn_batch(model, count, tasks[: len(monitor.history)])

    if generated:
        drawn = GeneratedTask(draw, generated, keep_probes=True, seed=seed)
    monitor = ForgettingMonitor(buffer, probe_source="val", generated=drawn, seed=seed)
    # the average comes first, so that the monitor measures it; without a device it would sit on the CPU
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    device = "cuda" if on_gpu else "cpu"
    averaging = [] if ema_decay is None else [EMAWeightAveraging(device=device, decay=ema_decay)]
    trainer = Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=1,
        precision=precision,
        gradient_clip_val=gradient_clip,
        callbacks=[*first, *averaging, monitor, *callbacks],
        logger=logger if logger is not None else False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=epochs,
        log_every_n_steps=5,
    )
    model = make_model()
    fit_tasks(trainer, model, datamodules)
    return model, monitor


def make_buffer(policy: str, capacity: int, seed: int = 0) -> EnergyReplayBuffer:
    """The buffer of an arm: every task has an equal share, and samples are drawn as after the "+", or as by default.

    "random_by_label" is random with an equal share for every class, too.

    Example:
        >>> make_buffer("herding", 20).sampling, make_buffer("random_by_label+weight", 20).sampling
        ('uniform', 'weight')
    """
    name, _, after = policy.partition("+")
    sampling: Any = after or None  # the buffer knows which there are
    chooser: str | Policy = balanced(name.removesuffix("_by_label"), by="label") if name.endswith("_by_label") else name
    return EnergyReplayBuffer(capacity, chooser, groups="task", sampling=sampling, seed=seed)


def drawn_batch(model: DDPM, count: int, learned: Sequence[Split]) -> list[Tensor]:
    """Images that the model draws, of the classes learned so far if it is conditional, as a batch of its data."""
    seed = int(torch.randint(1 << 31, ()))  # the sampler's default would draw the same images again and again
    labels = torch.zeros(count, dtype=torch.int64)  # an unconditional network does not look at them
    if model.conditional:
        classes = torch.tensor([one for split in learned for one in split.classes])
        labels = classes[torch.randint(len(classes), (count,))]
    return [model.sample(count, labels, seed=seed).cpu(), labels]
