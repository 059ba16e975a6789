"""An audit's figures."""

from textwrap import wrap
from typing import TYPE_CHECKING

from hopfield_replay.analysis.audit_findings import AuditFindings, Examples
from hopfield_replay.figures import error_change, picture_rows, rises_by_group
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_CAPTION = 12  # characters of a line that fits under a picture


def draw(report: AuditFindings) -> "dict[str, Figure]":
    """The figures of a report by name."""
    figures = {"audit": error_change(report.errors_old.mean(1), report.errors_new.mean(1))}
    if report.examples is not None:
        for end in ("most", "least"):
            if (drawn := _examples(report, report.examples, end)) is not None:
                figures[f"audit_{end}_forgotten"] = drawn
    for kind, name, labels in (("class", "audit_classes", report.labels), ("task", "audit_tasks", report.task_of)):
        if labels:
            figures[name] = rises_by_group(report.rises, labels, kind)
    return figures


def _examples(report: AuditFindings, examples: Examples, end: str) -> "Figure | None":
    split = len(examples.worst)
    rows, positions = (slice(split), examples.worst) if end == "most" else (slice(split, None), examples.best)
    return picture_rows(
        [
            (f"{end} forgotten", examples.clean[rows]),
            (f"as the first version reconstructs them from timestep {examples.timestep:g}", examples.before[rows]),
            ("as the second version does, from the same noise", examples.after[rows]),
        ],
        captions=[_caption(report, position) for position in positions],
    )


def _caption(report: AuditFindings, position: int) -> str:
    """The class of a sample, if it has one, above the rise of its error."""
    rise = f"{float(report.rises[position]):+.2g}"
    label = wrap(printable(report.labels[position]), _CAPTION)[:3] if report.labels else []
    return "\n".join([*label, rise])
