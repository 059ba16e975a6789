"""What is known of a whole task sequence, and in which words and cells it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hopfield_replay.analysis.run_losses import Loss, levels
from hopfield_replay.analysis.run_outcomes import Outcome
from hopfield_replay.analysis.run_samples import Lost
from hopfield_replay.tracker import BoundaryRecord
from hopfield_replay.tracker.worst import LEVELS, MEASURES
from hopfield_replay.utilities.text import printable

_FEW = 30  # followed samples, below which a mean says little


@dataclass(frozen=True, eq=False, repr=False)
class RunFindings:
    """The numbers of a :class:`~hopfield_replay.analysis.RunReport`, where they are documented."""

    title: str
    history: tuple[BoundaryRecord, ...]
    measure: str
    tasks: tuple[Loss, ...]
    classes: tuple[Loss, ...]
    lost: tuple[Lost, ...]
    kept: tuple[tuple[str, ...], ...]
    kept_pictures: Mapping[int, Tensor]
    outcomes: tuple[Outcome, ...]
    settings: Mapping[str, Any]
    names: Mapping[int, str]
    warnings: tuple[str, ...]

    def called(self, task: int) -> str:
        """A task's number, and its name if it has one."""
        return f"{task} ({printable(self.names[task])})" if task in self.names else str(task)

    def lead(self) -> str:
        """What was forgotten most, in a sentence."""
        if not self.history:
            return "No task has ended yet."
        if not self.tasks:
            return f"Task {self.called(self.history[-1].task)} was learned; nothing of it can be forgotten yet."
        worst, level = self.tasks[0], LEVELS[self.measure]
        share = "" if worst.relative is None else f" ({worst.relative:+.0%})"
        change = f"from {worst.before:.3g} to {worst.now:.3g}{share}"
        if worst.rise <= 0:
            return (
                f"Nothing was forgotten: even of task {self.called(worst.task)}, the worst, the {level} went {change}."
            )
        return (
            f"Task {self.called(worst.task)} was forgotten most: since it was learned, its {level} rose {change}, for "
            f"{worst.worse:.0%} of its {worst.samples} followed samples."
        )

    def task_rows(self) -> list[list[str]]:
        """Cells of what was lost of each earlier task: task, rise, change, before, now, 95th percentile, worse."""
        return [[self.called(loss.task), *_cells(loss)] for loss in self.tasks]

    def class_rows(self) -> list[list[str]]:
        """The same of each class: class, its task, and so on."""
        return [[str(loss.label), self.called(loss.task), *_cells(loss)] for loss in self.classes]

    @property
    def headers(self) -> tuple[str, ...]:
        """Of the cells that tasks and classes share."""
        return ("rise", "change", f"{LEVELS[self.measure]} when learned", "now", "95th percentile", "got worse")


def _cells(loss: Loss) -> list[str]:
    change = "" if loss.relative is None else f"{loss.relative:+.0%}"
    return [
        f"{loss.rise:+.3g}",
        change,
        f"{loss.before:.3g}",
        f"{loss.now:.3g}",
        f"{loss.p95:+.3g}",
        f"{loss.worse:.0%}",
    ]


def warnings_of(history: Sequence[BoundaryRecord], measure: str) -> list[str]:
    """What of a run's own numbers is to be kept in mind."""
    if not history:
        return []
    last, found = history[-1], []
    if measure == "intrinsic":
        found.append("No errors of the model could be measured: what was forgotten is told by the energies alone.")
    if measure == "loss_forgetting":
        found.append("Only the model's own loss could be measured, which is noisier than a reconstruction error.")
    unmeasured = sorted({probe.task for probe in last.probes if levels(probe, measure) is None})
    if unmeasured:
        found.append(
            f"Of the tasks {unmeasured} there is no {MEASURES[measure]}: they were learned before it was measured."
        )
    followed = {probe.task for probe in last.probes}
    if gone := [task for task in range(last.task) if task not in followed]:
        found.append(f"The tasks {gone} are followed no more; what became of them is not known.")
    if history[0].task > 0:
        found.append(f"The history begins after task {history[0].task}; earlier records were not kept.")
    if last.n_eff < 2.0:
        found.append(
            f"At beta {last.beta:.3g} a sample shares its energy with {last.n_eff:.2g} others only (n_eff): energies "
            "tell little more than whether a sample is stored."
        )
    if few := [probe.task for probe in last.probes if len(probe.ids) < _FEW]:
        found.append(f"Fewer than {_FEW} samples are followed of the tasks {few}: their means are uncertain.")
    return found
