"""Distances between generated and real samples of every task after every task, as a torchmetrics class."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from hopfield_replay.functional.task_matrix import task_summary
from hopfield_replay.metrics._extractor import FrozenExtractor
from hopfield_replay.metrics._rows import RowMetric
from hopfield_replay.metrics.distances import frechet_distance, kernel_distance
from hopfield_replay.utilities.checks import check_integer

Distance = Callable[[Tensor, Tensor], Tensor]


class GenerativeTaskMatrix(RowMetric):
    """Distance of generated to real samples of each task, after training on each task; lower is better.

    Give the real samples of a task once, and after each task generated samples of every task so far: by class or
    prompt, or, for an unconditional model, assigned to tasks by a classifier.

    Args:
        num_tasks: number of tasks in the sequence, >= 1.
        extractor: maps samples (n, *shape) to features (n, d): a module, which stays where it is and as it is, or a
            function. Best trained on the domain.
        distance: ``"fid"``, ``"kid"``, or a function of real and generated features that returns a number.
        name: how the extractor is called in the results; its class or function name if None. The results are called
            FID-<extractor>, never FID: only the original Inception network gives comparable numbers.
        seed: of the halves of the real samples.
        **settings: settings of torchmetrics.Metric.

    Raises:
        TypeError: no such distance.
        ValueError: ``num_tasks`` below 1; on update: tasks out of range; on compute: too few samples for the distance.

    Example:
        >>> def features(x): return x
        >>> metric, draw = GenerativeTaskMatrix(2, features), torch.Generator().manual_seed(0)
        >>> for task in range(2):
        ...     metric.update(torch.randn(500, 2, generator=draw), task=task)
        >>> metric.update(torch.randn(500, 2, generator=draw), task=0, after=0)
        >>> metric.update(torch.randn(500, 2, generator=draw) + 3, task=0, after=1)
        >>> metric.update(torch.randn(500, 2, generator=draw), task=1, after=1)
        >>> values = metric.compute()
        >>> values["FID-features/matrix"].round()
        tensor([[ 0., nan],
                [18.,  0.]], dtype=torch.float64)
        >>> round(float(values["FID-features/forgetting"]))
        18
    """

    higher_is_better = False

    def __init__(
        self,
        num_tasks: int,
        extractor: Callable[[Tensor], Tensor],
        *,
        distance: Literal["fid", "kid"] | Distance = "fid",
        name: str | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_integer(num_tasks, "num_tasks", 1)
        self._distance: Distance
        if distance == "fid":
            label, self._distance = "FID", frechet_distance
        elif distance == "kid":
            label, self._distance = "KID", kernel_distance
        elif callable(distance):
            label, self._distance = getattr(distance, "__name__", type(distance).__name__), distance
        else:
            raise TypeError(f"distance must be 'fid', 'kid' or a function of two sets of features, got {distance!r}.")
        self._extractor = FrozenExtractor(extractor, name)
        self.name = f"{label}-{self._extractor.name}"
        self.num_tasks = num_tasks
        self.seed = seed
        for task in range(num_tasks):
            self.add_rows(f"real_{task}", torch.float32)
            for after in range(task, num_tasks):
                self.add_rows(f"generated_{after}_{task}", torch.float32)

    def update(self, samples: Tensor, *, task: int, after: int | None = None) -> None:
        """Add samples (n, *shape) of a task: real ones, or generated ones after training on the task ``after``."""
        last = self.num_tasks - 1
        if not 0 <= task <= last or (after is not None and not task <= after <= last):
            raise ValueError(f"task must lie in 0..{last} and after in task..{last}, got {task} and {after}.")
        self.append(f"real_{task}" if after is None else f"generated_{after}_{task}", self._extractor(samples))

    def compute(self) -> dict[str, Tensor]:
        """Results as float64 tensors, each named ``<distance>-<extractor>/...``.

        ``matrix`` (T, T): row i after task i, column j task j, nan where there are no samples. ``floor`` (T,): distance
        between two disjoint sets of ``floor_n`` (T,) real samples of a task: as many as were last generated, or half of
        the real ones if these are fewer; nan where they are too few. Over the complete rows: ``average_final`` (AFQ),
        ``average_incremental`` (AIQ), ``forgetting_rate`` (FR), ``forgetting``, ``backward_transfer`` and their number
        ``tasks``, as in :class:`hopfield_replay.functional.task_matrix.TaskSummary`.
        """
        matrix = torch.full((self.num_tasks, self.num_tasks), torch.nan, dtype=torch.float64, device=self.place)
        floor, floor_n = matrix[0].clone(), torch.zeros_like(matrix[0])
        for task in range(self.num_tasks):
            real, last = self.rows(f"real_{task}"), 0
            for after in range(task, self.num_tasks):
                generated = self.rows(f"generated_{after}_{task}")
                if len(generated) and not len(real):
                    raise ValueError(f"task {task} has generated samples but no real ones; add update(x, task={task}).")
                if len(generated):
                    matrix[after, task] = float(self._distance(real, generated))
                    last = len(generated)
            half = min(last, len(real) // 2)
            if half:
                shuffle = torch.randperm(len(real), generator=torch.Generator().manual_seed(self.seed))
                order = real[:, 0].argsort()[shuffle.to(real.device)]  # whatever order the ranks give
                floor_n[task] = half
                with suppress(ValueError):  # too few real samples for this distance: the floor stays unknown
                    floor[task] = float(self._distance(real[order[:half]], real[order[half : 2 * half]]))
        results = {"matrix": matrix, "floor": floor, "floor_n": floor_n}
        results |= {key: self.number(value) for key, value in asdict(task_summary(matrix)).items()}
        return {f"{self.name}/{key}": value for key, value in results.items()}


__all__ = ["GenerativeTaskMatrix"]
