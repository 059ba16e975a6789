"""Patterns that need not fit in memory, nor lie on one machine: they pass by in tiles."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from hopfield_replay.functional.rows import Matrix, Weighted
from hopfield_replay.utilities.checks import as_matrix, check_finite, check_masses, flatten
from hopfield_replay.utilities.device import where_float64_is

_SAMPLED_ROWS = 512  # any vector near the patterns serves as the centre; these rows give one
Batch = Tensor | tuple[Tensor, Tensor] | list[Tensor]


@dataclass(frozen=True)
class Tile:
    """Some consecutive patterns.

    Attributes:
        start: index of the first among all patterns.
        patterns: (m, d), as they are stored.
        masses: (m,) float64, or None for ones.
        refuse: raises if patterns are not finite; None if they are known to be.
    """

    start: int
    patterns: Tensor
    masses: Tensor | None
    refuse: Callable[[], None] | None = None


class PatternTiles:
    """Patterns that are read batch by batch, once for each pass, so that memory does not depend on their number.

    Every function of :mod:`hopfield_replay.functional` that takes ``patterns`` and sums over them takes an instance
    instead of a tensor. The first use reads all batches once, to check and to count them.

    Args:
        batches: the patterns as one tensor, (N, d) or (N, *shape), in memory or a memory-mapped file; or an iterable
            that can be read again and again (a list, a DataLoader without shuffling; not a generator) of tensors
            (m, *shape) or of pairs (tensor, masses (m,)).
        masses: (N,) weights >= 0 for ``batches`` given as one tensor; ones if None.
        group: a process group of ``torch.distributed`` over whose ranks the patterns are spread. Each rank passes its
            own share (possibly none) and the SAME queries, and all get the same result: one all_gather of the sums.
            Indices for leave-one-out count through the ranks in order.

    Raises:
        TypeError: ``batches`` can be read only once, or masses are given twice.
        ValueError: batches differ in dimension, or hold NaN or infinite values.

    Example:
        >>> import torch
        >>> from hopfield_replay.functional import energy
        >>> batches = [torch.eye(3)[:2], torch.eye(3)[2:]]
        >>> energy(torch.zeros(1, 3), PatternTiles(batches), beta=1.0)
        tensor([0.5000], dtype=torch.float64)
    """

    def __init__(
        self,
        batches: Tensor | Iterable[Batch],
        *,
        masses: Tensor | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.group = group
        self.masses: Tensor | None = None
        self._survey: _Survey | None = None
        self._unchecked = False
        if isinstance(batches, Tensor):
            self.resident: Tensor | None = as_matrix(batches, "patterns")
            self.masses = check_masses(masses, self.resident)
            return
        if masses is not None:
            raise TypeError("masses belong to a tensor of patterns; with an iterable pass pairs (patterns, masses).")
        if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
            raise TypeError(
                f"patterns must be a tensor or an iterable that can be read more than once, got "
                f"{type(batches).__name__}. Wrap a generator in a class whose __iter__ starts it anew."
            )
        self.resident = None
        self._batches = batches

    @classmethod
    def of_checked(cls, patterns: Tensor, masses: Tensor | None) -> "PatternTiles":
        """A resident (N, d) tensor and float64 masses that were checked before."""
        tiles = cls.__new__(cls)
        tiles.group, tiles.resident, tiles.masses, tiles._survey = None, patterns, masses, None
        tiles._unchecked = False
        return tiles

    @classmethod
    def of_unchecked(cls, patterns: Tensor, masses: Tensor | None) -> "PatternTiles":
        """A resident (N, d) tensor that may hold NaN: call :meth:`refuse`, or each tile's where it looks wrong."""
        tiles = cls.of_checked(patterns, masses)
        tiles._unchecked = True
        return tiles

    def refuse(self) -> None:
        """Refuse patterns with NaN or infinite values, unless they were checked before."""
        if self._unchecked and self.resident is not None:
            check_finite(self.resident, "patterns")
            self._unchecked = False

    @classmethod
    def of_rows(cls, patterns: Matrix, masses: Tensor | None = None) -> "PatternTiles":
        """Rows (N, d) that were checked before, wherever they are, and float64 masses (N,)."""
        if isinstance(patterns, Tensor):
            return cls.of_checked(patterns, masses)
        tiles = cls(patterns if masses is None else Weighted(patterns, masses))
        tiles._survey = _sample(patterns)
        return tiles

    def __len__(self) -> int:
        """Number of patterns on all ranks together."""
        return self._surveyed().count

    @property
    def first(self) -> int:
        """Index of this rank's first pattern among all."""
        return self._surveyed().first

    @property
    def dimension(self) -> int | None:
        """Dimension d of the patterns of this rank; None where it holds none."""
        return self._surveyed().dimension

    @property
    def device(self) -> torch.device | None:
        """Device of the patterns of this rank; None where it holds none."""
        return self._surveyed().device

    @property
    def dtype(self) -> torch.dtype | None:
        """Widest dtype of the patterns of this rank; None where it holds none."""
        return self._surveyed().dtype

    @property
    def centre(self) -> tuple[int, Tensor] | None:
        """Number of patterns that were averaged, and their mean (d,) float64; None where there are none."""
        return self._surveyed().centre

    @property
    def spread(self) -> float | None:
        """Mean squared distance of a sample of the patterns to their mean; None where nobody knows."""
        return self._surveyed().spread

    def tiles(self, rows: int) -> Iterator[Tile]:
        """This rank's patterns in tiles of at most ``rows``."""
        start, refuse = self.first, self.refuse if self._unchecked else None
        for patterns, masses in self._read():
            for row in range(0, len(patterns), rows):
                window = slice(row, row + rows)
                yield Tile(start + row, patterns[window], None if masses is None else masses[window], refuse)
            start += len(patterns)

    def _read(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        if self.resident is not None:
            yield self.resident, self.masses
            return
        for batch in self._batches:
            patterns, masses = (batch, None) if isinstance(batch, Tensor) else batch
            yield (
                flatten(patterns, "a batch of patterns"),
                None if masses is None else where_float64_is(masses).to(torch.float64),
            )

    def _surveyed(self) -> "_Survey":
        if self._survey is None:
            survey = _sample(self.resident) if self.resident is not None else _read_through(self._read())
            self._survey = survey if self.group is None else _among(survey, self.group)
        return self._survey


@dataclass(frozen=True)
class _Survey:
    count: int = 0
    first: int = 0
    dimension: int | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    centre: tuple[int, Tensor] | None = None
    spread: float | None = None


def _sample(patterns: Matrix) -> _Survey:
    count = len(patterns)
    sampled = patterns[:: max(1, -(-count // _SAMPLED_ROWS))]  # never all: they may not fit
    mean = sampled.mean(0, dtype=torch.promote_types(patterns.dtype, torch.float32))
    centre = (count, mean.to(torch.float64)) if count else None
    moved = (sampled - mean).detach()
    spread = float(torch.linalg.vector_norm(moved)) ** 2 / len(sampled) if count else None
    return _Survey(count, 0, patterns.shape[1], patterns.device, patterns.dtype, centre, spread)


def _read_through(batches: Iterator[tuple[Tensor, Tensor | None]]) -> _Survey:
    survey, total = _Survey(), None
    for patterns, masses in batches:
        as_matrix(patterns, f"the batch of patterns from row {survey.count} on")
        check_masses(masses, patterns)
        if survey.dimension not in (None, patterns.shape[1]):
            raise ValueError(f"batches of patterns differ in dimension: {survey.dimension} and {patterns.shape[1]}.")
        dtype = patterns.dtype if survey.dtype is None else torch.promote_types(survey.dtype, patterns.dtype)
        survey = _Survey(survey.count + len(patterns), 0, patterns.shape[1], patterns.device, dtype)
        part = patterns.sum(0, dtype=torch.float64)
        total = part if total is None else total + part
    if total is None or not survey.count:
        return survey
    centre = (survey.count, total / survey.count)
    return _Survey(survey.count, 0, survey.dimension, survey.device, survey.dtype, centre)


def _among(own: _Survey, group: dist.ProcessGroup) -> _Survey:
    """The number of patterns on all ranks, and where this rank's begin."""
    counts: list[int] = [0] * dist.get_world_size(group)
    dist.all_gather_object(counts, own.count, group=group)
    first = sum(counts[: dist.get_rank(group)])
    return _Survey(sum(counts), first, own.dimension, own.device, own.dtype, own.centre)


__all__ = ["PatternTiles", "Tile"]
