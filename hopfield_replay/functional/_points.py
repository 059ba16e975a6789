"""Vectors in float64, of which many passes are made: all at once where they are few, and else a piece at a time."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hopfield_replay.functional.rows import Matrix, column_means, pieces
from hopfield_replay.utilities.checks import as_matrix, check_integer

_HELD = 1 << 25  # numbers of vectors that stay in float64: 256 MB
_PIECE = 1 << 20  # numbers of a piece of more of them


class Points:
    """Vectors (n, d) of which k are to be picked.

    Args:
        vectors: floating, (n, d) or (n, *shape), or Rows.
        k: from 1 to n.

    Raises:
        ValueError, TypeError: k out of range, vectors that are no finite floating matrix.
    """

    def __init__(self, vectors: Matrix, k: int) -> None:
        matrix = as_matrix(vectors, "vectors") if isinstance(vectors, Tensor) else vectors
        check_integer(k, "k", 1, len(matrix), of="the number of vectors", wrong_type=TypeError)
        self._matrix, self.device, self.dimension = matrix, matrix.device, matrix.shape[1]
        self._held = matrix[:].to(torch.float64) if matrix.shape.numel() <= _HELD else None
        self.mean = column_means(matrix) if self._held is None else self._held.mean(0)

    def __len__(self) -> int:
        return len(self._matrix)

    def __getitem__(self, index: int) -> Tensor:
        """Vector (d,) at a place."""
        return self._matrix[index : index + 1].to(torch.float64)[0] if self._held is None else self._held[index]

    @property
    def held(self) -> bool:
        """Whether all of them are in memory."""
        return self._held is not None

    def parts(self) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(place of the first, vectors)`` of all of them at once, or in pieces."""
        if self._held is not None:
            yield 0, self._held
            return
        for start, piece in pieces(self._matrix, _PIECE):
            yield start, piece.to(torch.float64)

    def each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A number for each vector, (n,), of a function from some vectors (m, d) to (m,)."""
        return torch.cat([function(part) for _, part in self.parts()])


__all__ = ["Points"]
