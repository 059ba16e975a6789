"""The nearest patterns of each query out of split products: strips by their largest score, exact within them."""

import math

import torch
from torch import Tensor

from hopfield_replay.functional._engine import split
from hopfield_replay.functional._engine.near_strips import by_tile
from hopfield_replay.functional._engine.scores import by_rows, squared_norms
from hopfield_replay.functional._engine.split_scores import Plan, SplitScores, largest_error
from hopfield_replay.functional.tiles import PatternTiles

_HELD = 1 << 24  # squared distances at a time: 128 MB
_LARGEST = 1e37  # half a squared norm that float32 products and their sums surely hold


class BestStrips:
    """The strips with the largest maxima of each query, best first, and where they begin.

    Whatever lies in no strip that is kept has at most the maximum of the last one that is.

    Attributes:
        maxima: (n, most) float32, -inf: there are not so many, or nothing in them counts.
        firsts: (n, most) int64, first column among all patterns; -1 for none.
    """

    def __init__(self, n: int, most: int, device: torch.device) -> None:
        self.maxima = torch.full((n, most), -torch.inf, device=device)
        self.firsts = torch.full((n, most), -1, dtype=torch.int64, device=device)

    def update(self, window: slice, found: split.Strips, start: int) -> None:
        """Take note of the strips of a block of queries whose first column is pattern ``start``."""
        most = self.maxima.shape[1]
        top, strip = found.maxima.topk(min(most, found.maxima.shape[1]), dim=1)
        maxima, order = torch.cat([self.maxima[window], top], 1).topk(most, dim=1)
        self.maxima[window] = maxima
        self.firsts[window] = torch.cat([self.firsts[window], found.first(strip) + start], 1).gather(1, order)


def nearest(
    x: Tensor, centre: Tensor, patterns: PatternTiles, k: int, most: int, exclude: Tensor | None
) -> tuple[Tensor, Tensor]:
    r"""Squared distances (n, k) float64 to the k nearest patterns, ascending, and whether (n,) these are the nearest.

    With :math:`|x - y|^2 / 2 = |x|^2 / 2 - u`, scores :math:`u = \langle x, y \rangle - |y|^2 / 2` are computed and
    not written: of every 16 of them the largest is. The k nearest lie in the k strips of 16 with the largest maxima,
    but for rounding. Those of ``most`` strips are computed again as differences in float64; where the k-th is nearer
    than anything outside can be, by the maximum of the last strip and a bound on the rounding, they are the nearest.

    Of a strip 8 bytes are written, where its scores would take 64 and have to be read again.

    Args:
        x: (n, d).
        centre: (d,), near the patterns.
        patterns: read twice.
        k: at least 1.
        most: strips that are computed again, > k.
        exclude: (n,) indices among all patterns, -1 for none; not looked at before the strips are computed again.

    Raises:
        KernelError: the kernel does not run here.
    """
    n, d = x.shape
    terms = split.terms_for(d, False)
    plan = Plan.of(x, terms, False, tiles=1)
    scores = SplitScores(x, centre, math.log(2), "distance", terms, plan, tiles=1)  # in units of squared distance
    best = BestStrips(n, most, x.device)
    largest = 0.0
    for tile in patterns.tiles(plan.columns):
        if not len(tile.patterns):
            continue
        parts, bias = scores.ready(tile)
        largest = max(largest, float(parts.squares.amax()))
        for number, window in enumerate(scores.blocks):
            found, _ = scores.of(number, parts, bias, None, False, False)
            best.update(window, found, tile.start)
        del parts
    squares = _squares(x, scores.rounded, patterns, best.firsts, k, exclude)
    norms = by_rows(lambda rows: squared_norms(rows.to(torch.float64) - scores.centre), x)
    relative, absolute = largest_error(terms, d)
    rounding = relative * ((norms * largest).sqrt() + largest) + absolute
    least = norms - 2 * (best.maxima[:, -1].to(torch.float64) + rounding)
    return squares, (squares[:, -1] <= least) & (norms + largest < _LARGEST)


def _squares(
    x: Tensor, centre: Tensor, patterns: PatternTiles, firsts: Tensor, k: int, exclude: Tensor | None
) -> Tensor:
    """The k smallest squared distances (n, k) float64 to the columns of strips (n, most); inf where there are fewer."""
    most, size = firsts.shape[1], split.COLUMNS // split.WIDTH
    result = x.new_full((len(x), k), torch.inf, dtype=torch.float64)
    step = max(1, _HELD // (most * size))
    for start in range(0, len(x), step):
        window = slice(start, start + step)
        given = (firsts[window].flatten() >= 0).nonzero().flatten()
        rows, some = given // most + start, firsts[window].flatten()[given]
        found = result.new_full((len(result[window]) * most, size), torch.inf)
        for which, tile, columns in by_tile(patterns, some, size):
            exact = split.exact(x, tile.patterns, centre, rows[which], some[which] - tile.start, size, dot=False)
            exact.masked_fill_(columns >= len(tile.patterns), torch.inf)
            if exclude is not None:
                exact.masked_fill_(columns + tile.start == exclude[rows[which], None], torch.inf)
            found[given[which]] = exact
        near = found.view(-1, most * size)
        result[window, : near.shape[1]] = near.topk(min(k, near.shape[1]), dim=1, largest=False).values
    return result
