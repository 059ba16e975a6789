"""VectorStore: the vectors of a task of any length, in bounded memory."""

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hopfield_replay.functional.rows import Matrix, Rows
from hopfield_replay.utilities.checks import check_integer

MEMORY = 1 << 30  # bytes that a task takes beside the buffer, unless told otherwise
HELD = 16  # vectors stay in memory up to this part of it
_CHUNK = 1 << 26  # bytes that are put into a file at a time

_CACHED = 1 << 18  # numbers that are converted at a time

_Coder = Callable[[Tensor], Tensor]
# how images of 256 levels become floats: as they are, by ToTensor, that and Normalize(0.5, 0.5), and in one step
_LEVELS: tuple[tuple[_Coder, float, float], ...] = (
    (lambda levels: levels, 1.0, 0.0),
    (lambda levels: levels.div_(255), 255.0, 0.0),
    (lambda levels: levels.div_(255).sub_(0.5).div_(0.5), 127.5, 127.5),
    (lambda levels: levels.div_(127.5).sub_(1), 127.5, 127.5),
)


@dataclass(frozen=True, eq=False)
class _Stored:
    """Rows (m, d) in fewer bytes than they take as float32, and how they, as float32, become the same numbers again."""

    kept: Tensor
    decode: _Coder

    @property
    def shape(self) -> torch.Size:
        return self.kept.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return self.kept.device

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        kept = self.kept[index]
        vectors = torch.empty(kept.shape)
        for part in _parts(kept):
            self.decode(vectors[part].copy_(kept[part]))  # in place, and still in the cache
        return vectors


