"""One read of a block of products on a GPU: scale, bias, leave-one-out and the sums of each strip of columns."""

import torch
from torch import Tensor

try:  # comes with torch for CUDA; without it plain torch operations do the same
    import triton
    import triton.language as tl
except ImportError:
    triton = None

AVAILABLE = triton is not None  # torch for Windows comes without it
STRIP = 128  # columns that share one maximum and one sum
_ROWS = 32


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def sums_of_strips(  # type: ignore[no-untyped-def]
        products,
        bias,
        own,
        maxima,
        totals,
        rows,
        columns,
        strips,
        scale,
        LEAVE_OUT: tl.constexpr,
        ROWS: tl.constexpr,
        STRIP: tl.constexpr,
    ):
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        strip = tl.program_id(1)
        column = strip * STRIP + tl.arange(0, STRIP)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        place = row.to(tl.int64)[:, None] * columns + column[None, :]
        product = tl.load(products + place, mask=inside, other=0.0)
        constant = tl.load(bias + column, mask=column < columns, other=float("-inf"))
        score = product * scale + constant[None, :]
        if LEAVE_OUT:
            left_out = tl.load(own + row, mask=row < rows, other=-1)
            score = tl.where(column[None, :] == left_out[:, None], float("-inf"), score)
        top = tl.max(score, axis=1)
        safe = tl.where(top == float("-inf"), 0.0, top)
        total = tl.sum(tl.exp2(score - safe[:, None]), axis=1)
        out = row.to(tl.int64) * strips + strip
        tl.store(maxima + out, top, mask=row < rows)
        tl.store(totals + out, total, mask=row < rows)


def strip_sums(products: Tensor, bias: Tensor, scale: float, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Maximum m of u = scale * product + bias and sum of 2^(u - m) over each strip of 128 columns.

    Args:
        products: (rows, columns) float32, contiguous.
        bias: (columns,) float32.
        scale: factor of the products.
        own: (rows,) column that does not count for a row, -1 for none.

    Returns:
        Two (rows, strips) float32 tensors; -inf and 0 where nothing counts.
    """
    rows, columns = products.shape
    strips = -(-columns // STRIP)
    maxima = products.new_empty(rows, strips)
    totals = torch.empty_like(maxima)
    with torch.cuda.device_of(products):  # Triton launches on the process's current GPU, wherever the numbers are
        sums_of_strips[(-(-rows // _ROWS), strips)](
            products,
            bias,
            products if own is None else own,  # not read without leave-one-out
            maxima,
            totals,
            rows,
            columns,
            strips,
            scale,
            LEAVE_OUT=own is not None,
            ROWS=_ROWS,
            STRIP=STRIP,
        )
    return maxima, totals


class FusedStrips:
    """Strips of 128 neighbouring columns of a block of products; see :class:`._rescore.Strips`."""

    def __init__(self, products: Tensor, bias: Tensor, scale: float, own: Tensor | None) -> None:
        self._products, self._bias, self._scale, self._own = products, bias, scale, own
        self.maxima, self._totals = strip_sums(products, bias, scale, own)
        self.top = self.maxima.amax(1)

    def total(self, peak: Tensor) -> Tensor:
        """Sum of 2^(u - peak) of each row, (rows,) float64, for a peak (rows,) that is finite."""
        return self._totals.mul((self.maxima - peak[:, None]).exp2_()).sum(1, dtype=torch.float64)

    def scores(self, rows: Tensor, strips: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of some (row, strip) pairs, (p, 128), and the columns they stand in."""
        columns = strips[:, None] * STRIP + torch.arange(STRIP, device=strips.device)
        there = columns.clamp(max=self._products.shape[1] - 1)
        scores = self._products[rows[:, None], there] * self._scale + self._bias[there]
        scores.masked_fill_(columns > there, -torch.inf)
        if self._own is not None:
            scores.masked_fill_(columns == self._own[rows, None], -torch.inf)
        return scores, columns
