"""AuditSeries: what each of several versions of a model lost against the first, and which of them to keep."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hopfield_replay.__about__ import __version__
from hopfield_replay.analysis.audit_report import AuditReport
from hopfield_replay.analysis.drawings import DrawingReport
from hopfield_replay.analysis.gate import Gate
from hopfield_replay.figures.series import draw_rises, rises_over_versions
from hopfield_replay.utilities.html import heading, html_page, paragraph, picture, sentence, table
from hopfield_replay.utilities.showing import Shown, ShownText, jsonable
from hopfield_replay.utilities.tables import text_table
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEADERS = ("version", "relative rise", "surest rise", "outcome")
_READING = """\
Every version is compared with the same first one, on the same samples with the same noise. The false-alarm rate holds
for each version: over many of them one can fail by chance more often than that."""


@dataclass(frozen=True, eq=False, repr=False)
class AuditSeries(Shown):
    """Audits of several versions against one, in the order of training.

    Attributes:
        reports: of each version, by its name; at least one.
        gates: whether it passed, by its name; empty: nothing was tested.

    Example:
        >>> import torch
        >>> from hopfield_replay.analysis import audit
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> def model(level):
        ...     return CallableDenoiser(
        ...         lambda x, t: torch.full_like(x, level), torch.linspace(0.99, 0.01, 10), prediction_type="sample"
        ...     )
        >>> samples = 1 + 0.1 * torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> reports = {f"step {n}": audit(model(0.5), model(0.5 - 0.1 * n), samples) for n in (0, 1, 2)}
        >>> series = AuditSeries(reports, {name: report.gate(0.5) for name, report in reports.items()})
        >>> series.last_passing, series.table().splitlines()[-1]
        ('step 1', 'the last version that passes is step 1')
    """

    reports: Mapping[str, AuditReport | DrawingReport]
    gates: Mapping[str, Gate]

    @property
    def last_passing(self) -> str | None:
        """Name of the last version that passes; None: none does, or none was tested."""
        return next((name for name in reversed(list(self.gates)) if self.gates[name].passed), None)

    @property
    def curves(self) -> dict[str, list[float]]:
        """Relative rise of every group under each version, all samples first; nan where a version has no such group."""
        rises = [_rises(report) for report in self.reports.values()]
        names = dict.fromkeys(name for one in rises for name in one)
        return {name: [one.get(name, math.nan) for one in rises] for name in names}

    def table(self) -> str:
        """A line for each version, and the last that passes."""
        advice = f"\n{self._advice()}" if self.gates else ""
        return ShownText(f"{text_table(_HEADERS, self._cells())}{advice}")

    def _advice(self) -> str:
        last = self.last_passing
        return "no version passes" if last is None else f"the last version that passes is {printable(last)}"

    def _cells(self) -> list[list[str]]:
        cells = []
        for row in self.rows():
            gate = self.gates.get(row["version"])
            worst = "" if gate is None else f"{printable(gate.groups[0].name)} {gate.groups[0].relative:+.1%}"
            outcome = "" if gate is None else "passed" if gate.passed else "FAILED"
            cells.append([printable(row["version"]), f"{row['relative']:+.1%}", worst, outcome])
        return cells

    def _line(self) -> str:
        return f"AuditSeries({len(self.reports)} versions{f', {self._advice()}' if self.gates else ''})"

    def rows(self) -> list[dict[str, Any]]:
        """For each version its relative rise over everything, and whether it passed."""
        whole = next(iter(self.curves.values()))
        return [
            {"version": name, "relative": rise, "passed": self.gates[name].passed if name in self.gates else None}
            for name, rise in zip(self.reports, whole, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The series in plain Python, ready for JSON."""
        result: dict[str, Any] = jsonable(
            {"versions": self.rows(), "last_passing": self.last_passing, "relative_rises": self.curves}
        )
        return result

    def _marks(self) -> tuple[float | None, int | None]:
        """The threshold, and the position of the last version that passes."""
        last = self.last_passing
        allowed = next((gate.threshold for gate in self.gates.values()), None)
        return allowed, None if last is None else list(self.reports).index(last)

    def _draw(self, axis: "Axes") -> None:
        draw_rises(axis, list(self.reports), self.curves, *self._marks())
        axis.legend(frameon=False, fontsize="small")

    def figures(self) -> "dict[str, Figure]":
        """The curve of each group over the versions.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return {"series": rises_over_versions(list(self.reports), self.curves, *self._marks())}

    def html(self, notes: "Mapping[str, str] | None" = None, figures: "Mapping[str, Figure] | None" = None) -> str:
        """The series as one self-contained page.

        Args:
            notes: what to say of the run, by name.
            figures: those of :meth:`figures`, if they are drawn already.

        Raises:
            ImportError: matplotlib is not installed.
        """
        drawn = (self.figures() if figures is None else figures)["series"]
        lead = f"{sentence(self._advice())}." if self.gates else f"{len(self.reports)} versions against the first."
        parts = [
            paragraph(lead, "lead"),
            picture(drawn, "Relative rise of the error of each group under each version"),
            table(_HEADERS, self._cells()),
            *(paragraph(f"{name.capitalize()}: {value}") for name, value in (notes or {}).items()),
            heading("Every group"),
            table(("group", *self.reports), [[name, *map(_percent, rises)] for name, rises in self.curves.items()]),
            heading("How to read this"),
            paragraph(_READING),
            paragraph(f"hopfield-replay {__version__}", "note"),
        ]
        return html_page("Audit of a series of versions", parts)


def _rises(report: AuditReport | DrawingReport) -> dict[str, float]:
    """Relative rise by group, all of them first."""
    if isinstance(report, DrawingReport):
        by_prompt = {f"prompt {row['prompt']}": row["relative"] for row in report.rows()}
        return {"all prompts": float(report.relative.mean()), **by_prompt}
    named = (("task", report.tasks), ("class", report.classes))
    groups = {f"{kind} {name}": row["relative"] for kind, found in named for name, row in found.items()}
    return {"all samples": report.overall.relative, **groups}


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.1%}"


__all__ = ["AuditSeries"]
