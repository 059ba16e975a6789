"""What a run lost: of each earlier task and class, the most forgotten first."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from hopfield_replay.tracker import BoundaryRecord, ForgettingTracker, ProbeRecord


@dataclass(frozen=True)
class Loss:
    """How much was forgotten of some samples since they were learned.

    Attributes:
        task: their task.
        label: their class; None: all of the task.
        samples: how many.
        before: mean error (or loss, or energy) when the task was learned.
        now: the same now.
        rise: now - before.
        p95: 95th percentile of the samples' rises.
        worse: share of them that rose.
    """

    task: int
    label: int | None
    samples: int
    before: float
    now: float
    rise: float
    p95: float
    worse: float

    @property
    def relative(self) -> float | None:
        """Rise as a share of what it was; None where that is not positive, as energies may be."""
        return self.rise / self.before if self.before > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain Python."""
        return asdict(self)


def levels(probe: ProbeRecord, measure: str) -> tuple[Tensor, Tensor] | None:
    """What ``measure`` is the rise of, (n,) when the task was learned and (n,) now; None where it is not known."""
    pairs = {
        "reconstruction": (probe.error_start, probe.error),
        "loss_forgetting": (probe.loss_start, probe.loss),
        "intrinsic": (probe.energy_start, probe.energy),
    }
    before, now = pairs[measure]
    if before is None or now is None:
        return None
    return (before.mean(1), now.mean(1)) if before.ndim == 2 else (before, now)


def losses(record: BoundaryRecord, measure: str) -> list[Loss]:
    """Of each earlier task, the most forgotten first."""
    found = []
    for probe in record.probes:
        if probe.task < record.task and (pair := levels(probe, measure)) is not None:
            found.append(_loss(probe.task, None, *pair))
    return sorted(found, key=lambda loss: -loss.rise)


def losses_by_class(record: BoundaryRecord, measure: str, labels: Mapping[int, Tensor]) -> list[Loss]:
    """Of each class of each earlier task, the most forgotten first; ``labels`` are those of the tasks that have any."""
    found = []
    for probe in record.probes:
        mine = labels.get(probe.task)
        if probe.task >= record.task or mine is None or (pair := levels(probe, measure)) is None:
            continue
        for label in mine.unique().tolist():
            rows = mine == label
            found.append(_loss(probe.task, label, pair[0][rows], pair[1][rows]))
    return sorted(found, key=lambda loss: -loss.rise)


def _loss(task: int, label: int | None, before: Tensor, now: Tensor) -> Loss:
    rises = now - before
    return Loss(
        task=task,
        label=label,
        samples=len(rises),
        before=float(before.mean()),
        now=float(now.mean()),
        rise=float(rises.mean()),
        p95=float(rises.quantile(0.95)),
        worse=float((rises > 0).double().mean()),
    )


def labels_of(tracker: ForgettingTracker, record: BoundaryRecord) -> dict[int, Tensor]:
    """The labels (n,) of the followed samples of each task, where their batches are held and have some."""
    found = {}
    for probe in record.probes:
        try:
            batch = tracker.probe(probe.task).batch
            labels = None if batch is None else tracker.columns.labels_of(batch, len(probe.ids))
        except ValueError:  # they are followed no more, or lie where nobody said
            continue
        if labels is not None and len(labels) == len(probe.ids):
            found[probe.task] = labels
    return found
