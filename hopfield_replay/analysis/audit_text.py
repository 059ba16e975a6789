"""An audit's report as text for a terminal, and the cells that its page shares."""

import math
from collections.abc import Mapping

from hopfield_replay.analysis.audit_findings import AuditFindings
from hopfield_replay.analysis.drift import Label
from hopfield_replay.utilities.tables import text_table
from hopfield_replay.utilities.text import printable

HEADERS = ("samples", "before", "after", "rise", "95 % interval", "relative", "worse")
_SHOWN = 8
_SURE = 3.0  # standard errors: of a thousand samples that did not change one or two are beyond


def as_text(report: AuditFindings) -> str:
    """The report as text."""
    lines = [] if (worst := worst_line(report)) is None else [worst]
    lines += [f"{report.overall.samples} samples: {error_line(report)}", rise_line(report)]
    lines += [line for line in (energy_line(report), noise_line(report)) if line is not None]
    lines += [f"{kind}: {', '.join(listed)}" for kind, listed in ends(report).items() if listed]
    rows = [[f"{step:g}", *cells] for step, cells in zip(report.timesteps, by_timestep(report), strict=True)]
    lines += ["", text_table(("timestep", "before", "after"), rows)]
    for kind, groups in (("class", report.classes), ("task", report.tasks)):
        if groups:
            lines += ["", text_table((kind, *HEADERS), group_rows(groups))]
    if report.correlations:
        lines += ["", f"Spearman's rank correlation of the rise with (beta {report.beta:.4g})"]
        lines.append(text_table(("", "estimate", "95 % interval"), correlation_rows(report)))
    lines += [f"warning: {printable(warning, None)}" for warning in report.warnings]
    return "\n".join(lines)


def worst_group(report: AuditFindings) -> tuple[str, str, Mapping[str, float]] | None:
    """The class or task whose error rose most: what it is, its name, and its numbers; None without groups."""
    groups = [
        (kind, printable(name), row)
        for kind, named in (("class", report.classes), ("task", report.tasks))
        for name, row in list(named.items())[:1]  # the most forgotten first
    ]
    return max(groups, key=lambda group: group[2]["mean_rise"], default=None)


def worst_line(report: AuditFindings) -> str | None:
    """What was forgotten of the worst group, which the mean over all samples may hide."""
    worst = worst_group(report)
    if worst is None:
        return None
    kind, name, row = worst
    relative = interval(row["relative_low"], row["relative_high"], "+.1%")
    change = f"{row['relative']:+.1%} {relative}"
    said = f"reconstruction error {row['error_old']:.4g} -> {row['error_new']:.4g}, {change}"
    return f"worst {kind}: {name}, {said}, {row['worse']:.0%} of its {row['samples']:.0f} samples got worse"


def error_line(report: AuditFindings) -> str:
    """The mean errors before and after."""
    return f"reconstruction error {report.overall.error_old:.4g} -> {report.overall.error_new:.4g}"


def rise_line(report: AuditFindings) -> str:
    """The mean rise, absolute and relative."""
    overall = report.overall
    relative = interval(overall.relative_low, overall.relative_high, "+.1%")
    return (
        f"rise {overall.mean_rise:+.4g} {interval(overall.low, overall.high)}, relative {overall.relative:+.1%} "
        f"{relative} (95 % over samples), {overall.worse:.0%} got worse"
    )


def energy_line(report: AuditFindings) -> str | None:
    """The mean change of the model energy."""
    if report.model_energy_old is None or report.model_energy_new is None:
        return None
    change = float((report.model_energy_new - report.model_energy_old).mean())
    return f"model energy {change:+.4g} nats a sample (ELBO form, over the timesteps below)"


def noise_line(report: AuditFindings) -> str | None:
    """How many samples rose or fell by more than their own noise over draws explains; None for one draw."""
    if report.standardized is None:
        return None
    rose, fell = (int((sign * report.standardized > _SURE).sum()) for sign in (1, -1))
    return f"{rose} samples rose, and {fell} fell, by more than {_SURE:g} times their own noise over draws"


def ends(report: AuditFindings) -> dict[str, list[str]]:
    """Names of the most and of the least forgotten samples."""
    count = min(_SHOWN, max(1, len(report.worst) // 2))
    most, least = report.worst[:count].tolist(), report.worst.flip(0)[: min(count, len(report.worst) - count)].tolist()
    names = [[printable(report.name(position)) for position in end] for end in (most, least)]
    return dict(zip(("most forgotten", "least forgotten"), names, strict=True))


def by_timestep(report: AuditFindings) -> list[list[str]]:
    """Cells of the mean errors at each timestep."""
    pairs = zip(report.errors_old.mean(0).tolist(), report.errors_new.mean(0).tolist(), strict=True)
    return [[f"{old:.4g}", f"{new:.4g}"] for old, new in pairs]


def group_rows(groups: Mapping[Label, Mapping[str, float]]) -> list[list[str]]:
    """Cells of a table by class or task."""
    return [
        [
            printable(label),
            f"{row['samples']:.0f}",
            f"{row['error_old']:.4g}",
            f"{row['error_new']:.4g}",
            f"{row['mean_rise']:+.4g}",
            interval(row["low"], row["high"]),
            f"{row['relative']:+.1%}",
            f"{row['worse']:.0%}",
        ]
        for label, row in groups.items()
    ]


def correlation_rows(report: AuditFindings) -> list[list[str]]:
    """Cells of the table of correlations."""
    return [
        [name, "undefined" if math.isnan(rank.estimate) else f"{rank.estimate:+.2f}",
         interval(rank.low, rank.high, "+.2f")]
        for name, rank in report.correlations.items()
    ]  # fmt: skip


def interval(low: float, high: float, form: str = "+.4g") -> str:
    """An interval, if there is one."""
    return "[undefined]" if math.isnan(low) else f"[{low:{form}}, {high:{form}}]"


__all__ = ["HEADERS", "as_text", "by_timestep", "correlation_rows", "ends", "energy_line", "error_line", "group_rows",
           "noise_line", "rise_line", "worst_group", "worst_line"]  # fmt: skip
