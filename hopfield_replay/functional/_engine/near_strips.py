"""The strips of scores that weigh much in a sum: found on the way, computed again in float64 from the vectors."""

from collections.abc import Iterator

import torch
from torch import Tensor

from hopfield_replay.functional._engine.logsumexp import Accumulator
from hopfield_replay.functional._engine.split import WIDTH, Strips
from hopfield_replay.functional._engine.split_scores import SplitScores
from hopfield_replay.functional.tiles import PatternTiles, Tile

_BITS = 6.0  # below the sum: scores with smaller shares, at least 64 of them, are left as they are
_MOST = 64  # strips of a query that are computed again
_NUMBERS = 1 << 22  # scores computed at a time; numbers of patterns gathered at a time, for the mean
_ROUNDING = 1e-6  # relative to the sum, of a sum of float32 numbers
_LARGE_TILE = 1 << 62  # nothing is copied: as large as they come


class NearStrips:
    """Strips whose largest score has at least 1/64 of the sum, or could have it but for rounding.

    Scores with smaller shares have errors that average out: of k such shares 1 / k the error is that of one score over
    sqrt(k). Those with larger ones decide the energy alone.
    """

    def __init__(self) -> None:
        self._size = 0
        self._rows: list[Tensor] = []
        self._firsts: list[Tensor] = []  # positions among all patterns
        self._tops: list[Tensor] = []
        self._totals: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._slack: dict[int, Tensor] = {}

    def update(self, sums: Accumulator, window: slice, strips: Strips, slack: Tensor, start: int) -> None:
        """Note the strips of a block that count so far; its first column is pattern ``start``.

        Args:
            sums: with this block's own.
            window: the block's queries.
            strips: of the block.
            slack: (rows,) float64, how many bits two scores may be wrong by together.
            start: see above.
        """
        known = self._slack.get(window.start)
        slack = slack if known is None else torch.maximum(slack, known)
        self._slack[window.start] = slack
        least = (sums.peak[window] + sums.total[window].log2() - _BITS - slack).nan_to_num_(nan=0.0).float()
        least.clamp_(min=sums.lowest)
        maxima = strips.maxima
        rows, strip = (maxima >= least[:, None]).nonzero(as_tuple=True)
        if len(rows) > _MOST * len(maxima) and maxima.shape[1] > _MOST:
            least = torch.maximum(least, maxima.topk(_MOST).values[:, -1].clamp(min=sums.lowest))
            rows, strip = (maxima >= least[:, None]).nonzero(as_tuple=True)
        if not len(rows):
            return
        first = strips.first(strip)
        self._size = strips.size
        self._rows.append(rows + window.start)
        self._firsts.append(first + start)
        self._tops.append(maxima[rows, strip])
        self._totals.append(strips.totals[rows, strip])
        if strips.squares is not None:
            self._squares.append(strips.squares[rows, strip])
        if strips.scores is not None:
            columns = first[:, None] + self._steps(first)
            there = columns.clamp(max=strips.scores.shape[1] - 1)
            scores = strips.scores[rows[:, None], there].masked_fill_(columns > there, -torch.inf)
            self._scores.append(scores)

    def _steps(self, like: Tensor) -> Tensor:
        return torch.arange(self._size, device=like.device) * WIDTH

    def _joined(self, sums: Accumulator) -> tuple[Tensor, ...]:
        """Rows, places among a row's own, first columns, tops, totals, squares and scores of what still counts."""
        rows, firsts, tops = (torch.cat(parts) for parts in (self._rows, self._firsts, self._tops))
        slack = torch.cat([self._slack[start] for start in sorted(self._slack)])
        least = sums.peak + sums.total.log2() - _BITS - slack
        counts = (tops >= least[rows]).nonzero().flatten()
        # by row, the largest first
        order = counts[tops[counts].argsort(descending=True)]
        order = order[rows[order].argsort(stable=True)]
        _, number, sizes = torch.unique_consecutive(rows[order], return_inverse=True, return_counts=True)
        place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[number]
        order, place = order[place < _MOST], place[place < _MOST]
        others = [torch.cat(parts)[order] if parts else rows.new_zeros(0) for parts in (self._squares, self._scores)]
        return rows[order], place, firsts[order], tops[order], torch.cat(self._totals)[order], *others

    def correct(self, sums: Accumulator, scores: SplitScores, patterns: PatternTiles, exclude: Tensor | None) -> None:
        """Put float64 scores in the place of the kernel's. Reads the patterns once more."""
        if not self._rows:
            return
        rows, place, firsts, tops, totals, squares, given = self._joined(sums)
        if not len(rows):
            return
        n, width = len(sums.total), int(place.max()) + 1
        before = sums.peak.to(torch.float64)
        old = (tops.to(torch.float64) - before[rows]).exp2_()
        rest = sums.total - _by_row(totals.to(torch.float64) * old, rows, place, n, width).sum(1)
        kept = rest > _ROUNDING * sums.total  # what is left is rounding where it is less
        high = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device)
        total, square = torch.zeros_like(high), torch.zeros_like(high)
        for which, _, exact in self._exact(scores, patterns, exclude, rows, firsts):
            high[which] = top = exact.amax(1)
            weights = exact.sub_(top.masked_fill(top == -torch.inf, 0.0)[:, None]).exp2_()
            total[which], square[which] = weights.sum(1), weights.square_().sum(1)
        peak = torch.where(kept, before, sums.lowest)
        peak = torch.maximum(peak, _by_row(high, rows, place, n, width, -torch.inf).amax(1))
        shrink = torch.where(kept, (before - peak).exp2_(), 0.0)
        share = (high - peak[rows]).exp2_()
        total, square = total * share, square * share.square()
        if sums.moment is not None:
            sums.moment = sums.moment.to(torch.float64).mul_(shrink[:, None])
            for which, tile, exact in self._exact(scores, patterns, exclude, rows, firsts):
                replaced = (given[which].to(torch.float64) - before[rows[which], None]).exp2_()
                change = exact.sub_(peak[rows[which], None]).exp2_().sub_(replaced.mul_(shrink[rows[which], None]))
                self._move(sums.moment, change, rows[which], firsts[which] - tile.start, tile, scores.centre)
        sums.total = rest.clamp_(min=0.0) * shrink + _by_row(total, rows, place, n, width).sum(1)
        if sums.square is not None:
            left = sums.square - _by_row(squares.to(torch.float64) * old.square(), rows, place, n, width).sum(1)
            sums.square = left.clamp_(min=0.0) * shrink.square() + _by_row(square, rows, place, n, width).sum(1)
        sums.peak = peak

    def _exact(
        self, scores: SplitScores, patterns: PatternTiles, exclude: Tensor | None, rows: Tensor, firsts: Tensor
    ) -> Iterator[tuple[Tensor, Tile, Tensor]]:
        """Some pairs (which of them), the tile they lie in, and their scores (p, size) in float64 with masses."""
        for which, tile, columns in by_tile(patterns, firsts, self._size):
            exact = scores.exact(tile, rows[which], firsts[which] - tile.start, self._size)
            there = columns.clamp(max=len(tile.patterns) - 1)
            if tile.masses is not None:
                exact += tile.masses.log2()[there]
            exact.masked_fill_(columns > there, -torch.inf)
            if exclude is not None:
                exact.masked_fill_(columns + tile.start == exclude[rows[which], None], -torch.inf)
            yield which, tile, exact

    def _move(self, moment: Tensor, change: Tensor, rows: Tensor, firsts: Tensor, tile: Tile, centre: Tensor) -> None:
        """Add the change of the weights (p, size) times the patterns to the queries' sums."""
        step = max(1, _NUMBERS // (self._size * max(1, moment.shape[1])))
        for pairs in torch.arange(len(rows), device=rows.device).split(step):
            columns = (firsts[pairs, None] + self._steps(firsts)).clamp_(max=len(tile.patterns) - 1)
            near = tile.patterns[columns].to(torch.float64).sub_(centre)
            moment.index_add_(0, rows[pairs], torch.bmm(change[pairs, None], near)[:, 0])


def by_tile(patterns: PatternTiles, firsts: Tensor, size: int) -> Iterator[tuple[Tensor, Tile, Tensor]]:
    """Which strips lie in which tile: places in ``firsts`` (p,), the tile, and the strips' columns in it, (p, size).

    Columns behind the tile's last are not there. Not more strips at a time than scores of them can be held.
    """
    order = firsts.argsort()
    sorted_firsts = firsts[order]
    steps = torch.arange(size, device=firsts.device) * WIDTH
    for tile in patterns.tiles(_LARGE_TILE):
        bounds = torch.tensor([tile.start, tile.start + len(tile.patterns)], device=order.device)
        begin, end = torch.searchsorted(sorted_firsts, bounds).tolist()
        if begin < end:
            for which in order[begin:end].split(max(1, _NUMBERS // size)):
                yield which, tile, firsts[which, None] - tile.start + steps


def _by_row(values: Tensor, rows: Tensor, place: Tensor, n: int, width: int, fill: float = 0.0) -> Tensor:
    """Values of pairs in a matrix (n, width): sums along it do not depend on the order in which threads add."""
    result = values.new_full((n, width), fill)
    result[rows, place] = values
    return result
