"""An audit's report as one self-contained page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hopfield_replay.__about__ import __version__
from hopfield_replay.analysis.audit_findings import AuditFindings
from hopfield_replay.analysis.audit_text import (
    HEADERS,
    by_timestep,
    correlation_rows,
    ends,
    energy_line,
    error_line,
    group_rows,
    noise_line,
    rise_line,
    worst_line,
)
from hopfield_replay.utilities.html import heading, html_page, paragraph, picture, sentence, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_READING = """\
Each sample is noised at each timestep, and both versions denoise the very same noisy samples: the difference of their
errors is the models' alone. The rise is the mean over the timesteps; relative rises are divided by the mean error
before. Intervals are 95 % intervals over the samples: other samples of the same kind would move the numbers
so far, another training run can move them further."""


def as_html(report: AuditFindings, title: str, notes: Mapping[str, str], figures: "Mapping[str, Figure]") -> str:
    """The page; ``notes`` say of the run what the report does not know."""
    whole = f"{report.overall.samples} samples: {error_line(report)}; {rise_line(report)}."
    worst = worst_line(report)
    parts = [paragraph(whole, "lead")] if worst is None else [paragraph(f"{sentence(worst)}.", "lead")]
    parts += [] if worst is None else [paragraph(f"All {whole}")]
    parts += [paragraph(f"{sentence(line)}.") for line in (energy_line(report), noise_line(report)) if line is not None]
    parts += [paragraph(f"{name.capitalize()}: {value}") for name, value in notes.items()]
    groups = _groups(report, figures)
    distribution = picture(figures["audit"], "Distribution of the rises, and errors after against errors before")
    parts += [*groups, *([heading("All samples")] if groups else []), distribution]
    parts.append(heading("Most and least forgotten"))
    for kind, listed in ends(report).items():
        if (drawn := figures.get(f"audit_{kind.replace(' ', '_')}")) is not None:
            parts.append(picture(drawn, f"The {kind} samples above their reconstructions before and after"))
        if listed:
            parts.append(paragraph(f"{kind.capitalize()}: {', '.join(listed)}."))
    rows = [[f"{step:g}", *cells] for step, cells in zip(report.timesteps, by_timestep(report), strict=True)]
    parts += [heading("By timestep"), table(("timestep", "error before", "error after"), rows)]
    if report.correlations:
        parts += [
            heading("What the Hopfield energies say"),
            paragraph(f"Spearman's rank correlation of the rise of a sample's error with (beta {report.beta:.4g}):"),
            table(("", "estimate", "95 % interval"), correlation_rows(report)),
        ]
    if report.warnings:
        parts += [heading("To keep in mind"), *map(paragraph, report.warnings)]
    parts += [heading("How to read this"), paragraph(_READING), paragraph(f"hopfield-replay {__version__}", "note")]
    return html_page(title, parts)


def _groups(report: AuditFindings, figures: "Mapping[str, Figure]") -> list[str]:
    """What each class and each task lost, the most forgotten first."""
    parts = []
    for kind, name, groups in (("task", "audit_tasks", report.tasks), ("class", "audit_classes", report.classes)):
        if groups:
            rows = table((kind, *HEADERS), group_rows(groups))
            parts += [heading(f"By {kind}"), rows, picture(figures[name], f"Distribution of the rises of each {kind}")]
    return parts


__all__ = ["as_html"]
