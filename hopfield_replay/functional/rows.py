"""Rows: the vectors of many samples, which lie where there is room and are read a piece at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hopfield_replay.utilities.device import room_on

_NUMBERS = 1 << 22  # of a piece: 16 MB in float32


class Part(Protocol):
    """Some rows (m, d): a tensor, in memory or a mapped file, or anything else that gives its rows as a tensor."""

    @property
    def shape(self) -> torch.Size: ...  # noqa: D102
    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __getitem__(self, index: Tensor | slice) -> Tensor: ...


class Rows:
    """A matrix (n, d) in parts that are never put together.

    Args:
        parts: matrices of one dimension, dtype and device, at least one.

    Raises:
        ValueError: no parts, or parts that do not fit together.

    Example:
        >>> rows = Rows(torch.eye(2), torch.zeros(3, 2))
        >>> rows.shape, rows[torch.tensor([4, 1])], rows[1:3]
        (torch.Size([5, 2]), tensor([[0., 0.],
                [0., 1.]]), tensor([[0., 1.],
                [0., 0.]]))
    """

    def __init__(self, *parts: Part) -> None:
        if not parts:
            raise ValueError("Rows need at least one part.")
        forms = {(part.shape[1], part.dtype, part.device) for part in parts if len(part.shape) == 2}
        if len(forms) != 1 or any(len(part.shape) != 2 for part in parts):
            told = [f"{tuple(part.shape)} {part.dtype} on {part.device}" for part in parts]
            raise ValueError(f"parts must be matrices of one dimension, dtype and device, got {', '.join(told)}.")
        self.parts = parts
        ((self._dimension, self.dtype, self.device),) = forms
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    @property
    def shape(self) -> torch.Size:
        """(n, d)."""
        return torch.Size((len(self), self._dimension))

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step == 1:
                return self._between(first, last)
            index = torch.arange(first, last, step)
        index = index.cpu().contiguous()
        if len(self.parts) == 1:
            return self.parts[0][index]
        which = torch.searchsorted(self._ends, index, right=True)
        rows = torch.empty(len(index), self._dimension, dtype=self.dtype, device=self.device)
        for number, (part, end) in enumerate(zip(self.parts, self._ends.tolist(), strict=True)):
            here = (which == number).nonzero().flatten()
            if len(here):
                rows[here] = part[index[here] - (end - len(part))]
        return rows

    def _between(self, first: int, last: int) -> Tensor:
        """Consecutive rows."""
        found, start = [], 0
        for part in self.parts:
            if start < last and first < start + len(part):
                found.append(part[max(0, first - start) : last - start])
            start += len(part)
        if not found:
            return torch.empty(0, self._dimension, dtype=self.dtype, device=self.device)
        return found[0] if len(found) == 1 else torch.cat(found)

    def pick(self, index: Tensor) -> "Rows":
        """The rows (m,) at these positions, which are read when they are asked for; nothing is copied."""
        return Rows(_Picked(self, index.cpu()))

    def __iter__(self) -> Iterator[Tensor]:
        """The rows in pieces of bounded size, as :class:`~hopfield_replay.functional.PatternTiles` reads them."""
        return (piece for _, piece in pieces(self))


@dataclass(frozen=True, eq=False)
class View:
    """Rows that are made of others when they are asked for."""

    rows: Rows

    @property
    def shape(self) -> torch.Size:
        """(n, d)."""
        return torch.Size((len(self), self.rows.shape[1]))

    @property
    def dtype(self) -> torch.dtype:
        """That of the others."""
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        """That of the others."""
        return self.rows.device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        raise NotImplementedError

    def share(self, places: Tensor, rows: Rows) -> tuple[Tensor, Rows]:
        """What one process looks at, if of the others it is ``rows``, which stand at ``places`` (m,), ascending."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class _Picked(View):
    """Some rows of others."""

    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self.rows[self.index[index]]

    def share(self, places: Tensor, rows: Rows) -> tuple[Tensor, Rows]:
        """The share of these of which that of the others is ``rows`` at ``places``."""
        at = _where(self.index, places, len(self.rows))
        mine = (at >= 0).nonzero().flatten()
        return mine, rows.pick(at[mine])


Matrix = Tensor | Rows


def picked(matrix: Matrix, index: Tensor) -> Matrix:
    """The rows (m,) at these positions: a copy of a tensor's, and of others where they are."""
    return matrix[index] if isinstance(matrix, Tensor) else matrix.pick(index)


def pieces(matrix: Matrix, numbers: int = _NUMBERS) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(index of the first row, rows)`` of consecutive pieces of at most ``numbers`` numbers each.

    Args:
        matrix: (n, d).
        numbers: in a piece; a row that is larger is a piece of its own.

    Example:
        >>> [(start, len(piece)) for start, piece in pieces(torch.zeros(5, 2), numbers=4)]
        [(0, 2), (2, 2), (4, 1)]
    """
    step = max(1, numbers // max(1, matrix.shape[1]))
    start = 0
    for part in matrix.parts if isinstance(matrix, Rows) else (matrix,):
        for first in range(0, len(part), step):
            piece = part[first : first + step]
            yield start + first, piece
        start += len(part)


def joined(first: Matrix, second: Matrix) -> Matrix:
    """The rows of both; two tensors make a tensor, all else is left where it is."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second.to(first.dtype)])
    parts = [part for matrix in (first, second) for part in (matrix.parts if isinstance(matrix, Rows) else (matrix,))]
    return Rows(*(part.to(first.dtype) if isinstance(part, Tensor) else part for part in parts if len(part)))


