"""The best scores of each query, found on the way in float32 and computed again in float64."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from hopfield_replay.functional._engine.logsumexp import Accumulator
from hopfield_replay.functional._engine.scores import STRIPS, Scores
from hopfield_replay.functional.tiles import PatternTiles

_NEGLIGIBLE_BITS = 10.0  # a pattern this far below the best one has a share of the sum that makes its error none
_ROUNDING = 1e-6  # relative to the sum, of a sum of float32 numbers
_NUMBERS, _CACHED = 1 << 18, 1 << 16  # gathered at a time; on the CPU: what stays in the cache
_LARGE_TILE = 1 << 62  # nothing is copied: as large as they come


class Strips(Protocol):
    """A block of scores, seen as strips of columns with a known maximum each."""

    maxima: Tensor
    """(rows, strips) largest score of each strip."""
    top: Tensor
    """(rows,) largest score of each row."""

    def scores(self, rows: Tensor, strips: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of some (row, strip) pairs, (p, width), and the columns they stand in."""


class StridedStrips:
    """Every 32nd column makes a strip, so that neighbours (often alike) lie in different ones and maxima vectorise."""

    def __init__(self, block: Tensor) -> None:
        self._strips = block.view(len(block), -1, STRIPS)
        self.maxima = self._strips.amax(1)
        self.top = self.maxima.amax(1)

    def scores(self, rows: Tensor, strips: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of some (row, strip) pairs, (p, width), and the columns they stand in."""
        steps = torch.arange(self._strips.shape[1], device=rows.device)
        return self._strips[rows, :, strips], steps * STRIPS + strips[:, None]


class Best:
    """The k largest scores of each query, (n, k), and where they are.

    The largest scores decide the energy at large beta, where an error of one score is not averaged out by others.
    """

    def __init__(self, scores: Scores, k: int) -> None:
        n, device = len(scores.x), scores.x.device
        self._scores = scores
        self.values = torch.full((n, k), -torch.inf, device=device)
        self.indices = torch.full((n, k), -1, dtype=torch.int64, device=device)

    def update(self, window: slice, strips: Strips, start: int) -> None:
        """Take note of the best scores of a block whose first column is pattern ``start``.

        Only strips whose maximum beats the k-th best so far are looked at.
        """
        values, indices = self.values[window], self.indices[window]
        k, maxima = values.shape[1], strips.maxima
        peak = torch.maximum(values[:, 0], strips.top)
        least = torch.maximum(values[:, -1], peak - _NEGLIGIBLE_BITS).clamp_(min=torch.finfo(values.dtype).min)
        rows, strip = (maxima >= least[:, None]).nonzero(as_tuple=True)
        if len(rows) > len(values) * k // 2:
            # early tiles: the k-th of the strips' maxima bounds the k-th of all scores from below
            least = torch.maximum(least, maxima.topk(min(k, maxima.shape[1])).values[:, -1])
            rows, strip = (maxima >= least[:, None]).nonzero(as_tuple=True)
        if len(rows):
            scores, columns = strips.scores(rows, strip)
            pair, step = (scores >= least[rows, None]).nonzero(as_tuple=True)
            self._insert(values, indices, rows[pair], scores[pair, step], start + columns[pair, step])

    def _insert(self, values: Tensor, indices: Tensor, rows: Tensor, scores: Tensor, columns: Tensor) -> None:
        """Merge candidates, sorted by row, of which a row may have any number."""
        touched, number, counts = torch.unique_consecutive(rows, return_inverse=True, return_counts=True)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[number]
        k, width = values.shape[1], int(counts.max())
        candidates = values.new_full((len(touched), k + width), -torch.inf)
        where = indices.new_full((len(touched), k + width), -1)
        candidates[:, :k], where[:, :k] = values[touched], indices[touched]
        candidates[number, k + place], where[number, k + place] = scores, columns
        kept = candidates.topk(k)
        values[touched] = kept.values
        indices[touched] = where.gather(1, kept.indices)

    def correct(self, sums: Accumulator, patterns: PatternTiles) -> None:
        """Put the float64 scores of the best in place of their float32 scores. Reads the patterns once more."""
        negligible = self.values < self.values[:, :1] - _NEGLIGIBLE_BITS
        self.values.masked_fill_(negligible, -torch.inf)
        self.indices.masked_fill_(negligible, -1)
        offset = self._scores.offset()
        exact = torch.full_like(self.values, -torch.inf, dtype=torch.float64)
        for rows, place, chosen, masses in self._chosen(patterns):
            exact[rows, place] = self._scores.exact(rows, chosen, offset) + (0.0 if masses is None else masses.log2())
        before = sums.peak.to(torch.float64)
        old = (self.values.to(torch.float64) - before[:, None]).exp2_()
        # what is left after the best is rounding where it is this small
        rest = sums.total - old.sum(1)
        kept = rest > _ROUNDING * sums.total
        peak = torch.maximum(exact.amax(1), torch.where(kept, before, sums.lowest))
        shrink = torch.where(kept, (before - peak).exp2_(), 0.0)
        new = (exact - peak[:, None]).exp2_()
        sums.total = rest * shrink + new.sum(1)
        if sums.square is not None:
            left = (sums.square - old.square().sum(1)).clamp_(min=0.0)
            sums.square = left * shrink.square() + new.square().sum(1)
        if sums.moment is not None:
            sums.moment = sums.moment.to(torch.float64).mul_(shrink[:, None])
            change = new - old * shrink[:, None]
            for rows, place, chosen, _ in self._chosen(patterns):
                near = chosen.to(torch.float64) - self._scores.centre
                sums.moment.index_add_(0, rows, near.mul_(change[rows, place, None]))
        sums.peak = peak

    def _chosen(self, patterns: PatternTiles) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """The best as (query, place among its best, pattern, mass), a bounded number at a time."""
        x = self._scores.x
        pairs = max(1, (_CACHED if x.device.type == "cpu" else _NUMBERS) // max(1, x.shape[1]))
        order = self.indices.flatten().argsort()
        sorted_indices = self.indices.flatten()[order]
        k = self.indices.shape[1]
        for tile in patterns.tiles(_LARGE_TILE):
            bounds = torch.tensor([tile.start, tile.start + len(tile.patterns)], device=order.device)
            first, last = torch.searchsorted(sorted_indices, bounds).tolist()
            for begin in range(first, last, pairs):
                window = slice(begin, min(begin + pairs, last))
                pairs_here = order[window]
                columns = sorted_indices[window] - tile.start
                rows, place = pairs_here // k, pairs_here % k
                masses = None if tile.masses is None else tile.masses[columns]
                yield rows, place, tile.patterns.index_select(0, columns), masses
