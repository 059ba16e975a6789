"""The largest affinities of targets among many candidates, in float32."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional._engine.scores import exact_float32
from hopfield_replay.functional._projection import Projection
from hopfield_replay.functional.affinity import StreamedAffinity
from hopfield_replay.functional.rows import pieces
from hopfield_replay.utilities.device import without_autocast

_TILE = 1 << 24  # scores of some targets and all candidates: 64 MB
_STRIPS = 8  # columns of a strip: the largest strips hold the largest scores
_SMALLEST = -80.0  # log of a share that is not told from 0
_UNIT = 2.0**-24  # relative rounding of float32


@dataclass(frozen=True, eq=False)
class Found:
    """The largest affinities of some targets.

    Attributes:
        start: the first of the targets.
        chosen: (m, keep) int32 candidates.
        logs: (m, keep) float32.
        excess: (m, keep) float32, how much the logs may lie above those, or (m, 0).
        largest: (m,) float64, a bound on the log of each affinity that is not among them, or (0,).
        total: (m,) float64, a bound on the log of the sum of those, or (0,).
    """

    start: int

    chosen: Tensor
    logs: Tensor
    excess: Tensor
    largest: Tensor
    total: Tensor


def without_bounds(start: int, chosen: Tensor, logs: Tensor) -> Found:
    """What was found where nobody asks about the rest."""
    none = torch.empty(0, dtype=torch.float64)
    return Found(start, chosen.int().cpu(), logs.float().cpu(), torch.empty(len(logs), 0), none, none)


def _strips(count: int, keep: int) -> tuple[int, int]:
    """Number of columns of a strip of so many candidates, and of all strips together."""
    strips = _STRIPS if keep * _STRIPS * 2 < count else 1
    return strips, -(-count // strips) * strips


class Search:
    """Finds the largest affinities of targets, ``step`` at a time, to candidates that are held projected."""

    def __init__(
        self,
        rows: StreamedAffinity,
        projection: Projection,
        keep: int,
        own: Tensor | None,
        bounds: bool,
        device: torch.device,
        step: int,
    ) -> None:
        self._rows, self._bounds, self._own, self._device = rows, bounds, own, device
        self._projection = projection.to(device)
        self.keep = keep
        count = rows.shape[1]
        self._strips, width = _strips(count, keep)
        dimension = rows.targets.shape[1] if projection.directions is None else projection.directions.shape[1]
        self.step = step
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

    @staticmethod
    def most(count: int, keep: int) -> int:
        """How many targets at a time, at the most, of so many candidates."""
        return max(1, _TILE // _strips(count, keep)[1])

    def found(self) -> Iterator[Found]:
        """The largest affinities of all targets, some at a time."""
        return (self._of(start, projected, rest, squares) for start, projected, rest, squares in self._targets())

    def _targets(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
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

    def _of(self, start: int, projected: Tensor, rest: Tensor, squares: Tensor) -> Found:
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
        logs = values.to(squares).add_(constant[:, None])
        if not self._bounds:
            return without_bounds(start, chosen, logs)
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
        return Found(start, chosen.int().cpu(), logs.float().cpu(), excess, largest, total)

    def _largest(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Values and columns of the largest scores of each row: they lie in the strips of the largest maxima."""
        if self._strips == 1:
            return scores.topk(self.keep, dim=1)
        strips = scores.view(len(scores), self._strips, -1)  # a strip is every so manieth column: maxima vectorise
        best = strips.amax(1).topk(self.keep, dim=1, sorted=False).indices
        near = strips.gather(2, best[:, None].expand(-1, self._strips, -1)).flatten(1)
        values, place = near.topk(self.keep, dim=1)
        return values, best.gather(1, place % self.keep) + place // self.keep * strips.shape[2]


__all__ = ["Found", "Search", "without_bounds"]
