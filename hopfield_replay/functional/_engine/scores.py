"""Scores of queries under a tile of patterns, in units of bits and around a common centre."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hopfield_replay.functional._engine import onednn
from hopfield_replay.functional.tiles import Tile
from hopfield_replay.utilities.checks import Similarity

Product = Literal["float64", "float32", "tf32", "bfloat16"]

LOG2_E = 1 / math.log(2)  # scores are kept in base 2: exp2 costs a quarter of exp on the CPU
_PIECE = 1 << 16
_WIDE, _RUN = 512, 256  # dimensions from which on squares are summed in float32, and how many together
_SMALLEST, _LARGEST = 1e-15, 1e15  # norms whose squares float32 holds
_KEPT = 1 << 25  # numbers of queries that are kept as they are multiplied
STRIPS = 32  # columns of a tile of scores come in multiples of this, for maxima of strips


@dataclass(frozen=True)
class TileShape:
    """How many queries and patterns are multiplied together."""

    rows: int
    columns: int

    @classmethod
    def of(cls, x: Tensor) -> "TileShape":
        """Tiles for which the product is fast while scores stay in the cache (measured, see tests/benchmarks)."""
        n, d = x.shape
        if x.device.type == "cpu":
            rows, columns, elements = 256 if d > 256 else 512, 2048, 1 << 22
        else:
            rows, columns, elements = 4096, 8192, 1 << 26  # 128 MB of scores, up to 256 MB of patterns
        columns = min(columns, max(columns // 2, elements // max(d, 1)))
        return cls(min(rows, max(n, 1)), columns // STRIPS * STRIPS)


@contextmanager
def exact_float32(device: torch.device, exact: bool = True) -> Iterator[None]:
    """On a GPU multiply float32 as such (or as tf32), whatever the process has set; put its setting back."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # from torch 2.9 on; who has set it may no longer ask in the older way
        setting = matmul.fp32_precision
        matmul.fp32_precision = "ieee" if exact else "tf32"
        try:
            yield
        finally:
            matmul.fp32_precision = setting
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if exact else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def coarse_float32(device: torch.device) -> Iterator[None]:
    """Multiply float32 on a CPU with units for bfloat16, if it has them, in a quarter of the time.

    The operands are rounded to 8 bits, their products summed in float32. Elsewhere as :func:`exact_float32`.
    """
    if device.type != "cpu":
        with exact_float32(device):
            yield
        return
    if hasattr(torch.backends.mkldnn, "matmul"):  # from torch 2.9 on
        setting, matmul = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.mkldnn.matmul
        matmul.fp32_precision = "bf16"
        try:
            yield
        finally:
            matmul.fp32_precision = setting
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def pieces(points: Tensor) -> tuple[Tensor, ...]:
    """Points (m, d), some rows at a time: what they are converted to stays in the cache."""
    elements = _PIECE if points.device.type == "cpu" else 1 << 26
    return tuple(points.split(max(1, elements // max(1, points.shape[1]))))


def by_rows(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """One float64 number for each row of points (m, d)."""
    return torch.cat([points.new_zeros(0, dtype=torch.float64), *map(function, pieces(points))])


def squared_norms(points: Tensor) -> Tensor:
    """|x|^2 of each row of points (m, d), float64."""
    norms: Tensor = torch.linalg.vector_norm(points, dim=1, dtype=torch.float64)
    return norms.square_()


def block_norms(points: Tensor) -> Tensor:
    """|x|^2 of each row of float32 points (m, d), float64, in half the time of :func:`squared_norms`.

    Up to 256 squares are summed in float32, and these sums in float64: in many dimensions their errors average out to
    one rounding of the whole to float32, a tenth of a product's error. On a CPU; elsewhere, where squares are too
    small or too large for float32, and in few dimensions, as :func:`squared_norms`.
    """
    d = points.shape[1]
    if points.dtype != torch.float32 or d < _WIDE or points.device.type != "cpu":
        return by_rows(squared_norms, points)
    width = d // -(-d // _RUN) if d % -(-d // _RUN) == 0 else _RUN
    whole = d // width * width
    norms = torch.linalg.vector_norm(points[:, :whole].unflatten(1, (-1, width)), dim=2)
    if not bool(((norms < _LARGEST) & ((norms > _SMALLEST) | (norms == 0))).all()):
        return by_rows(squared_norms, points)
    squares: Tensor = norms.to(torch.float64).square_().sum(1)
    return squares + squared_norms(points[:, whole:]) if whole < d else squares


def reach(x: Tensor, centre: Tensor, beta: float) -> float:
    """Largest beta |x - c|^2 of points x (n, d) and a float64 centre (d,)."""
    if not len(x):
        return 0.0
    return beta * float(by_rows(lambda rows: squared_norms(rows.to(torch.float64) - centre), x).amax())


@dataclass(frozen=True)
class ReadyTile:
    """Centred patterns (m, d), the same as oneDNN wants them, and the bias (m,) that no query changes."""

    source: Tile
    centred: Tensor
    bias: Tensor
    converted: Tensor | None = None

    @property
    def width(self) -> int:
        """Number of patterns."""
        return len(self.centred)


class Scores:
    r"""Scores u = log2(w) + beta log2(e) s(x, xi) - offset(x) of all queries, block by block.

    With x' = x - c and xi' = xi - c for one centre c, what depends on both is a product of small vectors:
    -|x - xi|^2 / 2 = <x', xi'> - |xi'|^2 / 2 - |x'|^2 / 2 and <x, xi> = <x', xi'> + <c, xi'> + <x, c>. The last terms
    are the offset, added in float64 at the end; the middle ones, with the masses, are a bias computed in float64.
    """

    def __init__(
        self,
        x: Tensor,
        centre: Tensor,
        beta: float,
        similarity: Similarity,
        product: Product,
        shape: TileShape,
        *,
        accurate: bool = True,
    ) -> None:
        self.x, self.similarity, self.product = x, similarity, product
        self.beta, self.scale = beta, beta * LOG2_E
        self.dtype = torch.float64 if product == "float64" else torch.float32
        self.smallest = math.log2(torch.finfo(self.dtype).smallest_normal)
        self.negligible = -200.0 if product == "float64" else -60.0  # in a sum, whose products with vectors are normal
        # rounded queries are multiplied as they are, the others after scaling, which saves a pass over the products
        self.rounded = product in ("tf32", "bfloat16")
        # the centre is rounded once: queries and patterns of any dtype are moved by the same vector
        self.centre = centre.to(self.dtype).to(torch.float64)
        self._uncentred = not self.rounded and not bool(self.centre.any())
        n, d = x.shape
        self._onednn = product == "float32" and x.device.type == "cpu" and onednn.chosen(d, accurate, queries=n)
        # oneDNN keeps two more copies of a tile
        columns = max(1, shape.columns // (2 * STRIPS)) * STRIPS if self._onednn else shape.columns
        self.shape = TileShape(shape.rows, columns)
        self.blocks = [slice(row, min(n, row + shape.rows)) for row in range(0, n, shape.rows)]
        # as large as a tile of patterns, or 128 MB: otherwise each block is made anew for each tile
        self._kept = [self._block(window) for window in self.blocks] if n * d <= max(shape.columns * d, _KEPT) else None
        self._scores = torch.empty(shape.rows * columns, dtype=self.dtype, device=x.device)
        self._tile = torch.empty(0, dtype=self.dtype, device=x.device)

    def _block(self, window: slice) -> Tensor:
        moved = self._rounded(self._moved(self.x[window]))
        return moved if self.rounded else moved.mul_(self.scale)

    def _moved(self, points: Tensor, out: Tensor | None = None) -> Tensor:
        """Centred points, subtracted in the wider of their dtype and ours."""
        dtype = torch.promote_types(points.dtype, self.dtype)
        out = torch.empty_like(points, dtype=self.dtype) if out is None else out
        moved: Tensor = torch.sub(points.to(dtype), self.centre.to(dtype), out=out)
        return moved

    def _rounded(self, moved: Tensor) -> Tensor:
        """Centred points as they are multiplied; overwrites them."""
        if self.product == "bfloat16":
            return moved.bfloat16()
        if self.product == "tf32":
            # to 10 bits of mantissa, as the hardware would: the norms below must be those of the rounded vectors
            moved.view(torch.int32).add_(1 << 12).bitwise_and_(-1 << 13)
        return moved

    def ready(self, tile: Tile, masses: bool = True) -> ReadyTile:
        """Centre a tile and compute its bias, with log2 of the masses or (``masses=False``) without."""
        width = len(tile.patterns)
        if self._uncentred and tile.patterns.dtype == self.dtype:
            return self._ready(tile, tile.patterns, self._bias_of(tile.patterns), masses)
        if self._tile.shape[0] < width:
            self._tile = torch.empty_like(tile.patterns, dtype=self.dtype)
        moved, biases, distance = [], [], self.similarity == "distance"
        for rows, out in zip(pieces(tile.patterns), pieces(self._tile[:width]), strict=True):
            piece = self._moved(rows, out)  # still in the cache when its bias is computed
            if not distance:  # before rounding, which errs the more the farther away the centre is
                biases.append(self._bias_of(piece))
            piece = self._rounded(piece)
            if distance:
                biases.append(self._bias_of(piece))
            moved.append(piece)
        centred = torch.cat(moved) if self.product == "bfloat16" else self._tile[:width]
        return self._ready(tile, centred, torch.cat(biases), masses)

    def _bias_of(self, centred: Tensor) -> Tensor:
        """What of a score no query changes, in units of it, (m,) float64."""
        if self.similarity == "dot" and self._uncentred:
            return centred.new_zeros(len(centred), dtype=torch.float64)
        if self.similarity == "dot":
            return centred.to(torch.float64) @ self.centre
        return block_norms(centred).mul_(-0.5)

    def _ready(self, tile: Tile, centred: Tensor, bias: Tensor, masses: bool) -> ReadyTile:
        bias = bias.mul_(self.scale)
        if not bool(torch.isfinite(bias.sum().to(self.dtype))):
            self._refuse(tile)
        if masses and tile.masses is not None:
            bias += tile.masses.log2()
        return ReadyTile(tile, centred, bias.to(self.dtype), centred.to_mkldnn() if self._onednn else None)

    def _refuse(self, tile: Tile) -> None:
        """Patterns that are not finite; or so far away that no query sees them, unless queries are as far."""
        if tile.refuse is not None:
            tile.refuse()
        if reach(self.x, self.centre, self.beta) > torch.finfo(self.dtype).max:
            raise ValueError(
                f"squares of x and of the patterns, times beta={self.beta:g}, are beyond {self.dtype}: the largest "
                f"number of x is {self.x.abs().max().item():g}. Remove such samples, or scale the data."
            )

    def block(self, number: int, tile: ReadyTile) -> Tensor:
        """Scores (rows, columns) of one block of queries; columns after the tile's patterns are -inf.

        The result is overwritten by the next call.
        """
        columns = -(-tile.width // STRIPS) * STRIPS
        rows = self.blocks[number].stop - self.blocks[number].start
        scores = self._scores[: rows * columns].view(rows, columns)
        if self.rounded:
            products = self.products(number, tile, scores[:, : tile.width])
            torch.add(tile.bias, products, alpha=self.scale, out=scores[:, : tile.width])
        elif tile.converted is not None:
            onednn.linear(self._queries(number), tile.converted, tile.bias, scores[:, : tile.width])
        else:
            with exact_float32(self.x.device):
                torch.addmm(tile.bias, self._queries(number), tile.centred.T, out=scores[:, : tile.width])
        scores[:, tile.width :] = -torch.inf
        return scores

    def products(self, number: int, tile: ReadyTile, out: Tensor | None = None) -> Tensor:
        """Products (rows, width) of one block with a tile, without bias, to be multiplied by :attr:`factor`."""
        queries = self._queries(number)
        if self.product == "bfloat16":
            return torch.mm(queries, tile.centred.T, out_dtype=torch.float32)
        with exact_float32(self.x.device, self.product != "tf32"):
            if out is None:
                out = self._scores[: len(queries) * tile.width].view(len(queries), tile.width)
            product: Tensor = torch.mm(queries, tile.centred.T, out=out)
            return product

    @property
    def factor(self) -> float:
        """What :meth:`products` are multiplied by to become scores."""
        return self.scale if self.rounded else 1.0

    def _queries(self, number: int) -> Tensor:
        return self._block(self.blocks[number]) if self._kept is None else self._kept[number]

    def offset(self) -> Tensor:
        """What all scores of a query have in common, (n,) float64, as a natural logarithm."""
        if self.similarity == "dot":
            return by_rows(lambda rows: rows.to(torch.float64) @ self.centre, self.x) * self.beta
        # of the rounded vector, if rounded: then the error of a score shrinks with the distance, and is 0 at a pattern
        return by_rows(lambda rows: squared_norms(self._near(rows)), self.x) * (-0.5 * self.beta)

    def _near(self, rows: Tensor) -> Tensor:
        return self._rounded(self._moved(rows)) if self.rounded else rows.to(torch.float64) - self.centre

    def exact(self, rows: Tensor, patterns: Tensor, offset: Tensor) -> Tensor:
        """Scores, in float64 and without masses, of pairs: queries ``rows`` (p,) and ``patterns`` (p, d)."""
        queries = self.x.index_select(0, rows)
        if self.similarity == "distance":
            # rounding of the differences is relative to them: nothing cancels in the sum of their squares
            dtype = torch.promote_types(torch.promote_types(queries.dtype, patterns.dtype), self.dtype)
            square = block_norms(queries.to(dtype).sub_(patterns.to(dtype)))
            return square.mul_(-0.5 * self.scale).sub_(offset[rows], alpha=LOG2_E)
        return self.scale * (queries.to(torch.float64) * (patterns.to(torch.float64) - self.centre)).sum(1)
