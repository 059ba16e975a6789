"""The largest affinities of targets among many candidates, on a GPU, out of products of bfloat16 parts."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hopfield_replay.functional._affinity_search import Found, without_bounds
from hopfield_replay.functional._engine import split
from hopfield_replay.functional._engine.scores import LOG2_E
from hopfield_replay.functional._engine.split_scores import largest_error
from hopfield_replay.functional.affinity import StreamedAffinity
from hopfield_replay.functional.rows import pieces
from hopfield_replay.utilities.device import without_autocast

_TILE = 1 << 26  # scores of some targets and all candidates: 256 MB
_PIECE = 1 << 24  # numbers that are split into parts at a time
_UNIT = 2.0**-24  # relative rounding of float32
_SUMMED = 128.0  # roundings of a sum of shares and of the shares, in units of it
_LOWEST = torch.finfo(torch.float32).min  # score of a candidate without mass, to tell it from none
_LN_2 = math.log(2)


def _nearest(count: int, keep: int) -> int:
    """How many strips of so many candidates are looked into."""
    return min(keep, -(-count // split.COLUMNS) * split.WIDTH)


class SplitSearch:
    """As :class:`~hopfield_replay.functional._affinity_search.Search`, with nothing projected.

    The kernel writes the scores, and of every 16 the largest and the sum of the shares. The ``keep`` largest scores lie
    in the ``keep`` strips of 16 with the largest maxima; the sums of the others bound what is dropped. So of the scores
    only those of these strips are read: writing 4 bytes for 2 d multiplications costs 1 % of them at d = 3072 and less
    than half at d = 64, and computing the scores of so many strips anew would cost more.

    Args:
        rows: the affinities.
        keep: how many of each target, at most as many as there are candidates.
        own: (n,) int64, the candidate that each target is, -1 for none; None: none is.
        bounds: also bound what is not among them.
        device: a GPU.
        step: how many targets at a time.
    """

    def __init__(
        self, rows: StreamedAffinity, keep: int, own: Tensor | None, bounds: bool, device: torch.device, step: int
    ) -> None:
        self._rows, self._keep, self._own, self._bounds, self._device = rows, keep, own, bounds, device
        count, d = rows.shape[1], rows.targets.shape[1]
        self._centre = rows.centre.to(device).float()
        self._terms = split.terms_for(d, False)
        depth = split.padded(d)
        self._parts = torch.empty(split.parts_for(self._terms), count, depth, dtype=torch.bfloat16, device=device)
        self._squares = torch.empty(count, dtype=torch.float64, device=device)
        for start, piece in pieces(rows.candidates, _PIECE):
            window = slice(start, start + len(piece))
            made = split.split(piece.to(device), self._centre, self._terms)
            self._parts[:, window], self._squares[window] = made.parts, made.squares
        bias = rows.log_masses.to(device)
        if rows.similarity == "distance":
            bias = bias - 0.5 * rows.beta * self._squares
        self._largest_bias = float(bias.nan_to_num(neginf=0.0).abs().max())
        self._bias = (bias * LOG2_E).float()
        self._nearest, self._step = _nearest(count, keep), step

    @staticmethod
    def most(count: int, keep: int) -> int:
        """How many targets at a time, at the most, of so many candidates."""
        return max(1, _TILE // max(count, 4 * _nearest(count, keep) * split.COLUMNS // split.WIDTH))

    def found(self) -> Iterator[Found]:
        """The largest affinities of all targets, some at a time."""
        rows, step = self._rows, self._step
        if rows.among_themselves:
            for start in range(0, rows.shape[0], step):
                window = slice(start, start + step)
                yield self._of(start, self._parts[:, window].contiguous(), self._squares[window])
            return
        for start, piece in pieces(rows.targets, step * rows.targets.shape[1]):
            made = split.split(piece.to(self._device), self._centre, self._terms)
            yield self._of(start, made.parts, made.squares)

    def _of(self, start: int, parts: Tensor, squares: Tensor) -> Found:
        """Those of some targets, by their parts and squared norms, of which the first one is target ``start``."""
        beta, window = self._rows.beta, slice(start, start + len(squares))
        own = None if self._own is None else self._own[window].to(self._device)
        with without_autocast(self._device):
            left_out = None if own is None else own.int()
            made = split.strips(parts, self._parts, self._bias, beta * LOG2_E, left_out, self._terms, 1, scores=True)
        near, columns, rest = self._near(made)
        if own is not None:  # left out above; its affinity to itself is taken as it is
            near.masked_fill_(columns == own[:, None], -torch.inf)
            itself = (beta * LOG2_E * squares).float() + self._bias[own]
            itself = itself.clamp(min=_LOWEST).masked_fill(own < 0, -torch.inf)
            near, columns = torch.cat([near, itself[:, None]], 1), torch.cat([columns, own[:, None]], 1)
        values, place = near.topk(self._keep, dim=1)
        chosen = columns.gather(1, place)
        constant = self._rows.log_inverse[window].to(squares)
        if self._rows.similarity == "distance":
            constant = constant - 0.5 * beta * squares
        logs = values.masked_fill(values == _LOWEST, -torch.inf).double().mul_(_LN_2).add_(constant[:, None])
        if not self._bounds:
            return without_bounds(start, chosen, logs)
        near = near.scatter_(1, place, -torch.inf).masked_fill(near == _LOWEST, -torch.inf)
        top = torch.maximum(near.amax(1), rest.amax(1))
        safe = top.masked_fill(top == -torch.inf, 0.0)[:, None]
        shares = near.sub(safe).exp2_().sum(1) + rest.sub(safe).exp2_().mul_(made.totals).sum(1)
        total = (shares.double().log2() + safe[:, 0]) * _LN_2
        relative, absolute = largest_error(self._terms, self._rows.targets.shape[1])
        longest = self._squares.amax()
        products = beta * (relative * ((squares * longest).sqrt() + squares + longest) + absolute)
        rounding = products + _UNIT * (8 * (self._largest_bias + constant.abs()) + _SUMMED)
        excess = rounding[:, None].expand_as(logs).float().cpu()
        largest, total = ((bound + constant + rounding).cpu() for bound in (top.double() * _LN_2, total))
        return Found(start, chosen.int().cpu(), logs.float().cpu(), excess, largest, total)

    def _near(self, made: split.Strips) -> tuple[Tensor, Tensor, Tensor]:
        """Scores and columns (m, near) of the strips with the largest maxima, and the maxima (m, strips) of the others.

        -inf: nothing is there; the lowest number: a candidate without mass, or the target itself.
        """
        count = len(self._bias)
        firsts = made.first(torch.arange(made.maxima.shape[1], device=made.maxima.device))
        maxima = made.maxima.clamp(min=_LOWEST).masked_fill_(firsts >= count, -torch.inf)
        best = maxima.topk(self._nearest, dim=1, sorted=False).indices
        steps = torch.arange(made.size, device=best.device) * split.WIDTH
        columns = (firsts[best][:, :, None] + steps).flatten(1)
        assert made.scores is not None
        near = made.scores.gather(1, columns.clamp(max=count - 1)).clamp_(min=_LOWEST)
        near.masked_fill_(columns >= count, -torch.inf)
        return near, columns, made.maxima.scatter(1, best, -torch.inf)


__all__ = ["SplitSearch"]
