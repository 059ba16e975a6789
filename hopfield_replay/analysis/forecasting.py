"""Forecast: what a fine-tune will endanger and what a buffer would save, from two data sets alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hopfield_replay.analysis.replay_plan import TAIL, ReplayPlan
from hopfield_replay.analysis.vectors import Compared, Data, check_forms, read_vectors
from hopfield_replay.figures import rises_and_protection
from hopfield_replay.functional import PatternTiles
from hopfield_replay.functional.many import energies_of
from hopfield_replay.functional.rows import placed
from hopfield_replay.memory.settings import as_beta
from hopfield_replay.memory.temperature import Diagnosis, calibrate_beta, default_n_eff, diagnose
from hopfield_replay.policies import as_policy, requirements
from hopfield_replay.policies.candidates import Candidates, sample_keys
from hopfield_replay.tracker.table import by_label
from hopfield_replay.utilities.checks import Similarity, check_ratio
from hopfield_replay.utilities.device import check_device
from hopfield_replay.utilities.drawing import draw_lines, legend_above
from hopfield_replay.utilities.progress import track
from hopfield_replay.utilities.showing import Shown, ShownText, jsonable
from hopfield_replay.utilities.tables import text_table
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZES = (20, 50, 100, 200, 500)  # of buffers, by default
_DRAWS = 5  # of the random policies
_CLASSES = ("class", "samples", "mean rise", "at risk")


@dataclass(frozen=True)
class PolicyCurve:
    """What one policy protects at each capacity.

    Attributes:
        policy: its name.
        mean: protected energy, mean over the old samples, one number for each capacity.
        tail: the same over the tenth of them with the largest predicted rise.
        rise: the same over all of them, each counted by its predicted rise (see
            :func:`~hopfield_replay.functional.rise_weights`, with no floor).
    """

    policy: str
    mean: tuple[float, ...]
    tail: tuple[float, ...]
    rise: tuple[float, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Forecast(Shown):
    """What will be forgotten, and what replay would protect, before any training.

    Attributes:
        rises: (n,) float64, predicted energy rise of each old sample under the new data: the higher, the more it is
            forgotten.
        energies: (n,) float64, leave-one-out energy of each old sample among the old ones.
        at_risk: positions of the tenth of the old samples with the largest rise, worst first.
        classes: for each label the number of samples, their mean rise and the share of them at risk; empty without
            labels.
        capacities: buffer sizes of the curves.
        curves: what each policy protects at these sizes.
        marginal: energy (mean over the old samples) that 100 more samples (or all that are left) would protect, for
            each capacity; negative where the same share of the batches, spread over more samples, protects less.
        certificates: for each capacity the guaranteed share of the optimum that greedy_gain reaches.
        rise_certificate: the same at ``capacity``, of what ``GreedyGain(objective="rise")`` protects, counted by rise.
        policy: recommended: the one that protects the most at ``capacity``.
        capacity: recommended: the knee of greedy_gain's curve, the size with the largest gain over an even rise.
        sample_bytes: bytes of one old sample: as it was given in a tensor, else of its vector in float32.
        beta: inverse temperature of all energies.
        diagnosis: whether this beta can rank the old samples.
        names: of the old samples, such as their files; empty: they are called by their positions.

    Example:
        >>> import torch
        >>> old = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        >>> prediction = forecast(old, old[:30] + 8.0, capacities=(5, 10))
        >>> print(prediction.table().splitlines()[0])
        60 old samples, beta 3.382 (leave-one-out n_eff 5)
    """

    rises: Tensor
    energies: Tensor
    at_risk: Tensor
    classes: Mapping[Any, dict[str, float]]
    capacities: tuple[int, ...]
    curves: tuple[PolicyCurve, ...]
    marginal: tuple[float, ...]
    certificates: tuple[float, ...]
    rise_certificate: float
    policy: str
    capacity: int
    sample_bytes: int
    beta: float
    diagnosis: Diagnosis
    names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The forecast in plain Python, ready for JSON."""
        result: dict[str, Any] = jsonable(asdict(self))
        return result

    def _line(self) -> str:
        worst = ""
        if self.classes:
            label, row = max(self.classes.items(), key=lambda item: item[1]["mean_rise"])
            worst = f", most at risk: class {label} ({row['mean_rise']:.4g})"
        return (
            f"Forecast({len(self.rises)} old samples, mean predicted energy rise {float(self.rises.mean()):.4g}"
            f"{worst}; keep {self.capacity} by {self.policy})"
        )

    def rows(self) -> list[dict[str, Any]]:
        """For each old sample, the one most at risk first, its position, predicted rise and energy."""
        danger = set(self.at_risk.tolist())
        rises, energies = self.rises.tolist(), self.energies.tolist()
        names = [{"name": name} for name in self.names] or [{}] * len(rises)
        return [
            {**names[at], "position": at, "rise": rises[at], "energy": energies[at], "at_risk": at in danger}
            for at in self.rises.argsort(descending=True, stable=True).tolist()
        ]

    def _tables(self) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        tables = [(_CLASSES, self._class_rows())] if self.classes else []
        return [*tables, (("policy", *map(str, self.capacities)), self._curve_rows())]

    def _class_rows(self) -> list[list[str]]:
        worst = sorted(self.classes.items(), key=lambda item: -item[1]["mean_rise"])
        return [
            [str(label), str(int(row["samples"])), f"{row['mean_rise']:.4g}", f"{row['at_risk']:.0%}"]
            for label, row in worst
        ]

    def _curve_rows(self) -> list[list[str]]:
        rows = [
            [curve.policy, *(f"{mean:.4g} ({tail:.4g})" for mean, tail in zip(curve.mean, curve.tail, strict=True))]
            for curve in self.curves
        ]
        rows.append(["100 more add", *(f"{value:.4g}" for value in self.marginal)])
        return [*rows, ["of optimum, >=", *(f"{value:.3f}" for value in self.certificates)]]

    def _draw(self, axis: "Axes") -> None:
        draw_lines(axis, {c.policy: list(zip(self.capacities, c.mean, strict=True)) for c in self.curves})
        axis.set(
            xlabel="samples kept", ylabel="protected energy, mean over old samples\n(squared units of the vectors)"
        )
        legend_above(axis, columns=3)

    def table(self) -> str:
        """The forecast as text."""
        q = self.rises.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
        lines = [
            f"{len(self.rises)} old samples, beta {self.beta:.4g} (leave-one-out n_eff {self.diagnosis.n_eff:.3g})",
            f"predicted energy rise: mean {float(self.rises.mean()):.4g}, "
            f"10/50/90 % {q[0]:.4g} / {q[1]:.4g} / {q[2]:.4g}",
            f"most at risk{'' if self.names else ' (positions)'}: {self._called(self.at_risk[:10].tolist())}",
        ]
        if self.classes:
            lines.append(text_table(_CLASSES, self._class_rows()))
        lines.append("protected energy, mean over the old samples (worst tenth), by buffer size:")
        lines.append(text_table(("policy", *map(str, self.capacities)), self._curve_rows()))
        lines.append("the same, each old sample counted by its predicted rise:")
        counted = [[curve.policy, *(f"{value:.4g}" for value in curve.rise)] for curve in self.curves]
        lines.append(text_table(("policy", *map(str, self.capacities)), counted))
        size = f", {self.capacity * self.sample_bytes / 2**20:.3g} MiB" if self.sample_bytes else ""
        lines.append(f"recommended: policy {self.policy}, capacity {self.capacity}{size}")
        lines.append(f'there objective="rise" reaches >= {self.rise_certificate:.3f} of the optimum counted by rise')
        lines += [f"warning: {warning}" for warning in self.diagnosis.warnings]
        return ShownText("\n".join(lines))

    def _called(self, positions: list[int]) -> str:
        """Samples by their names, or by their positions."""
        return ", ".join(printable(self.names[at]) for at in positions) if self.names else str(positions)

    def figure(self) -> "Figure":
        """Left: the distribution of the predicted rises; right: protected energy against buffer size."""
        return rises_and_protection(
            self.rises, self.capacities, {curve.policy: curve.mean for curve in self.curves}, self.capacity
        )


