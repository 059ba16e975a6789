"""Sparse affinities: the largest of each target, and a bound on all that was dropped."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hopfield_replay.functional._engine.scores import exact_float32
from hopfield_replay.functional._projection import Projection, fitted
from hopfield_replay.functional.affinity import StreamedAffinity
from hopfield_replay.functional.rows import pieces
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.device import without_autocast

_TILE = 1 << 24  # scores of some targets and all candidates: 64 MB
_STRIPS = 8  # columns of a strip: the largest strips hold the largest scores
_EXACT = 10**11  # multiplications that are done as they are, on the CPU
_ENTRIES = 1 << 22  # put in the order of the candidates at a time
_SMALLEST = -80.0  # log of a share that is not told from 0
_UNIT = 2.0**-24  # relative rounding of float32


@dataclass(frozen=True, eq=False)
class Dropped:
    """Bounds on what is not in a sparse affinity.

    Attributes:
        largest: (n,) float64, log of a bound on each affinity of a target that was dropped; -inf: none was.
        total: (n,) float64, log of a bound on the sum of them.
        excess: (entries,) float32, how much the log of a kept affinity may lie above what is stored.
    """

    largest: Tensor
    total: Tensor
    excess: Tensor


class SparseAffinity:
    r"""The ``keep`` largest affinities of each target, candidate by candidate; all others count as none.

    Where beta is such that a few patterns share a sample, the k kept samples protect a target through the one or two
    nearest of them: of C candidates little more than the C / k nearest ones of a target matter, and a few times as many
    choose as the whole matrix does. In high dimensions the products are computed of projections of the vectors on their
    first principal directions, wide enough for an error of ``error`` nats near by; the largest error that this can make
    is known, and enters the bounds.

    Args:
        rows: the affinities.
        keep: how many of each target, >= 1; all of them where there are fewer candidates.
        own: (n,) int64, the candidate that each target is, -1 for none: its affinity to itself is taken as it is.
        error: root mean square error of the log affinities of near neighbours that a projection may make, >= 0; 0: none
            is made. On the CPU; elsewhere products are exact (to float32).
        bounds: also bound what is dropped, for the certificate of the selection.
        device: where products are computed; None: where the vectors are.

    Attributes:
        kept: how many of each target.
        starts: (C + 1,) int64, where the entries of each candidate begin.
        targets: (entries,) int32, target of each entry.
        logs: (entries,) float32, log of its affinity.
        dropped: bounds on the rest; None without ``bounds``.

    Raises:
        ValueError: ``keep`` or ``error`` out of range.

    Example:
        >>> import torch
        >>> from hopfield_replay.functional import far_task_energy
        >>> x = torch.tensor([[0.0], [1.0], [5.0], [5.5]])
        >>> rows = StreamedAffinity(x, x, far_task_energy(x), beta=1.0, masses=0.1)
        >>> sparse = SparseAffinity(rows, 2)
        >>> sparse.starts.tolist(), sparse.targets.tolist()
        ([0, 2, 4, 6, 8], [0, 1, 0, 1, 2, 3, 2, 3])

    Source: Lindgren, Wu, Dimakis, "Leveraging sparsity for efficient submodular data summarization" (2016), for
    facility location.
    """

    def __init__(
        self,
        rows: StreamedAffinity,
        keep: int,
        *,
        own: Tensor | None = None,
        error: float = 0.3,
        bounds: bool = False,
        device: torch.device | None = None,
    ) -> None:
        check_integer(keep, "keep", 1)
        if not error >= 0:
            raise ValueError(f"error must be a number of nats >= 0, got {error}.")
        self.rows = rows
        self.shape = rows.shape
        self.device = rows.device
        n, count = self.shape
        place = rows.device if device is None else device
        small = n * count * rows.targets.shape[1] <= _EXACT
        exact = small or place.type != "cpu" or not error
        projection = Projection(rows.centre, None) if exact else fitted(rows.candidates, rows.centre, rows.beta, error)
        search = _Search(rows, projection, min(keep, count), own, bounds, place)
        chosen = torch.empty(n, search.keep, dtype=torch.int32)
        logs = torch.empty(n, search.keep)
        excess = torch.empty(n, search.keep if bounds else 0)
        largest, total = (torch.full((n,), -torch.inf, dtype=torch.float64) for _ in range(2))
        for start, projected, rest, squares in search.targets():
            window = slice(start, start + len(projected))
            entries = search.of(start, projected, rest, squares)
            chosen[window], logs[window] = entries.chosen, entries.logs
            if bounds:
                excess[window], largest[window], total[window] = entries.excess, entries.largest, entries.total
        self.kept = search.keep
        del search  # what it holds goes before the entries are put in order
        self.starts, self.targets, order = _by_candidate(chosen, count)
        del chosen
        self.logs = _gathered(logs, order)
        self.dropped = Dropped(largest, total, _gathered(excess, order)) if bounds else None

    def __mul__(self, factor: float) -> "SparseAffinity":
        """The affinities with every mass multiplied by a factor > 0, as a matrix would be."""
        scaled, more = copy.copy(self), math.log(factor)
        scaled.rows, scaled.logs = self.rows * factor, self.logs + more
        if self.dropped is not None:
            scaled.dropped = replace(self.dropped, largest=self.dropped.largest + more, total=self.dropped.total + more)
        return scaled

    def distances(self) -> Tensor:
        """Distance of each entry, (entries,) float32, where all new energies are 0 and all masses 1."""
        return self.logs.mul(-2.0 / self.rows.beta).clamp_(min=0.0).sqrt_()

    def log_totals(self) -> Tensor:
        """Log of what is kept of each target's affinity to all candidates, (n,) float64."""
        peak = torch.full((self.shape[0],), -torch.inf).scatter_reduce_(0, self.targets.long(), self.logs, "amax")
        shares = (self.logs - peak[self.targets]).double().exp_()
        totals = torch.zeros(len(peak), dtype=torch.float64).index_add_(0, self.targets, shares)
        return totals.log_() + peak


