"""Scores of queries under a tile of patterns out of split products, and how many are multiplied together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional._engine import split
from hopfield_replay.functional._engine.scores import LOG2_E, by_rows, squared_norms
from hopfield_replay.functional.tiles import Tile
from hopfield_replay.utilities.checks import Similarity

_QUERIES, _PATTERNS = 160 << 20, 224 << 20  # bytes of the parts of a block of queries and of a tile of patterns
_STRIPS = 64 << 20  # bytes of the maxima of a block's strips; their sums, and what is computed of both, take as much
_SCORES = 64 << 20  # bytes of a block of scores, where they are written
_RUN = 1024  # patterns that one product sums over, for the mean
_RELATIVE = {3: 4e-6, 4: 1e-6, 6: 1e-6}  # largest error of a product by its terms, relative to |x| |xi|
_UNIT = 2.0**-24
_PARTS = {3: 192.0, 4: 128.0, 6: 1.0}  # units that the parts which are not there, or not multiplied, may be worth
_CUT_OFF = 160.0  # units: of 64 products and the sums of 16 of them, each cut off at 2^-23 of the largest
_TINIEST = 2.0**-120  # of a product that is too small for float32, or of 64 such


def largest_error(terms: int, d: int) -> tuple[float, float]:
    """A bound on the error of a product of d numbers, (relative to |x| |xi|, absolute), whatever the numbers are.

    Source: tensor cores align 16 products and cut them off: Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of
    NVIDIA tensor cores" (2021); their sums are added with rounding every 32 or 64 coordinates.
    """
    depth = split.padded(d)
    return _UNIT * (_PARTS[terms] + _CUT_OFF + depth / 32 + 4), _TINIEST * depth


@dataclass(frozen=True)
class Plan:
    """How many queries and patterns are multiplied together: what is held stays below 512 MB."""

    rows: int
    columns: int

    @classmethod
    def of(cls, x: Tensor, terms: int, mean: bool, tiles: int | None = None) -> "Plan":
        """For queries (n, d); ``tiles`` as :func:`._split.tiles_for` if None."""
        n, d = max(1, len(x)), x.shape[1]
        one = 2 * split.parts_for(terms) * split.padded(d)
        span = split.COLUMNS * (split.tiles_for(d) if tiles is None else tiles)
        rows = max(span, (_QUERIES >> mean) // one)
        rows = -(-n // -(-n // rows))  # blocks of one size
        columns = min(_PATTERNS // one, _STRIPS // (4 * rows) * span // 8)
        if mean:
            columns = min(columns, _RUN, _SCORES // (4 * rows))
        return cls(rows, max(span, columns // span * span))


class SplitScores:
    """Scores u = log2(w) + beta log2(e) s(x, xi) - offset(x), block by block, as sums of strips."""

    def __init__(
        self,
        x: Tensor,
        centre: Tensor,
        beta: float,
        similarity: Similarity,
        terms: int,
        plan: Plan,
        tiles: int | None = None,
    ) -> None:
        self.x, self.similarity, self.terms, self.plan = x, similarity, terms, plan
        self.beta, self.scale = beta, beta * LOG2_E
        self.rounded = centre.float()  # once: queries and patterns are moved by the same vector
        self.centre = self.rounded.to(torch.float64)
        self.tiles = split.tiles_for(x.shape[1]) if tiles is None else tiles
        self.blocks = [slice(row, min(len(x), row + plan.rows)) for row in range(0, len(x), plan.rows)]
        self._kept = self._split(self.blocks[0]) if len(self.blocks) == 1 else None
        if similarity == "dot":
            self.offset = by_rows(lambda rows: rows.to(torch.float64) @ self.centre, x) * beta
        else:
            self.offset = by_rows(lambda rows: squared_norms(rows.to(torch.float64) - self.centre), x) * (-0.5 * beta)

    def _split(self, window: slice) -> split.Parts:
        return split.split(self.x[window], self.rounded, self.terms)

    def ready(self, tile: Tile) -> tuple[split.Parts, Tensor]:
        """Parts of a tile, and the bias (m,) float32 that no query changes."""
        parts = split.split(tile.patterns, self.rounded, self.terms)
        bias = (parts.squares * -0.5 if self.similarity == "distance" else parts.linear) * self.scale
        if tile.masses is not None:
            bias += tile.masses.log2()
        return parts, bias.float()

    def of(
        self, number: int, parts: split.Parts, bias: Tensor, own: Tensor | None, square: bool, scores: bool
    ) -> tuple[split.Strips, Tensor]:
        """Strips of one block, and the squared norms (rows,) of its queries."""
        queries = self._split(self.blocks[number]) if self._kept is None else self._kept
        found = split.strips(
            queries.parts, parts.parts, bias, self.scale, own, self.terms, self.tiles, square=square, scores=scores
        )
        return found, queries.squares

    def slack(self, queries: Tensor, patterns: Tensor) -> Tensor:
        """How many bits two scores may be wrong by together, for squared norms (rows,) of queries and of patterns."""
        return (queries * patterns.amax()).sqrt_() * (2 * self.scale * _RELATIVE[self.terms])

    def exact(self, tile: Tile, rows: Tensor, firsts: Tensor, size: int) -> Tensor:
        """Scores in float64, without masses, of queries and the strips of a tile that begin at ``firsts``."""
        dot = self.similarity == "dot"
        result = split.exact(self.x, tile.patterns, self.rounded, rows, firsts, size, dot=dot)
        return result.mul_(self.scale if dot else -0.5 * self.scale).sub_(
            0.0 if dot else (self.offset * LOG2_E)[rows, None]
        )