def forecast(
    old: Data,
    new: Data,
    *,
    encoder: Callable[[Any], Tensor] | nn.Module | None = None,
    beta: float | Literal["auto"] = "auto",
    similarity: Similarity = "distance",
    capacities: Sequence[int] | None = None,
    policies: Sequence[str] = ("greedy_gain", "random", "high_energy", "k_center", "herding"),
    labels: Tensor | None = None,
    replay_ratio: float = 0.5,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Forecast:
    r"""Predict what training on ``new`` will make a model of ``old`` forget, and what a replay buffer would save.

    Needs no model: the predicted rise of an old sample is :math:`E(x \mid X_\mathrm{new}) - E(x \mid X_\mathrm{old}
    \setminus x)`, and a buffer R protects :math:`\frac1\beta\log(1 + \sum_{r\in R} a_{xr})` of it (see
    :func:`~hopfield_replay.functional.replay_gain`). Protection is counted on all old samples; of more than 5792
    the greedy sets are chosen by the largest affinities of each, and certified by all of them.

    Args:
        old: what the model knows: a tensor (n, *shape), or batches (a DataLoader, a list); n >= 4.
        new: what it will be trained on, likewise.
        encoder: maps a batch to vectors; None: its samples, flattened, by the rules of :class:`Columns`.
        beta: inverse temperature, or ``"auto"``: a median leave-one-out n_eff of 5 on the old samples.
        similarity: ``"distance"`` or ``"dot"``.
        capacities: buffer sizes, rising, each >= 1; those above the number of old samples are left out.
            None: 20, 50, 100, 200 and 500, or, of fewer than 20 samples, a quarter and a half of them.
        policies: names of the policies to compare; greedy_gain is always among them.
        labels: (n,) integers of the old samples, for the table by class; None: the integers (n,) in the batches, if
            any.
        replay_ratio: share of each batch that would be replayed, in (0, 1).
        seed: of the random policies.
        device: where vectors are compared, in parts that fit; None: where the encoder's weights are, and without such
            where the old data lies; ``"cpu"`` forces the CPU.

    Returns:
        A :class:`Forecast`.

    Raises:
        ValueError: fewer than 4 old samples, no new ones, dimensions that differ, NaN, capacities out of range, a
            device that is not there.
        TypeError: data that cannot be read.

    Example:
        >>> import torch
        >>> old = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        >>> prediction = forecast(old, old[:30] + 8.0, capacities=(5, 10))
        >>> bool((prediction.rises > 0).all()), prediction.policy
        (True, 'greedy_gain')

    Source: the identity of the replay gain; Satopaa et al. (2011) for the knee.
    """
    check_ratio(replay_ratio, "replay_ratio")
    given, place = as_beta(beta), check_device(device)
    if isinstance(policies, str):
        raise TypeError(f"policies must be a list of names, got {policies!r}; give [{policies!r}].")
    for name in policies:
        as_policy(name)
    read = read_vectors(old, encoder, "old")
    known, other = read.rows, read_vectors(new, encoder, "new")
    coming = other.rows
    if known.shape[1] != coming.shape[1]:
        raise ValueError(f"old vectors have dimension {known.shape[1]}, new ones {coming.shape[1]}.")
    check_forms(read.form, other.form, "old and new")
    if len(known) < 4:
        raise ValueError(f"forecast needs at least 4 old samples, got {len(known)}.")
    labels = read.labels if labels is None else labels.cpu()
    if labels is not None and labels.shape != (len(known),):
        raise ValueError(f"labels must have shape ({len(known)},), got {tuple(labels.shape)}.")
    if capacities is None:
        capacities = [size for size in _SIZES if size <= len(known)] or sorted({-(-len(known) // 4), len(known) // 2})
    sizes = tuple(size for size in capacities if size <= len(known))
    if not sizes or any(b <= a for a, b in pairwise(sizes)) or sizes[0] < 1:
        raise ValueError(
            f"capacities must rise from at least 1 and start within the {len(known)} old samples, got "
            f"{list(capacities)}."
        )
    compared = Compared(known, read.device if place is None else place)
    value = (
        compared.worked_out(lambda x: calibrate_beta(x, n_eff=default_n_eff(len(x)), similarity=similarity))
        if given is None
        else given
    )
    patterns = PatternTiles.of_rows(compared.near)
    energies = energies_of(known, patterns, value, similarity=similarity, exclude=torch.arange(len(known)))
    after = energies_of(known, PatternTiles.of_rows(placed(coming, compared.device)), value, similarity=similarity)
    rises = after - energies
    pool = Candidates(
        torch.arange(len(known)),
        torch.zeros(len(known), dtype=torch.int64),
        energies,
        known,
        sample_keys(torch.arange(len(known)), seed),
        labels,
        next_energies=after,
        beta=value,
        similarity=similarity,
        device=compared.device,
    )
    plan = ReplayPlan(pool, replay_ratio, near=compared.near)
    more = [min(size + 100, len(known)) for size in sizes]
    every = track(sorted({*sizes, *more}), "Choosing buffers")
    chosen = {size: plan.greedy(size, certified=size in sizes) for size in every}
    knee = _knee(sizes, [chosen[size].selection.mean for size in sizes])
    *greedy, by_rise = plan.certified([*(chosen[size] for size in sizes), plan.greedy(sizes[knee], by_rise=True)])
    curves = [
        PolicyCurve(
            "greedy_gain",
            tuple(s.mean for s in greedy),
            tuple(s.tail for s in greedy),
            tuple(float((s.protected * plan.importance).mean()) for s in greedy),
        )
    ]
    others = [name for name in policies if name != "greedy_gain"]
    curves += [_curve(plan, pool, name, sizes, seed) for name in track(others, "Comparing policies")]
    at_risk = rises.argsort(descending=True, stable=True)[: max(1, round(TAIL * len(rises)))]
    endangered = torch.zeros(len(rises), dtype=torch.bool).index_fill_(0, at_risk, True)
    return Forecast(
        rises=rises,
        energies=energies,
        at_risk=at_risk,
        classes={} if labels is None else by_label(rises, labels, endangered, "at_risk"),
        capacities=sizes,
        curves=tuple(curves),
        marginal=tuple(chosen[b].selection.mean - s.mean for b, s in zip(more, greedy, strict=True)),
        certificates=tuple(s.guaranteed_share for s in greedy),
        rise_certificate=by_rise.guaranteed_share,
        policy=max(curves, key=lambda curve: curve.mean[knee]).policy,
        capacity=sizes[knee],
        sample_bytes=read.sample_bytes,
        beta=value,
        diagnosis=compared.worked_out(lambda x: diagnose(x, value, similarity=similarity, calibrated=given is None)),
    )


def _curve(plan: ReplayPlan, pool: Candidates, name: str, sizes: Sequence[int], seed: int) -> PolicyCurve:
    """What a policy's nested choice protects; the mean of several draws for random ones."""
    policy = as_policy(name)
    draws = _DRAWS if requirements(policy).random else 1
    means, tails, risen = [0.0] * len(sizes), [0.0] * len(sizes), [0.0] * len(sizes)
    for draw in range(draws):
        chosen = policy.select(replace(pool, keys=sample_keys(pool.ids, seed + draw)), sizes[-1])
        for i, protected in enumerate(plan.nested(chosen, sizes)):
            means[i] += float(protected.mean()) / draws
            tails[i] += float(protected[plan.tail].mean()) / draws
            risen[i] += float((protected * plan.importance).mean()) / draws
    return PolicyCurve(name, tuple(means), tuple(tails), tuple(risen))


def _knee(sizes: Sequence[int], values: Sequence[float]) -> int:
    """Index of the size whose value lies farthest above the straight line from the first to the last."""
    if len(sizes) < 3 or values[-1] <= values[0]:
        return len(sizes) - 1
    span, rise = sizes[-1] - sizes[0], values[-1] - values[0]
    above = [(v - values[0]) / rise - (s - sizes[0]) / span for s, v in zip(sizes, values, strict=True)]
    return above.index(max(above))
