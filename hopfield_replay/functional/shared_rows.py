"""Rows of which every process of torch.distributed holds some, and that travel when they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional.rows import Matrix, Part, Rows, View, picked
from hopfield_replay.utilities.distributed import gather_objects, gather_rows, raise_on_all_ranks, world


@dataclass(frozen=True, eq=False)
class SharedRows:
    """A part of :class:`~hopfield_replay.functional.rows.Rows` that is spread over the processes.

    All processes ask for the same rows at the same time, and each gets them from those that hold them.

    Attributes:
        own: (m, d), the rows that this process holds, on the CPU; m may be 0.
        owner: (n,) int64, the process that holds each row.
        local: (n,) int64, its place there.
    """

    own: Matrix
    owner: Tensor
    local: Tensor

    @classmethod
    def of(cls, own: Matrix, where: Tensor) -> "SharedRows":
        """Rows of all processes, in ascending order of their positions ``where`` (m,), which are different."""
        counts = gather_objects(len(where))
        order = gather_rows(where).argsort()
        owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        local = torch.cat([torch.arange(count) for count in counts])
        return cls(own, owner[order], local[order])

    @property
    def shape(self) -> torch.Size:
        """(n, d) of all of them."""
        return torch.Size((len(self.owner), self.own.shape[1]))

    @property
    def dtype(self) -> torch.dtype:
        """The rows'."""
        return self.own.dtype

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self.own.device

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        owner, local = self.owner[index], self.local[index]
        here = gather_rows(self.own[local[owner == world()[0]]])
        rows = torch.empty_like(here)
        rows[owner.argsort(stable=True)] = here  # they came process after process
        return rows

    def share(self) -> tuple[Tensor, Rows]:
        """Which of the rows this process holds (m,), ascending, and these rows, which are read without the others."""
        mine = (self.owner == world()[0]).nonzero().flatten()
        return mine, Rows(self.own).pick(self.local[mine])


def is_shared(matrix: Matrix | Part) -> bool:
    """Whether some rows of a matrix are spread over the processes."""
    if isinstance(matrix, Rows):
        return any(is_shared(part) for part in matrix.parts)
    return isinstance(matrix, SharedRows) or (isinstance(matrix, View) and is_shared(matrix.rows))


def share_of(matrix: Matrix) -> tuple[Tensor, Matrix]:
    """Places (m,), ascending, and rows of a matrix that this process is to look at; each has one process that does.

    What all processes hold is dealt out in turns.
    """
    if not isinstance(matrix, Rows):
        mine = _in_turns(len(matrix))
        return mine, matrix[mine]
    places, parts, start = [torch.arange(0)], list[Part](), 0
    for part in matrix.parts:
        mine, rows = _share_of_part(part)
        if len(mine):
            places.append(mine + start)
            parts += rows.parts
        start += len(part)
    none = torch.empty(0, matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    return torch.cat(places), Rows(*parts) if parts else none


def by_share(matrix: Matrix, which: Tensor, measure: Callable[[Matrix], Tensor]) -> Tensor:
    """What is measured of some rows of a shared matrix: each process measures those that it holds, and all get all.

    Args:
        matrix: (n, d), shared; all processes ask together.
        which: (m,) rows, ascending, the same on all of them.
        measure: rows (s, d) of this process, s >= 0, to one result (s, ...) for each; it must not ask others.

    Returns:
        (m, ...), on the device of what was measured.

    Raises:
        RuntimeError: one of the processes failed.
    """
    places, rows = share_of(matrix)
    at = torch.full((len(matrix),), -1).index_copy_(0, which, torch.arange(len(which)))[places]
    here = (at >= 0).nonzero().flatten()
    with raise_on_all_ranks("measuring its share"):
        mine = measure(picked(rows, here))
    return gather_rows(mine)[gather_rows(at[here]).argsort().to(mine.device)]


def _share_of_part(part: Part) -> tuple[Tensor, Rows]:
    if isinstance(part, SharedRows):
        return part.share()
    if not is_shared(part):
        mine = _in_turns(len(part))
        return mine, Rows(part).pick(mine)
    assert isinstance(part, View)  # the others are shared, or not
    mine, rows = share_of(part.rows)
    return part.share(mine, rows if isinstance(rows, Rows) else Rows(rows))


def _in_turns(count: int) -> Tensor:
    rank, size = world()
    return torch.arange(rank, count, size)


__all__ = ["SharedRows", "by_share", "is_shared", "share_of"]
