"""What no set of candidates is worth more than, of all affinities, which are computed a tile at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hopfield_replay.functional._engine.scores import exact_float32
from hopfield_replay.functional._projection import Projection
from hopfield_replay.functional._sparse_gains import SparseGains
from hopfield_replay.functional.affinity import StreamedAffinity
from hopfield_replay.functional.rows import pieces
from hopfield_replay.functional.sparse_affinity import SparseAffinity
from hopfield_replay.utilities.device import in_chunks_that_fit, widest, without_autocast

_TILE = 1 << 20  # affinities at a time: 4 MB, and as much again for what is made of them
_TARGETS = 1024  # of a tile
_SMALLEST, _LARGE = -60.0, 80.0  # logs: numbers too small for float32 cost ten times as much, e^80 is not too large
_UNIT = 2.0**-24  # relative rounding of float32
_SUM = 8.0  # a sum of n terms is off by more than so many times sqrt(n) roundings with a chance of 3e-14


@dataclass(frozen=True, eq=False)
class AskedBound:
    """For which objective a bound is asked, and at which point it is taken.

    Attributes:
        weights: (n,) float64, w_k >= 0 of each target.
        totals: (n,) float64, c_k >= 0: any give a bound, the logs log(1 + sum_S a_kr) of a good set S a good one.
        size: how many candidates a set has.
        factor: by which all masses are multiplied, > 0.
        held: the candidates of S where the totals are (not less than) its own logs: they add nothing more; else None.
    """

    weights: Tensor
    totals: Tensor
    size: int
    factor: float = 1.0
    held: Tensor | None = None


def upper_bounds(
    rows: StreamedAffinity, asked: Sequence[AskedBound], *, device: torch.device | None = None
) -> list[float]:
    r"""Bounds on the protected energy, in nats, of any set R of so many candidates; no affinity is left out.

    .. math:: \sum_k w_k \log\Big(1 + \sum_{r \in R} a_{kr}\Big) \le \sum_k w_k c_k
              + \text{the sum of the largest } \sum_k w_k \log(1 + a_{kr} e^{-c_k})

    as :func:`~hopfield_replay.functional.greedy_replay_gain` explains. One pass over all pairs, whose products are
    computed once for all that is asked, in memory that grows with neither number; what rounding can hide is added.

    Args:
        rows: the affinities.
        asked: what for.
        device: where they are computed; None: where the vectors are.

    Returns:
        One bound for each that is asked.

    Raises:
        MemoryError: not even those of one candidate fit on the device.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [5.0]])
        >>> rows = StreamedAffinity(x, x, 1.0, beta=1.0, masses=2.0)
        >>> one = torch.ones(3, dtype=torch.float64)
        >>> best = max(float(rows.log_rows(torch.tensor([r])).exp().log1p().sum()) for r in range(3))
        >>> round(best, 3), round(upper_bounds(rows, [AskedBound(one, 0 * one, 1)])[0], 3)
        (3.322, 3.322)

    Source: the bound of :func:`~hopfield_replay.functional.greedy_replay_gain`; Higham, Mary (2019), theorem 2.4, for
    the rounding.
    """
    place = rows.device if device is None else device
    columns = max(1, _TILE // _TARGETS)
    gains = in_chunks_that_fit(lambda size: _gains(rows, asked, place, size), columns, "The affinities do")[0]
    for one, some in zip(asked, gains, strict=True):
        if one.held is not None:
            some[one.held] = 0.0
    return [
        float(one.weights @ one.totals) + float(some.topk(min(one.size, len(some))).values.sum())
        for one, some in zip(asked, gains, strict=True)
    ]


def _gains(rows: StreamedAffinity, asked: Sequence[AskedBound], place: torch.device, columns: int) -> Tensor:
    """For each that is asked, no less than every candidate's gain at its point, (asked, C) float64 on the CPU."""
    n, count = rows.shape
    whole = Projection(rows.centre, None).to(place)
    gains = torch.zeros(len(asked), count, dtype=torch.float64)
    shifts = torch.stack([rows.log_inverse.cpu() + math.log(one.factor) - one.totals.cpu() for one in asked])
    weights = torch.stack([one.weights.cpu() for one in asked]).float().to(place)
    dimension = rows.targets.shape[1]
    for first, piece in pieces(rows.candidates, columns * dimension):
        near, _, squares = whole.apply(piece.to(place))
        bias = rows.log_masses[first : first + len(piece)].to(place, squares.dtype)
        if rows.similarity == "distance":
            bias = bias - 0.5 * rows.beta * squares
        reach = float(squares.max()) ** 0.5
        largest = float(bias.nan_to_num(neginf=0.0).abs().max())
        found = torch.zeros(len(asked), len(piece), dtype=widest(place), device=place)
        for start, some in pieces(rows.targets, _TARGETS * dimension):
            window = slice(start, start + len(some))
            x, _, own = whole.apply(some.to(place))
            with exact_float32(place), without_autocast(place):
                scores = torch.addmm(bias.float(), x.mul(rows.beta), near.T)
            moved = shifts[:, window].to(place, own.dtype)
            if rows.similarity == "distance":
                moved = moved - 0.5 * rows.beta * own
            products = rows.beta * _SUM * dimension**0.5 * (own.sqrt() * reach + own)
            moved = (moved + _UNIT * (products + 8 * (largest + moved.abs()) + 64)).float()
            top = scores.amax(1)
            room = torch.empty_like(scores)
            for number in range(len(asked)):
                torch.add(scores, moved[number, :, None], out=room)
                found[number] += (weights[number, window] @ _terms(room, top + moved[number])).to(found.dtype)
        gains[:, first : first + len(piece)] = found.cpu()
    sums = _UNIT * (_SUM * min(n, _TARGETS) ** 0.5 + 32)
    return gains.mul_(1 + sums).add_(4 * _UNIT * weights.cpu().double().sum(1)[:, None])


