"""RunReport: a whole task sequence at a glance, the worst first."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from hopfield_replay.analysis.forecasting import Forecast
from hopfield_replay.analysis.run_findings import RunFindings, warnings_of
from hopfield_replay.analysis.run_losses import labels_of, losses, losses_by_class
from hopfield_replay.analysis.run_outcomes import outcomes
from hopfield_replay.analysis.run_page import as_page
from hopfield_replay.analysis.run_samples import kept_pictures, most_lost
from hopfield_replay.buffer.views import by_task
from hopfield_replay.tracker import ForgettingTracker
from hopfield_replay.tracker.table import history_rows
from hopfield_replay.tracker.worst import MEASURES, curves, measure_of
from hopfield_replay.utilities.drawing import draw_lines, legend_above
from hopfield_replay.utilities.files import write_text
from hopfield_replay.utilities.showing import Shown, ShownText, cell, jsonable
from hopfield_replay.utilities.tables import text_table
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Tracks(Protocol):
    """Whatever has a ForgettingTracker, such as a ForgettingMonitor."""

    @property
    def tracker(self) -> ForgettingTracker:
        """The tracker."""


class RunReport(RunFindings, Shown):
    """A whole task sequence at a glance; made by :func:`run_report`.

    Attributes:
        title: of the page.
        history: the run's records.
        measure: what "forgotten" means here: "reconstruction", "loss_forgetting" or "intrinsic", as is known.
        tasks: what was lost of each earlier task, the worst first.
        classes: the same of each class of each earlier task, where there are labels.
        lost: the most forgotten samples, the worst first.
        kept: what the buffer keeps, a row of text for each task.
        kept_pictures: of each task's kept samples, (k, h, w, 3) uint8, where they are pictures.
        outcomes: what came of the forecasts.
        settings: of the run.
        names: of the tasks, where they have any.
        warnings: what to keep in mind.
    """

    def _line(self) -> str:
        return f"RunReport({len(self.history)} tasks: {self.lead()})"

    def rows(self) -> list[dict[str, Any]]:
        """What was lost of each earlier task and of each of its classes, the worst first."""
        return [loss.to_dict() for loss in (*self.tasks, *self.classes)]

    def _tables(self) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = [(("task", *self.headers), self.task_rows())]
        return [*tables, (("class", "task", *self.headers), self.class_rows())] if self.classes else tables

    def table(self) -> ShownText:
        """The report as text."""
        lines = [self.lead()]
        for headers, rows in self._tables():
            if rows:
                short = [header.replace(" when ", "\nwhen ").replace("95th ", "95th\n") for header in headers]
                lines.append(text_table(short, rows, left=1))
        for outcome in self.outcomes:
            rank = outcome.rank
            lines.append(
                f"forecast of task {outcome.task}: Spearman {rank.estimate:+.2f} [{rank.low:+.2f}, {rank.high:+.2f}]"
            )
        lines += [f"warning: {printable(warning, None)}" for warning in self.warnings]
        return ShownText("\n".join(lines), self._repr_html_())

    def to_dict(self) -> dict[str, Any]:
        """The report in plain Python, ready for JSON; no pictures."""
        samples = [
            {name: value for name, value in vars(lost).items() if name != "pictures"} for lost in self.lost
        ]  # fmt: skip
        result: dict[str, Any] = jsonable(
            {
                "title": self.title,
                "worst": self.lead(),
                "measure": MEASURES[self.measure],
                "tasks": [loss.to_dict() for loss in self.tasks],
                "classes": [loss.to_dict() for loss in self.classes],
                "most_forgotten": samples,
                "kept": self.kept,
                "forecasts": [outcome.to_dict() for outcome in self.outcomes],
                "settings": self.settings,
                "warnings": self.warnings,
                "history": history_rows(list(self.history)),
            }
        )
        return result

    def _draw(self, axis: "Axes") -> None:
        lines = curves(self.history)
        draw_lines(axis, lines)
        axis.set(xlabel="after task", ylabel=MEASURES[self.measure])
        axis.set_xticks([record.task for record in self.history])
        if lines:
            legend_above(axis, columns=min(6, len(lines)))

    def html(self) -> str:
        """The report as one self-contained HTML page: pictures inside, nothing from elsewhere, no scripts."""
        return as_page(self)

    def write(self, folder: str | Path) -> Path:
        """Write ``report.html`` and ``report.json`` into a folder, which is made if it is not there.

        Returns:
            The path of the page.

        Raises:
            OSError: a full disk, a read-only folder.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_text(place / "report.json", json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        write_text(place / "report.html", self.html())
        return place / "report.html"


def run_report(
    run: ForgettingTracker | Tracks,
    *,
    title: str = "What was forgotten",
    names: Mapping[int, str] | None = None,
    forecasts: Mapping[int, Forecast | Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> RunReport:
    """Report on a whole task sequence: what was forgotten of each task and class, what is kept, what was foreseen.

    Args:
        run: a ForgettingTracker, or what has one, such as a ForgettingMonitor.
        title: of the page.
        names: of the tasks, by their numbers.
        forecasts: for a task what was predicted of its samples under the next task's data: a :class:`Forecast` of its
            training samples, or rises (n,) of its followed samples in their order.
        settings: what else to say of the run, by name.
        warnings: what else to keep in mind.

    Returns:
        The report; ``.write(folder)`` writes its page.

    Raises:
        TypeError: something else than a run.

    Example:
        >>> import torch
        >>> from hopfield_replay import TaskSource
        >>> tracker = ForgettingTracker()
        >>> for centre in (0.0, 9.0):
        ...     record = tracker.end_task(TaskSource([centre + torch.arange(16.0).view(8, 2)]))
        >>> report = run_report(tracker, names={0: "cats"})
        >>> report.lead()[:32], report.html().count("<script")
        ('Task 0 (cats) was forgotten most', 0)
    """
    tracker = run if isinstance(run, ForgettingTracker) else getattr(run, "tracker", None)
    if not isinstance(tracker, ForgettingTracker):
        raise TypeError(f"run must be a ForgettingTracker, or have one, got {type(run).__name__}.")
    kept = {} if tracker.buffer is None else tracker.buffer.to_dict()
    own = {name: value for name, value in kept.items() if name != "samples"} | tracker.to_dict()["settings"]
    rises = {task: made.rises if isinstance(made, Forecast) else made for task, made in (forecasts or {}).items()}
    return report_of(tracker, title, names or {}, rises, own | dict(settings or {}), warnings)


def report_of(
    tracker: ForgettingTracker,
    title: str,
    names: Mapping[int, str],
    forecasts: Mapping[int, Tensor],
    settings: Mapping[str, Any],
    warnings: Sequence[str],
) -> RunReport:
    """The report on what a tracker holds, all settings given."""
    history = tuple(tracker.history)
    measure = measure_of(history[-1]) if history else "intrinsic"
    labels = labels_of(tracker, history[-1]) if history else {}
    came, missing = outcomes(history, forecasts, measure)
    kept = [] if tracker.buffer is None else by_task(tracker.buffer.rows())
    return RunReport(
        title=title,
        history=history,
        measure=measure,
        tasks=tuple(losses(history[-1], measure)) if history else (),
        classes=tuple(losses_by_class(history[-1], measure, labels)) if history else (),
        lost=tuple(most_lost(tracker, history[-1], measure, labels)) if history else (),
        kept=tuple(kept),
        kept_pictures=kept_pictures(tracker),
        outcomes=tuple(came),
        settings={str(name): cell(value) for name, value in settings.items() if value is not None},
        names=dict(names),
        warnings=(*warnings_of(history, measure), *missing, *warnings),
    )


__all__ = ["RunReport", "report_of", "run_report"]
