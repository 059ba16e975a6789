"""A projection of vectors under which their products are nearly, and within a known bound, what they were."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional.rows import Matrix
from hopfield_replay.utilities.device import widest

_SAMPLE = 4096  # rows that the directions are worked out from
_ROUNDING = 2.0**-16  # of |P x|^2, relative to |x|^2
_PASSES = 2  # of the subspace iteration
_SPARE = 16  # directions beside those that are wanted
_WIDTHS = (64, 128, 256, 512)
_LENIENT = 2.0
_ASKED, _NEAREST = 256, 16  # rows whose products with their nearest are compared


@dataclass(frozen=True, eq=False)
class Projection:
    r"""Orthonormal directions (d, q) around a centre.

    With x' = x - c, the part P x' in the directions and the length r(x) of the rest of it,

    .. math:: |\langle x', y' \rangle - \langle P x', P y' \rangle| \le r(x)\, r(y).

    Attributes:
        centre: (d,) float64.
        directions: (d, q) float32, the first ones with most of the variance; None: nothing is projected.
    """

    centre: Tensor
    directions: Tensor | None

    def apply(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projected rows (m, q) float32, lengths (m,) float32 of what is left, and |x'|^2 (m,) as wide as it goes."""
        dtype = torch.promote_types(rows.dtype, torch.float32)
        moved = rows.to(dtype).sub(self.centre.to(rows.device, dtype)).float()
        squares = _squares(moved)
        if self.directions is None:
            return moved, torch.zeros(len(moved), device=moved.device), squares
        projected = moved @ self.directions
        # not less than it is, though the directions are orthonormal, and their products exact, to float32 only
        rest = (squares - _squares(projected)).clamp_(min=0.0) + _ROUNDING * squares
        return projected, rest.sqrt_().float(), squares

    def to(self, device: torch.device) -> "Projection":
        """The same for rows on a device."""
        return Projection(self.centre, None if self.directions is None else self.directions.to(device))


def _squares(rows: Tensor) -> Tensor:
    """|x|^2 of each row, in float64 where the device has it."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=widest(rows.device))
    return norms.square_()


def fitted(matrix: Matrix, centre: Tensor, beta: float, error: float) -> Projection:
    """The narrowest projection under which beta times the products of near neighbours is off by ``error`` at most.

    Root mean square over a sample; where 512 directions do not come within twice of it, nothing is projected.

    Args:
        matrix: (n, d).
        centre: (d,) float64.
        beta: factor of the products.
        error: in nats, >= 0; 0: no projection.

    Source: Halko, Martinsson, Tropp (2011), randomized subspace iteration.
    """
    n, d = matrix.shape
    none = Projection(centre, None)
    widths = [width for width in _WIDTHS if 2 * width <= min(n, d)]
    if not widths or error <= 0:
        return none
    index = torch.linspace(0, n - 1, min(n, _SAMPLE), dtype=torch.float64).round().to(torch.int64)
    rows = none.apply(matrix[index])[0]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(d, min(widths[-1] + _SPARE, len(rows), d), generator=generator).to(rows.device)
    basis = torch.linalg.qr(start)[0]
    for _ in range(_PASSES):
        basis = torch.linalg.qr(rows.T @ (rows @ basis))[0]
    inside = rows @ basis
    turned = torch.linalg.eigh(inside.T @ inside)[1].flip(1)
    directions = basis @ turned
    asked = rows[:: max(1, len(rows) // _ASKED)]
    exact = asked @ rows.T
    half = 0.5 * rows.square().sum(1)
    near = (exact - half).topk(min(_NEAREST, len(rows)), dim=1).indices
    itself = torch.arange(0, len(rows), max(1, len(rows) // _ASKED), device=near.device)
    for width in widths:
        some = directions[:, :width].contiguous()
        off = ((asked @ some) @ (rows @ some).T - exact).gather(1, near).masked_fill(near == itself[:, None], 0.0)
        # the widest one is worth taking for less: the next is as wide as the vectors
        allowed = _LENIENT * error if width == widths[-1] else error
        if beta * float(off.square().mean().sqrt()) <= allowed:
            return Projection(centre, some)
    return none


__all__ = ["Projection", "fitted"]
