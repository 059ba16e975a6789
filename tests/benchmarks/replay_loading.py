"""Samples per second of minibatches with replay: ReplayMinibatchLoader against avalanche's ReplayDataLoader.

Run from the repository root: ``python -m tests.benchmarks.replay_loading``. Both loaders mix one experience with one
memory, half and half; rounds alternate between them, and ratios are medians over pairs. The baseline is upstream's
loader over what stock replay keeps, a view of the data set.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset, make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from torch import Tensor
from torch.utils.data import TensorDataset

from hopfield_replay.avalanche import EnergyPrioritizedBuffer, ReplayMinibatchLoader


def benchmark(kind: str, images: Tensor, labels: Tensor) -> Any:
    """Two experiences with half of the samples each."""
    data = TensorDataset(images, labels)
    if kind == "class-incremental":
        raw = make_avalanche_dataset(data, data_attributes=[DataAttribute(labels.tolist(), "targets")])
        made = as_classification_dataset(raw)
        return class_incremental_benchmark({"train": made, "test": made}, num_experiences=2, class_order=[0, 1])
    data.targets = labels  # type: ignore[attr-defined]  # where avalanche looks for them
    transform = scaled if kind == "task-aware, transformed" else None
    return nc_benchmark(
        data, data, 2, task_labels=True, fixed_class_order=[0, 1], train_transform=transform, eval_transform=transform
    )


def scaled(image: Tensor) -> Tensor:
    """A transformation, as cheap as one can be."""
    return image * 2.0


def rate(loader: Iterable[Any]) -> float:
    """Samples per second of one pass."""
    count = 0
    started = time.perf_counter()
    for batch in loader:
        count += len(batch[0])
    return count / (time.perf_counter() - started)


def loaders(kind: str, options: argparse.Namespace) -> tuple[Callable[[], Iterable[Any]], Callable[[], Iterable[Any]]]:
    """Makers of upstream's loader and of ours."""
    images = torch.rand(options.samples, 1, 28, 28)
    first, second = benchmark(kind, images, torch.arange(options.samples) % 2).train_stream
    stock, ours = ReservoirSamplingBuffer(options.memory), EnergyPrioritizedBuffer(options.memory, "random", beta=1.0)
    stock.update_from_dataset(first.dataset)
    ours.update_from_dataset(first.dataset)
    half = options.batch_size

    def upstream() -> Iterable[Any]:
        loader: Iterable[Any] = ReplayDataLoader(
            second.dataset,
            stock.buffer,
            oversample_small_tasks=True,
            batch_size=half,
            batch_size_mem=half,
            shuffle=True,
        )
        return loader

    return upstream, lambda: ReplayMinibatchLoader(
        second.dataset, ours.memory, replay_ratio=0.5, seed=0, batch_size=half
    )


def main() -> None:
    """Print a line for each kind of benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000, help="images in both experiences, 1x28x28")
    parser.add_argument("--memory", type=int, default=2_000, help="kept samples")
    parser.add_argument("--batch-size", type=int, default=64, help="new samples in a minibatch; as many are replayed")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of passes")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'benchmark':<26}{'ReplayDataLoader':>18}{'ReplayMinibatchLoader':>23}{'ratio':>8}   range")
    for kind in ("task-aware", "class-incremental", "task-aware, transformed"):
        upstream, ours = loaders(kind, options)
        rate(upstream())
        rate(ours())
        pairs = [(rate(upstream()), rate(ours())) for _ in range(options.rounds)]
        ratios = sorted(new / old for old, new in pairs)
        old, new = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(
            f"{kind:<26}{old:>16,.0f}/s{new:>21,.0f}/s{statistics.median(ratios):>8.2f}   "
            f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