class Weighted:
    """Rows and their masses, in pieces, as :class:`~hopfield_replay.functional.PatternTiles` reads them.

    Args:
        matrix: (n, d).
        masses: (n,).
    """

    def __init__(self, matrix: Matrix, masses: Tensor) -> None:
        self._matrix, self._masses = matrix, masses

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((piece, self._masses[start : start + len(piece)]) for start, piece in pieces(self._matrix))


def replaced(matrix: Matrix, index: Tensor, rows: Tensor) -> Matrix:
    """A matrix in which the rows (m,) at these positions are others; nothing else of it is copied where it is in parts.

    Example:
        >>> replaced(Rows(torch.zeros(2, 1), torch.zeros(1, 1)), torch.tensor([2, 0]), torch.tensor([[5.0], [7.0]]))[:]
        tensor([[7.],
                [0.],
                [5.]])
    """
    rows = rows.to(matrix.dtype)
    if isinstance(matrix, Tensor):
        return matrix.index_copy(0, index, rows)
    order = index.argsort()
    return Rows(_Patched(matrix, index[order], rows[order])) if len(index) else matrix


@dataclass(frozen=True, eq=False)
class _Patched(View):
    """Rows of which some are others."""

    places: Tensor  # ascending
    others: Tensor

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        index = torch.arange(*index.indices(len(self))) if isinstance(index, slice) else index.cpu()
        rows = self.rows[index]
        at = torch.searchsorted(self.places, index).clamp_(max=len(self.places) - 1)
        here = self.places[at] == index
        rows[here] = self.others[at[here]]
        return rows

    def share(self, places: Tensor, rows: Rows) -> tuple[Tensor, Rows]:
        """As that of the others, with those that take their place."""
        at = _where(self.places, places, len(self.rows))
        here = (at >= 0).nonzero().flatten()
        changed = replaced(rows, at[here], self.others[here])
        return places, changed if isinstance(changed, Rows) else Rows(changed)


_SHARE = 4  # of a device's free memory: so much of it may be taken by the rows of a task


def placed(matrix: Matrix, device: torch.device, *, spread: bool = False) -> Matrix:
    """The rows on a device: all of them where it has room for them, and else each piece as it is read.

    Args:
        matrix: (n, d).
        device: which.
        spread: leave rows in parts where they are, whatever room there is.

    Example:
        >>> placed(torch.zeros(2, 1), torch.device("cpu")).device
        device(type='cpu')
    """
    if matrix.device == device:
        return matrix
    if not isinstance(matrix, Tensor) and spread:
        return Rows(_Placed(matrix, device))
    if isinstance(matrix, Tensor):
        try:
            return matrix.to(device)
        except torch.OutOfMemoryError:
            return Rows(_Placed(Rows(matrix), device))
    if matrix.shape.numel() * matrix.dtype.itemsize > room_on(device) // _SHARE:
        return Rows(_Placed(matrix, device))
    whole = torch.empty(matrix.shape, dtype=matrix.dtype, device=device)
    for start, piece in pieces(matrix):
        whole[start : start + len(piece)] = piece.to(device)
    return whole


@dataclass(frozen=True, eq=False)
class _Placed(View):
    """Rows that come to a device when they are asked for."""

    place: torch.device

    @property
    def device(self) -> torch.device:
        return self.place

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self.rows[index].to(self.place)

    def share(self, places: Tensor, rows: Rows) -> tuple[Tensor, Rows]:
        """That of the others, on the device."""
        return places, Rows(_Placed(rows, self.place))


def _where(index: Tensor, places: Tensor, count: int) -> Tensor:
    """At which of the places (m,) each index is, -1 for none."""
    return torch.full((count,), -1).index_copy_(0, places, torch.arange(len(places)))[index]


def column_means(matrix: Matrix) -> Tensor:
    """Mean of the rows, (d,) float64."""
    total = torch.zeros(matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for _, piece in pieces(matrix):
        total += piece.sum(0, dtype=torch.float64)
    return total / max(1, len(matrix))


def half_squares(matrix: Matrix) -> Tensor:
    """|x|^2 / 2 of each row, (n,) float64."""
    return torch.cat([0.5 * piece.to(torch.float64).square().sum(1) for _, piece in pieces(matrix)])


def sample_mean(matrix: Matrix, most: int = 512) -> Tensor:
    """Mean of at most ``most`` rows spread over all of them, (d,) float64: near them, to subtract before products."""
    return matrix[:: max(1, -(-len(matrix) // most))].mean(0, dtype=torch.float64)


__all__ = [
    "Matrix",
    "Part",
    "Rows",
    "View",
    "Weighted",
    "column_means",
    "half_squares",
    "joined",
    "picked",
    "pieces",
    "placed",
    "replaced",
    "sample_mean",
]