@dataclass(frozen=True, eq=False)
class _Found:
    """The largest affinities of some targets."""

    chosen: Tensor
    logs: Tensor
    excess: Tensor
    largest: Tensor
    total: Tensor


class _Search:
    """Finds the largest affinities of targets, some at a time, to candidates that are held projected."""

    def __init__(
        self,
        rows: StreamedAffinity,
        projection: Projection,
        keep: int,
        own: Tensor | None,
        bounds: bool,
        device: torch.device,
    ) -> None:
        self._rows, self._bounds, self._own, self._device = rows, bounds, own, device
        self._projection = projection.to(device)
        self.keep = keep
        count = rows.shape[1]
        self._strips = _STRIPS if keep * _STRIPS * 2 < count else 1
        width = -(-count // self._strips) * self._strips
        dimension = rows.targets.shape[1] if projection.directions is None else projection.directions.shape[1]
        self.step = max(1, _TILE // width)
        self._vectors = torch.zeros(width, dimension, device=device)
        self._bias = torch.full((width,), -torch.inf, device=device)
        self._rest = torch.zeros(width, device=device)
        self._squares: list[Tensor] = []
        self._norms = self._largest_bias = 0.0
        self._scores = torch.empty(self.step * width, device=device)
        for start, piece in pieces(rows.candidates, 1 << 22):
            window = slice(start, start + len(piece))
            projected, rest, squares = self._projection.apply(piece.to(device))
            self._vectors[window], self._rest[window] = projected, rest
            bias = rows.log_masses[window].to(device, squares.dtype)
            self._bias[window] = bias - 0.5 * rows.beta * squares if rows.similarity == "distance" else bias
            self._norms = max(self._norms, float(squares.max()) ** 0.5)
            if rows.among_themselves:
                self._squares.append(squares)
        self._largest_bias = float(self._bias.nan_to_num(neginf=0.0).abs().max())

    def targets(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """The first of some targets, and these as Projection.apply() gives them; once where they are candidates."""
        rows, n = self._rows, self._rows.shape[0]
        if not rows.among_themselves:
            for start, piece in pieces(rows.targets, self.step * rows.targets.shape[1]):
                yield start, *self._projection.apply(piece.to(self._device))
            return
        squares = torch.cat(self._squares)
        for start in range(0, n, self.step):
            window = slice(start, min(start + self.step, n))
            yield start, self._vectors[window], self._rest[window], squares[window]

    def of(self, start: int, projected: Tensor, rest: Tensor, squares: Tensor) -> _Found:
        """Those of some projected targets (m, q), of which the first one is target ``start``."""
        rows, beta, count = self._rows, self._rows.beta, len(projected)
        scores = self._scores[: count * len(self._bias)].view(count, -1)
        with exact_float32(self._device), without_autocast(self._device):
            torch.addmm(self._bias, projected.mul(beta), self._vectors.T, out=scores)
        if self._own is not None:
            own = self._own[start : start + count].to(self._device)
            here = (own >= 0).nonzero().flatten()
            scores[here, own[here]] = (beta * squares[here]).float() + self._bias[own[here]]
        values, chosen = self._largest(scores)
        constant = rows.log_inverse[start : start + count].to(squares)
        if rows.similarity == "distance":
            constant = constant - 0.5 * beta * squares
        logs = [values.to(squares).add_(constant[:, None]).float().cpu()]
        nothing = torch.empty(count, 0)
        if not self._bounds:
            return _Found(chosen.int().cpu(), logs[0], nothing, nothing, nothing)
        # rounding of a product of q numbers and of the projections, of sums with the biases, and of a sum of shares
        products = beta * (2 * projected.shape[1] + 64) * (squares.sqrt() * self._norms + squares)
        rounding = _UNIT * (products + 8 * (self._largest_bias + constant.abs()) + 64)
        slack = beta * rest[:, None] * self._rest[chosen]
        if self._own is not None:
            slack[chosen == own[:, None]] = 0.0
        excess = (slack + rounding[:, None]).float().cpu()
        scores.scatter_(1, chosen, -torch.inf)
        if self._projection.directions is not None:
            scores.addr_(beta * rest, self._rest)
        top = scores.amax(1)
        safe = top.masked_fill(top == -torch.inf, 0.0)
        # numbers too small for float32 cost ten times as much; what takes their place only raises the bound
        total = scores.sub_(safe[:, None]).clamp_(min=_SMALLEST).exp_().sum(1).to(squares).log_() + safe
        largest, total = ((bound.to(squares) + constant + rounding).cpu().double() for bound in (top, total))
        return _Found(chosen.int().cpu(), logs[0], excess, largest, total)

    def _largest(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Values and columns of the largest scores of each row: they lie in the strips of the largest maxima."""
        if self._strips == 1:
            return scores.topk(self.keep, dim=1)
        strips = scores.view(len(scores), self._strips, -1)  # a strip is every so manieth column: maxima vectorise
        best = strips.amax(1).topk(self.keep, dim=1, sorted=False).indices
        near = strips.gather(2, best[:, None].expand(-1, self._strips, -1)).flatten(1)
        values, place = near.topk(self.keep, dim=1)
        return values, best.gather(1, place % self.keep) + place // self.keep * strips.shape[2]


def _by_candidate(chosen: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates (n, keep) of each target in the order of the candidates: where each begins, targets, and the order."""
    n, keep = chosen.shape
    step = max(1, _ENTRIES // keep)
    blocks = chosen.split(step)
    counts = torch.zeros(count, dtype=torch.int64)
    for block in blocks:
        counts += torch.bincount(block.flatten(), minlength=count)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    free = starts[:-1].clone()
    targets = torch.empty(n * keep, dtype=torch.int32)
    order = torch.empty(n * keep, dtype=torch.int32 if n * keep < 1 << 31 else torch.int64)
    for number, block in enumerate(blocks):
        candidates, by = block.flatten().sort(stable=True)
        here = torch.bincount(candidates, minlength=count)
        rank = torch.arange(len(by)) - (here.cumsum(0) - here)[candidates]
        place = free[candidates] + rank
        free += here
        by += number * step * keep
        targets[place] = torch.div(by, keep, rounding_mode="floor").to(torch.int32)
        order[place] = by.to(order.dtype)
    return starts, targets, order


def _gathered(values: Tensor, order: Tensor) -> Tensor:
    """Values (n, keep) in another order, (n keep,)."""
    return values.flatten()[order] if values.numel() else values.flatten()


__all__ = ["Dropped", "SparseAffinity"]