def _terms(logs: Tensor, top: Tensor) -> Tensor:
    """log(1 + exp(logs)), in their place, to 4 roundings of 1: log1p costs ten times as much."""
    if float(top.max()) > _LARGE:
        return softplus(logs, threshold=40.0)
    return logs.clamp_(min=_SMALLEST).exp_().add_(1.0).log_()


def tightened(affinity: SparseAffinity, weights: Tensor, picks: Tensor, steps: int) -> Tensor | None:
    """A point (n,) at which the bound on sets as large as ``picks`` is lower than at the logs of these themselves.

    As far as the kept affinities can tell; it makes a bound only in :func:`upper_bounds`.

    Args:
        affinity: what is kept.
        weights: (n,) float64 of the targets.
        picks: (k,) a good set.
        steps: subgradient steps, each for one evaluation of all that is kept.

    Returns:
        (n,) float64, >= 0; None where none is lower.

    Example:
        >>> x = torch.tensor([[0.0], [0.5], [5.0]])
        >>> sparse = SparseAffinity(StreamedAffinity(x, x, 4.0, beta=1.0, masses=2.0), 3)
        >>> one = torch.ones(3, dtype=torch.float64)
        >>> tightened(sparse, one, torch.tensor([0]), 10).round(decimals=2)  # the logs themselves: 4.7, 4.58, 0
        tensor([2.3500, 2.2300, 0.0000], dtype=torch.float64)
    """
    function = SparseGains(affinity, weights)
    for pick in picks.tolist():
        function.add(pick)
    totals, size = function.totals, len(picks)
    # float32 from here on: where to look for a bound, not the bound
    best = function.value + float(function.gains(totals).index_fill_(0, picks, 0.0).topk(size).values.sum())
    point = None
    for step in range(steps):
        top = function.gains(totals.float()).topk(size)
        worth = float(weights @ totals) + float(top.values.sum())
        if worth < best:
            best, point = worth, totals
        totals = (totals - 0.5 / math.sqrt(1 + step) * (1 - function.shares(top.indices, totals))).clamp_(min=0.0)
    return point


__all__ = ["AskedBound", "tightened", "upper_bounds"]
