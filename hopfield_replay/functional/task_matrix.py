"""What a matrix of distances, one row after each task and one column for each task, says of a task sequence."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TaskSummary:
    """Summary of a lower-is-better task matrix M up to its last complete row T (from 1).

    Attributes:
        tasks: T, the number of tasks that it sums up.
        average_final: mean of M[T, j] over the tasks j <= T; AFQ (average final quality) in CLoG.
        average_incremental: mean over i <= T of the mean of M[i, j] over j <= i; AIQ in CLoG.
        forgetting_rate: mean of M[T, j] - M[j, j] over j < T: the rise since a task was learned; FR in CLoG.
        forgetting: mean of M[T, j] - min over i < T of M[i, j], over j < T: the rise since its best.
        backward_transfer: minus the forgetting rate: positive where later tasks improved earlier ones.

    Example:
        >>> import torch
        >>> summary = task_summary(torch.tensor([[1.0, torch.nan], [3.0, 2.0]]))  # task 1 went from 1 to 3
        >>> summary.forgetting_rate, summary.average_final, summary.average_incremental
        (2.0, 2.5, 1.75)
    """

    tasks: int
    average_final: float
    average_incremental: float
    forgetting_rate: float
    forgetting: float
    backward_transfer: float


def task_summary(matrix: Tensor) -> TaskSummary:
    """Sum up a matrix of distances; nan where there is nothing to average (no complete row; forgetting after one task).

    Args:
        matrix: (T, T), M[i, j] the distance of task j after training on task i, nan where unknown; the part above the
            diagonal is not read. Lower is better.

    Raises:
        TypeError: not a tensor.
        ValueError: not square.

    Example:
        >>> summary = task_summary(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
        >>> summary.average_final, summary.average_incremental, summary.forgetting, summary.backward_transfer
        (2.5, 1.75, 2.0, -2.0)

    Source: Lopez-Paz and Ranzato, arXiv:1706.08840 (backward transfer); Chaudhry et al., arXiv:1801.10112 (forgetting).
        The names AIQ, AFQ and FR are those of Zhang et al., arXiv:2406.04584.
    """
    if not isinstance(matrix, Tensor):
        raise TypeError(f"matrix must be a torch.Tensor (T, T), got {type(matrix).__name__}.")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must be square, one row and one column for each task, got {tuple(matrix.shape)}.")
    values = matrix.detach().to("cpu", torch.float64)
    rows = 0
    while rows < len(values) and not bool(values[rows, : rows + 1].isnan().any()):
        rows += 1
    if not rows:
        return TaskSummary(0, *[math.nan] * 5)
    last, known = rows - 1, values[:rows, :rows]
    averages = [float(known[row, : row + 1].mean()) for row in range(rows)]
    rise = best = math.nan
    if last:
        final = known[last, :last]
        rise = float((final - known.diagonal()[:last]).mean())
        earlier = torch.stack([known[task:last, task].min() for task in range(last)])
        best = float((final - earlier).mean())
    return TaskSummary(rows, averages[-1], sum(averages) / rows, rise, best, -rise)


__all__ = ["TaskSummary", "task_summary"]
