"""Vectors in float64, of which many passes are made: all at once where they are few, and else a piece at a time."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hopfield_replay.functional.rows import Matrix, column_means, pieces
from hopfield_replay.functional.shared_rows import is_shared, share_of
from hopfield_replay.utilities.checks import as_matrix, check_integer
from hopfield_replay.utilities.distributed import gather_rows

_HELD = 1 << 25  # numbers of vectors that stay in float64: 256 MB
_PIECE = 1 << 20  # numbers of a piece of more of them


class Points:
    """Vectors (n, d) of which k are to be picked.

    Where they are spread over processes, :meth:`each` has each process compute its share, and numbers travel.

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
        self._order: Tensor | None = None
        own: Matrix = matrix
        if is_shared(matrix):
            places, own = share_of(matrix)
            self._order = gather_rows(places).argsort()
        self._own = own
        self._held = own[:].to(torch.float64) if own.shape.numel() <= _HELD else None
        self.mean = column_means(own) if self._held is None else self._held.sum(0) / max(1, len(own))
        if self._order is not None:
            self.mean = gather_rows((self.mean * len(own))[None]).sum(0) / len(matrix)

    def __len__(self) -> int:
        return len(self._matrix)

    def __getitem__(self, index: int) -> Tensor:
        """Vector (d,) at a place."""
        if self._held is None or self._order is not None:
            return self._matrix[index : index + 1].to(torch.float64)[0]
        return self._held[index]

    def parts(self) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(place of the first, vectors)`` of all of them at once, or in pieces."""
        return self._parts(self._matrix, None if self._order is not None else self._held)

    @staticmethod
    def _parts(matrix: Matrix, held: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        if held is not None:
            yield 0, held
            return
        for start, piece in pieces(matrix, _PIECE):
            yield start, piece.to(torch.float64)

    def each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A number for each vector, (n,), of a function from some vectors (m, d) to (m,)."""
        none = torch.empty(0, dtype=torch.float64, device=self.device)
        found = torch.cat([none, *(function(part) for _, part in self._parts(self._own, self._held))])
        return found if self._order is None else gather_rows(found)[self._order]


__all__ = ["Points"]
