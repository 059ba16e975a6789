"""A run's report as one self-contained page: the worst at the top, details below."""

from hopfield_replay.__about__ import __version__
from hopfield_replay.analysis.run_findings import RunFindings
from hopfield_replay.buffer.views import COLUMNS
from hopfield_replay.tracker.summary import overall, summarize
from hopfield_replay.tracker.worst import LEVELS, MEASURES
from hopfield_replay.utilities.html import cards, folded, heading, heat, html_page, paragraph, ranked, sentence, table

_CLASSES = 20  # that are listed
_MEANING = {
    "reconstruction": "The reconstruction error is the mean squared error, per element, with which the model restores "
    "a sample from noise; the noise is the same before and after, so that the difference is the model's alone.",
    "loss_forgetting": "The loss is the module's own, with the same random draws before and after.",
    "intrinsic": "The energy of a sample (squared units of the vectors) is low where the training data is dense; it "
    "rises when the data moves away.",
}


def as_page(report: RunFindings) -> str:
    """The page."""
    parts = [paragraph(report.lead(), "lead"), *_classes_lead(report)]
    parts += [paragraph(warning, "warning") for warning in report.warnings]
    parts += [*_tasks(report), *_samples(report), *_buffer(report), *_forecasts(report), *_energies(report)]
    parts += [heading("Settings"), folded(f"{len(report.settings)} settings", [_settings(report)])]
    parts += [
        heading("How to read this"),
        paragraph(
            f"Forgotten means {MEASURES[report.measure]}: the rise, since its task was learned, of a followed sample's "
            f"{LEVELS[report.measure]}. {_MEANING[report.measure]} Tasks count from 0. One run says nothing of the "
            "spread between runs; use several seeds to compare settings."
        ),
        paragraph(f"hopfield-replay {__version__}", "note"),
    ]
    return html_page(report.title, parts)


def _classes_lead(report: RunFindings) -> list[str]:
    if not report.classes or report.classes[0].rise <= 0:
        return []
    worst = report.classes[0]
    share = "" if worst.relative is None else f" ({worst.relative:+.0%})"
    return [
        paragraph(
            f"Worst class: {worst.label} of task {report.called(worst.task)}, {LEVELS[report.measure]} "
            f"{worst.before:.3g} to {worst.now:.3g}{share}."
        )
    ]


def _tasks(report: RunFindings) -> list[str]:
    if not report.tasks:
        return []
    name, *others = ("task", *report.headers)
    parts = [heading("By task, the worst first")]
    parts.append(ranked((name, "", *others), report.task_rows(), [loss.rise for loss in report.tasks]))
    numbers = overall(report.history[-1])
    followed = sum(loss.samples for loss in report.tasks)
    parts.append(
        paragraph(
            f"Mean over all {followed} followed samples of earlier tasks: {numbers[report.measure]:+.3g}.", "note"
        )
    )
    if report.classes:
        shown = report.class_rows()[:_CLASSES]
        name, *others = ("class", "task", *report.headers)
        parts += [
            heading("By class, the worst first"),
            ranked((name, "", *others), shown, [loss.rise for loss in report.classes[: len(shown)]]),
        ]
        if len(shown) < len(report.classes):
            parts.append(paragraph(f"{len(shown)} of {len(report.classes)} classes; report.json has all.", "note"))
    if len(report.history) > 2:
        parts += [heading("Task after task"), _over_tasks(report)]
    return parts


def _over_tasks(report: RunFindings) -> str:
    tasks = sorted({probe.task for record in report.history for probe in record.probes})[:-1]
    rows = []
    for record in report.history[1:] if report.history[0].task == 0 else report.history:
        known = {row["task"]: row[report.measure] for row in summarize(record) if row["task"] < record.task}
        rows.append((report.called(record.task), [known.get(task) for task in tasks]))
    return heat(("after task", *(f"of {report.called(task)}" for task in tasks)), rows)


def _samples(report: RunFindings) -> list[str]:
    if not report.lost or report.lost[0].now <= report.lost[0].before:
        return []
    level = LEVELS[report.measure]
    parts = [heading("The most forgotten samples")]
    shown = [lost for lost in report.lost if lost.pictures]
    if shown:
        most = max(len(lost.pictures) for lost in shown)
        said = {
            1: f"Each sample, and its {level} when it was learned and now.",
            2: "Each sample, and what the model makes of it now, from noise.",
            3: "Each sample, what the model made of it when it had learned it, and what it makes of it now, from the "
            "same noise.",
        }[most]
        parts.append(paragraph(said, "note"))
        parts.append(cards([(lost.pictures, lost.caption(level)) for lost in shown]))
    else:
        rows = [lost.caption(level).split("\n") for lost in report.lost]
        parts.append(table(("of", "sample", f"{level} when learned, and now"), rows))
    return parts


def _buffer(report: RunFindings) -> list[str]:
    if not report.kept:
        return []
    parts = [heading("What the buffer keeps"), table(COLUMNS, report.kept)]
    for task, drawn in report.kept_pictures.items():
        parts.append(paragraph(f"Task {report.called(task)}, the best {len(drawn)}:", "note"))
        parts.append(cards([([one], f"kept of task {task}") for one in drawn], small=True))
    return parts


def _forecasts(report: RunFindings) -> list[str]:
    if not report.outcomes:
        return []
    rows = [
        [
            report.called(outcome.task),
            str(outcome.rank.n),
            f"{outcome.rank.estimate:+.2f}",
            f"[{outcome.rank.low:+.2f}, {outcome.rank.high:+.2f}]",
            f"{outcome.at_risk:+.3g}",
            f"{outcome.others:+.3g}",
        ]
        for outcome in report.outcomes
    ]
    return [
        heading("Forecast against outcome"),
        paragraph(
            "What the data said before training, against what was forgotten when the next task was learned: Spearman's "
            "rank correlation over the followed samples, and what the tenth predicted to be most at risk lost, beside "
            "the others."
        ),
        table(("of task", "samples", "Spearman", "95 % interval", "tenth at risk", "others"), rows),
    ]


def _energies(report: RunFindings) -> list[str]:
    if report.measure == "intrinsic" or not report.history:
        return []
    names = ("spearman_rise", "spearman_rise_at_density", "spearman_energy")
    rows = [
        [report.called(row["task"]), *(_rank(row[name]) for name in names)]
        for row in summarize(report.history[-1])
        if row["spearman_rise"] is not None
    ]
    if not rows:
        return []
    return [
        heading("What the energies say"),
        paragraph("Spearman's rank correlation of what was forgotten with the energy's rise, with the rise at equal "
                  "density, and with the energy when the sample was learned:"),
        table(("of task", "rise", "at equal density", "when learned"), rows),
    ]  # fmt: skip


def _rank(value: float | None) -> str:
    return "" if value is None else "undefined" if value != value else f"{value:+.2f}"


def _settings(report: RunFindings) -> str:
    record = report.history[-1] if report.history else None
    rows = [[name, value] for name, value in report.settings.items()]
    if record is not None:
        rows += (
            [["beta", f"{record.beta:.4g}"], ["n_eff", f"{record.n_eff:.3g}"]] if "beta" not in report.settings else []
        )
        rows += [["errors", sentence(record.trust)]] if record.trust else []
    return table(("setting", "value"), rows, text=True)


__all__ = ["as_page"]
