"""AuditReport: what an audit found, as numbers, text, figures and a page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hopfield_replay.analysis.audit_findings import AuditFindings
from hopfield_replay.analysis.audit_page import as_html
from hopfield_replay.analysis.audit_pictures import draw
from hopfield_replay.analysis.audit_text import HEADERS, as_text, group_rows, worst_group
from hopfield_replay.utilities.drawing import draw_bars, histogram
from hopfield_replay.utilities.showing import Shown, ShownText
from hopfield_replay.utilities.text import group_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_PER_SAMPLE = ("model_energy_old", "model_energy_new", "energies", "energy_rises", "noise", "standardized")
_BARS = 20  # groups that are drawn, the most forgotten first


class AuditReport(AuditFindings, Shown):
    """Paired-noise reconstruction errors of two versions of a model on the same samples, and what goes with them.

    Intervals are 95 % intervals over samples (see :class:`Drift`): training again would move the numbers further.

    Attributes:
        errors_old: (n, timesteps) float64, mean squared error of the first version.
        errors_new: (n, timesteps) float64, of the second one, with the same noise.
        rises: (n,) float64, rise of the error from the first to the second, mean over the timesteps: the reconstruction
            forgetting of each sample.
        worst: positions of the samples, the most forgotten first.
        mean: mean of ``rises``.
        low: lower end of its interval; nan for one sample.
        high: upper end.
        worse: share of the samples whose error rose.
        overall: these and the relative rise, mean rise / mean error before, with its interval.
        classes: for each label the fields of a :class:`Drift` as a dict, the most forgotten first; empty without
            labels.
        tasks: the same for each task; empty without tasks.
        timesteps: where the errors were measured.
        model_energy_old: (n,) float64, energy of each sample under the first version in nats (ELBO form, from these
            errors, see :func:`~hopfield_replay.functional.model_energy`); None for fewer than two timesteps, or without
            noise.
        model_energy_new: (n,) float64, under the second one.
        energies: (n,) float64, Hopfield energy of each sample under the old data, leaving the sample itself out; None
            without old data.
        energy_rises: (n,) float64, its energy under the new data less that; None without new data.
        correlations: Spearman's rank correlation of the rises with the "energy" before and with the "energy rise", and
            the same "at equal density" (distance to the tenth neighbour in the old data); those that can be worked out.
        beta: inverse temperature of the energies; None without old data.
        examples: the most and least forgotten samples with their reconstructions; None if none were asked for.
        names: what the samples are called; empty: by their positions.
        labels: the class of each sample; empty without labels.
        task_of: the task of each sample; empty without tasks.
        warnings: what to keep in mind.
        noise: (n,) float64, standard error of each sample's rise over the draws of noise; None for one draw.

    Example:
        >>> import torch
        >>> from hopfield_replay.analysis import audit
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> schedule = torch.linspace(0.99, 0.01, 10)
        >>> one = CallableDenoiser(lambda x, t: torch.zeros_like(x), schedule, prediction_type="sample")
        >>> print(audit(one, one, torch.zeros(5, 1, 2, 2)).table().splitlines()[0])
        5 samples: reconstruction error 0 -> 0
    """

    def table(self) -> str:
        """The report as text."""
        return ShownText(as_text(self))

    def _line(self) -> str:
        worst = worst_group(self)
        named = "" if worst is None else f"worst: {worst[0]} {worst[1]} {worst[2]['relative']:+.1%}, "
        return (
            f"AuditReport({self.overall.samples} samples, {named}all: error {self.overall.error_old:.4g} -> "
            f"{self.overall.error_new:.4g} ({self.overall.relative:+.1%}), {self.worse:.0%} got worse)"
        )

    def rows(self) -> list[dict[str, Any]]:
        """For each sample, the most forgotten first, its position, name, class, task, errors and energies."""
        old, new = self.errors_old.mean(1).tolist(), self.errors_new.mean(1).tolist()
        rises = self.rises.tolist()
        known = {name: held.tolist() for name in _PER_SAMPLE if (held := getattr(self, name)) is not None}
        return [
            {
                "position": at,
                "name": self.name(at),
                **({"class": self.labels[at]} if self.labels else {}),
                **({"task": self.task_of[at]} if self.task_of else {}),
                "error_old": old[at],
                "error_new": new[at],
                "rise": rises[at],
                **{name: values[at] for name, values in known.items()},
            }
            for at in self.worst.tolist()
        ]

    def _tables(self) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        named = (("task", self.tasks), ("class", self.classes))
        tables = [((kind, *HEADERS), group_rows(groups)) for kind, groups in named if groups]
        return tables or super()._tables()  # type: ignore[return-value]  # both are headers and cells

    def _draw(self, axis: "Axes") -> None:
        groups = self.tasks or self.classes
        if groups:
            kind = "task" if self.tasks else "class"
            bars = {group_label(kind, label): row["mean_rise"] for label, row in list(groups.items())[:_BARS]}
            draw_bars(axis, bars)
        else:
            histogram(axis, self.rises, "samples")
        axis.set_xlabel("reconstruction forgetting (rise of the mean squared error, per element)")

    def figure(self) -> "Figure":
        """Left: distribution of the errors' rises; right: each sample's error under the second version and the first.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return self.figures()["audit"]

    def figures(self) -> "dict[str, Figure]":
        """Every figure by name.

        "audit", and as far as there are any "audit_most_forgotten", "audit_least_forgotten", "audit_classes" and
        "audit_tasks".

        Raises:
            ImportError: matplotlib is not installed.
        """
        return draw(self)

    def html(
        self,
        title: str = "Audit of two versions of a model",
        notes: Mapping[str, str] | None = None,
        figures: "Mapping[str, Figure] | None" = None,
    ) -> str:
        """The report as one self-contained HTML page with its figures.

        Args:
            title: of the page.
            notes: what to say of the run, by name: which files, which options.
            figures: those of :meth:`figures`, if they are drawn already.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return as_html(self, title, notes or {}, self.figures() if figures is None else figures)
