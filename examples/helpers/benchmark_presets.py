"""What all methods of the benchmark share: images, model and training, by preset, and the classifier that judges."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from helpers.cifar10 import load_cifar10
from helpers.digit_classifier import DigitClassifier, train_classifier
from helpers.splits import load


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
