"""Small benchmarks of the three kinds, whose samples carry their own number in their first element."""

import pytest

pytest.importorskip("avalanche", reason="needs avalanche-lib")
pytest.importorskip("hopfield_replay.avalanche")

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark
from avalanche.benchmarks.utils import (
    _make_taskaware_tensor_classification_dataset,
    as_classification_dataset,
    make_avalanche_dataset,
)
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torch.utils.data import TensorDataset

QUIET = [
    # upstream warns of every evaluator without loggers, and a strategy cannot be made without an evaluator
    pytest.mark.filterwarnings("ignore:No loggers specified:UserWarning"),
]
KINDS = ("task-aware", "task-free", "class-incremental")


def data(n: int = 120, classes: int = 6, size: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, size, size), clustered by class, the first pixel of each being its number; labels (n,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, 1, size, size, generator=generator)
    images = centres[labels] + 0.5 * torch.randn(n, 1, size, size, generator=generator)
    images[:, 0, 0, 0] = torch.arange(n) / n
    return images, labels


def number(images: torch.Tensor, n: int = 120) -> list[int]:
    """The numbers that images carry."""
    return (images[:, 0, 0, 0] * n).round().long().tolist()


def benchmark(kind: str, images, labels, experiences: int = 3):
    """A benchmark whose training and test streams hold the same samples, in experiences of successive classes."""
    order = labels.unique().tolist()
    if kind == "class-incremental":
        attribute = DataAttribute(labels.tolist(), "targets")
        both = as_classification_dataset(
            make_avalanche_dataset(TensorDataset(images, labels), data_attributes=[attribute])
        )
        return class_incremental_benchmark(
            {"train": both, "test": both}, num_experiences=experiences, class_order=order
        )
    both = _make_taskaware_tensor_classification_dataset(images, labels)
    return nc_benchmark(both, both, experiences, task_labels=kind == "task-aware", fixed_class_order=order)


def model(size: int = 8, classes: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size, 16), nn.ReLU(), nn.Linear(16, classes))


def naive(*plugins, network=None, evaluator=None, **settings):
    """A Naive strategy over a small classifier, silent."""
    network = model() if network is None else network
    settings = {"train_mb_size": 8, "train_epochs": 1, "eval_mb_size": 32, **settings}
    return Naive(
        model=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05),
        criterion=settings.pop("criterion", nn.CrossEntropyLoss()),
        plugins=list(plugins),
        evaluator=evaluator,
        **settings,
    )


def silent(*metrics, loggers=()):
    """An evaluator with these metrics."""
    return EvaluationPlugin(*metrics, loggers=list(loggers))