class VectorStore:
    """Takes vectors a batch at a time, and keeps them in memory while they are few and else in temporary files.

    The files are mapped, so that their pages are the system's to drop, and have no name: whatever ends the process,
    they are gone with it. Numbers that are exact in 16 bits, and images of 256 levels on one of the usual scales, are
    stored as such: what is read is what was put.

    Args:
        memory: bytes that the task may take, >= 1 MiB; up to a sixteenth of it vectors stay in memory.
        folder: where the files are made; None: the system's folder for temporary files (``TMPDIR``).

    Raises:
        ValueError: ``memory`` below 1 MiB.

    Example:
        >>> store = VectorStore()
        >>> store.add(torch.ones(2, 3))
        >>> store.add(torch.zeros(1, 3))
        >>> store.rows()
        tensor([[1., 1., 1.],
                [1., 1., 1.],
                [0., 0., 0.]])
    """

    def __init__(self, memory: int = MEMORY, folder: str | os.PathLike[str] | None = None) -> None:
        self.memory = check_memory(memory)
        self._folder = Path(tempfile.gettempdir() if folder is None else folder)
        self._few: list[Tensor] = []  # while they stay in memory
        self._bytes = 0  # of all vectors so far
        self._buffer: Tensor | None = None  # of those that go into the next file; one for all, or the heap would split
        self._waiting = 0
        self._chunks: list[_Stored | Tensor] = []
        self._unfiled = 0  # bytes of chunks for which no file could be made

    def add(self, vectors: Tensor) -> None:
        """Put the next rows (m, d), floating.

        Raises:
            OSError: no file can be made, or the disk is full, and the vectors are more than half of the memory.
            ValueError: one batch is more than the memory.
        """
        if vectors.nbytes > self.memory:
            raise ValueError(
                f"memory={self.memory} bytes is less than the {vectors.nbytes} bytes of one batch of vectors "
                f"{tuple(vectors.shape)}; raise memory=, or read smaller batches."
            )
        rows = vectors.detach().cpu()
        self._bytes += rows.nbytes
        if self._buffer is None:
            self._few.append(rows)
            if self._bytes <= self.memory // HELD or not len(rows):
                return
            count = min(_CHUNK, self.memory // 8) // rows[0].nbytes
            self._buffer = rows.new_empty(max(1, count), rows.shape[1])
            few, self._few = self._few, []
        else:
            few = [rows]
        for part in few:
            self._file(part)

    def rows(self) -> Matrix:
        """All rows (n, d) in the order they came: a tensor where they are in memory.

        Raises:
            OSError: as :meth:`add`.
            ValueError: nothing was put.
        """
        if self._buffer is None:
            if not self._few:
                raise ValueError("The store is empty: add vectors first.")
            self._few = [torch.cat(self._few)]
            return self._few[0]
        if self._waiting:
            self._chunks.append(self._filed(self._buffer[: self._waiting]))
            self._waiting = 0
        return Rows(*self._chunks)

    def _file(self, rows: Tensor) -> None:
        assert self._buffer is not None
        while len(rows):
            now = rows[: len(self._buffer) - self._waiting]
            self._buffer[self._waiting : self._waiting + len(now)] = now
            self._waiting, rows = self._waiting + len(now), rows[len(now) :]
            if self._waiting == len(self._buffer):
                self._chunks.append(self._filed(self._buffer))
                self._waiting = 0

    def _filed(self, rows: Tensor) -> _Stored | Tensor:
        dtype, encode, decode = _compact(rows)
        size = rows.numel() * dtype.itemsize
        try:
            place = _mapped(self._folder, rows.shape, dtype)
        except OSError as error:
            self._unfiled += rows.nbytes
            if self._unfiled <= self.memory // 2:
                return rows.clone()
            filed = sum(len(chunk) for chunk in self._chunks)
            raise OSError(
                error.errno,
                f"{filed + len(rows)} vectors of {rows.shape[1]} numbers or more need room in {self._folder}, and "
                f"{size / 2**20:.0f} MiB could not be had there ({error.strerror}). Let TMPDIR name a folder "
                f"with more room, raise memory= (now {self.memory / 2**20:.0f} MiB), or give an encoder= of fewer "
                "numbers.",
            ) from error
        for part in _parts(rows):
            place[part] = encode(rows[part])
        return place if decode is None else _Stored(place, decode)


def _parts(rows: Tensor) -> Iterator[slice]:
    """Some rows at a time: what is made of them stays in the cache."""
    step = max(1, _CACHED // max(1, rows.shape[1]))
    return (slice(start, start + step) for start in range(0, len(rows), step))


def _mapped(folder: Path, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A matrix in a mapped file without a name."""
    size = shape.numel() * dtype.itemsize
    with tempfile.TemporaryFile(dir=folder) as file:
        _allocate(file.fileno(), size)
        mapped = mmap.mmap(file.fileno(), size)
    return torch.frombuffer(mapped, dtype=dtype).view(shape)


def check_memory(memory: int) -> int:
    """Return a number of bytes >= 1 MiB.

    Raises:
        ValueError: less, or no whole number.
    """
    return check_integer(memory, "memory (bytes)", 1 << 20)


def _allocate(file: int, size: int) -> None:
    """Room for the whole file now: a write into a hole of a full disk would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        for start in range(0, size, 1 << 20):
            os.write(file, bytes(min(1 << 20, size - start)))


def _compact(rows: Tensor) -> tuple[torch.dtype, _Coder, _Coder | None]:
    """How the rows are held exactly in as few bytes as that takes, and read again; None: as they are."""
    if rows.dtype == torch.float32:
        few = rows[:: max(1, len(rows) // 8)]
        for decode, scale, shift in _LEVELS:
            encode = partial(_levels, scale=scale, shift=shift)
            if _same(few, encode, decode) and all(_same(rows[part], encode, decode) for part in _parts(rows)):
                return torch.uint8, encode, decode
        if all(_same(rows[part], Tensor.half, _nothing) for part in _parts(rows)):
            return torch.float16, Tensor.half, _nothing
    return rows.dtype, lambda rows: rows, None


def _levels(rows: Tensor, scale: float, shift: float) -> Tensor:
    return rows.mul(scale).add_(shift).round_().clamp_(0, 255).to(torch.uint8)


def _same(rows: Tensor, encode: _Coder, decode: _Coder) -> bool:
    return torch.equal(decode(encode(rows).float()), rows)


def _nothing(rows: Tensor) -> Tensor:
    return rows


__all__ = ["HELD", "MEMORY", "VectorStore", "check_memory"]
