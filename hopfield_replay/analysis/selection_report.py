"""SelectionReport: what was chosen, what it is worth, and what it misses."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from hopfield_replay.figures import contact_sheet
from hopfield_replay.memory.temperature import Diagnosis
from hopfield_replay.utilities.drawing import draw_bars
from hopfield_replay.utilities.showing import Shown, ShownText, jsonable
from hopfield_replay.utilities.tables import text_table
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 10  # of those that the table names
_PICTURED = 100  # of the chosen ones


@dataclass(frozen=True)
class Protection:
    """Protected energy of the old samples.

    Attributes:
        mean: over all of them.
        tail: over the tenth of them that is most at risk.
    """

    mean: float
    tail: float

    @classmethod
    def of(cls, draws: Sequence[Tensor], tail: Tensor) -> Self:
        """The mean of several replay sets, by what each protects (n,) and which of these are the tail."""
        return cls(
            sum(float(draw.mean()) for draw in draws) / len(draws),
            sum(float(draw[tail].mean()) for draw in draws) / len(draws),
        )


@dataclass(frozen=True, eq=False, repr=False)
class SelectionReport(Shown):
    """What :func:`~hopfield_replay.select` chose.

    Attributes:
        indices: (k,) positions of the chosen samples, best first: the first j are the choice of size j.
        weights: (k,) float64, how many of the old samples each stands for, with sum n; equal for policies that do not
            choose for all samples.
        kept: what they protect, counted on all old samples; on up to 16384 of them where a pool bounds the work.
        random: what as many random ones protect, the mean of five draws.
        everything: what replaying all old samples alike, in the same share of the batches, would protect.
        certificate: no set of this size protects more than ``kept.mean / certificate``.
        classes: for each class (or group) how many samples it has and how many of them were chosen; empty if there is
            only one.
        uncovered: (m,) positions of the samples that fare worst against replaying everything, worst first, of up to
            16384 that were looked at.
        shortfall: (m,) float64, protected energy that they lack.
        copies: (n,) for each old sample the position of the one that it is a near-duplicate of, -1: of none; None: it
            was not asked for.
        names: of the old samples; empty if they have none.
        policy: its name.
        candidates: how many samples it was offered.
        samples: number of old samples, n.
        beta: inverse temperature of all energies.
        diagnosis: whether this beta can rank the old samples.
    """

    indices: Tensor
    weights: Tensor
    kept: Protection
    random: Protection
    everything: Protection
    certificate: float
    classes: dict[str, dict[str, int]]
    uncovered: Tensor
    shortfall: Tensor
    copies: Tensor | None
    names: tuple[str, ...]
    policy: str
    candidates: int
    samples: int
    beta: float
    diagnosis: Diagnosis

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def duplicates(self) -> list[tuple[int, int]]:
        """Pairs of a sample and the earlier one that it is a near-duplicate of, by their positions."""
        if self.copies is None:
            return []
        return [(row, first) for row, first in enumerate(self.copies.tolist()) if first >= 0]

    def to_dict(self) -> dict[str, Any]:
        """The report in plain Python, ready for JSON."""
        missed = zip(self.uncovered.tolist(), self.shortfall.tolist(), strict=True)
        result: dict[str, Any] = jsonable(
            {
                "chosen": self.rows(),
                "uncovered": [{**self._at(at), "shortfall": lack} for at, lack in missed],
                "duplicates": [{**self._at(row), "of": self._at(first)} for row, first in self.duplicates],
                "classes": self.classes,
                "protected": {name: asdict(getattr(self, name)) for name in ("kept", "random", "everything")},
                "certificate": self.certificate,
                "policy": self.policy,
                "candidates": self.candidates,
                "samples": self.samples,
                "beta": self.beta,
                "diagnosis": asdict(self.diagnosis),
            }
        )
        return result

    def rows(self) -> list[dict[str, Any]]:
        """For each chosen sample, best first, its rank from 1, position and name, and how many it stands for."""
        chosen = zip(self.indices.tolist(), self.weights.tolist(), strict=True)
        return [{"rank": i + 1, **self._at(at), "weight": w} for i, (at, w) in enumerate(chosen)]

    def _line(self) -> str:
        return (
            f"SelectionReport({len(self)} of {self.samples} samples by {self.policy}, protected energy "
            f"{self.kept.mean:.4g} (random {self.random.mean:.4g}), worst tenth {self.kept.tail:.4g} "
            f"(random {self.random.tail:.4g}))"
        )

    def _draw(self, axis: "Axes") -> None:
        compared = {"these": self.kept, "random": self.random, "everything": self.everything}
        worst = {f"{name}, worst tenth": protection.tail for name, protection in compared.items()}
        draw_bars(axis, {f"{name}, mean": protection.mean for name, protection in compared.items()} | worst)
        axis.set_xlabel(f"protected energy of {len(self)} kept (squared units of the vectors)")

    def _at(self, position: int) -> dict[str, Any]:
        return {"position": position, **({"name": self.names[position]} if self.names else {})}

    def _called(self, positions: Sequence[int]) -> str:
        return ", ".join(printable(self.names[at]) if self.names else str(at) for at in positions)

    def table(self) -> str:
        """The report as text."""
        of = f" of {self.candidates} candidates" if self.candidates < self.samples else ""
        lines = [
            f"{len(self)} of {self.samples} samples chosen{of} by {self.policy}, beta {self.beta:.4g} "
            f"(leave-one-out n_eff {self.diagnosis.n_eff:.3g})"
        ]
        if self.classes:
            rows = [[printable(name), str(row["samples"]), str(row["kept"])] for name, row in self.classes.items()]
            lines.append(text_table(("class", "samples", "chosen"), rows))
        compared = (("these", self.kept), ("random", self.random), ("everything", self.everything))
        rows = [[name, f"{protection.mean:.4g}", f"{protection.tail:.4g}"] for name, protection in compared]
        lines.append(text_table(("protected energy", "mean", "worst tenth"), rows))
        lines.append(f"no {len(self)} samples protect more than {1.0 / self.certificate:.3g} times as much (certified)")
        if self.copies is not None:
            lines.append(f"near-duplicates left out: {len(self.duplicates)}")
        lines.append(f"worst covered: {self._called(self.uncovered[:_NAMED].tolist())}")
        lines += [f"warning: {warning}" for warning in self.diagnosis.warnings]
        return ShownText("\n".join(lines))

    def figure(self, pictures: Callable[[Tensor], Tensor]) -> "Figure":
        """A contact sheet: the chosen samples in their order, and those that are covered worst.

        Args:
            pictures: maps positions (m,) to pictures (m, channels, height, width), such as
                ``lambda at: collection.pictures(at, 64)``.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: the samples are no pictures.
        """
        chosen = (f"chosen, best first ({len(self)})", pictures(self.indices[:_PICTURED]))
        return contact_sheet([chosen, ("worst covered", pictures(self.uncovered))])
