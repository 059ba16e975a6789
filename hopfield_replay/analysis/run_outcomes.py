"""What came of the forecasts of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.analysis.run_losses import levels
from hopfield_replay.functional import Correlation, spearman_interval
from hopfield_replay.tracker import BoundaryRecord

HELD_OUT = 1 << 39  # in the id of a sample
POSITION = HELD_OUT - 1


@dataclass(frozen=True)
class Outcome:
    """How a forecast of one task's samples came out at the boundary after it.

    Attributes:
        task: the task.
        rank: Spearman's correlation of the predicted rises with what was forgotten, with its interval.
        at_risk: mean forgetting of the tenth that was predicted to be most at risk.
        others: that of the others.
    """

    task: int
    rank: Correlation
    at_risk: float
    others: float

    def to_dict(self) -> dict[str, Any]:
        """Plain Python."""
        return asdict(self)


def outcomes(
    history: Sequence[BoundaryRecord], forecasts: Mapping[int, Tensor], measure: str
) -> tuple[list[Outcome], list[str]]:
    """What came of each forecast, and why of some nothing can be said.

    Args:
        history: of the run.
        forecasts: for a task the predicted rises of its samples under the next task's data: of its followed samples
            in their order, or of all its training samples.
        measure: what was forgotten.
    """
    found, missing = [], []
    records = {record.task: record for record in history}
    for task, predicted in sorted(forecasts.items()):
        record = records.get(task + 1)
        probe = None if record is None else next((probe for probe in record.probes if probe.task == task), None)
        pair = None if probe is None else levels(probe, measure)
        if probe is None or pair is None:
            missing.append(f"Nothing was measured of task {task} after task {task + 1}: its forecast has no outcome.")
            continue
        mine = predicted.double().cpu()
        if len(mine) != len(probe.ids):
            positions = probe.ids & POSITION
            if bool((probe.ids & HELD_OUT).any()) or int(positions.max()) >= len(mine):
                missing.append(
                    f"The forecast of task {task} is of {len(mine)} samples, and not of the {len(probe.ids)} that were "
                    "followed: it has no outcome here."
                )
                continue
            mine = mine[positions]
        rises = pair[1] - pair[0]
        if len(rises) < 5 or not bool(mine.isfinite().all()):
            missing.append(f"The forecast of task {task} has too few finite values to compare.")
            continue
        risk = torch.zeros(len(mine), dtype=torch.bool)
        risk[mine.argsort(descending=True, stable=True)[: max(1, len(mine) // 10)]] = True
        rank = spearman_interval(mine, rises)
        found.append(Outcome(task, rank, float(rises[risk].mean()), float(rises[~risk].mean())))
    return found, missing
