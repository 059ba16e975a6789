"""Sparse affinities: the largest of each target, and a bound on all that was dropped."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from hopfield_replay.functional._affinity_search import Found, Search
from hopfield_replay.functional._engine import split
from hopfield_replay.functional._projection import Projection, fitted
from hopfield_replay.functional._split_search import SplitSearch
from hopfield_replay.functional.affinity import StreamedAffinity
from hopfield_replay.functional.shared_rows import is_shared
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.device import in_chunks_that_fit
from hopfield_replay.utilities.distributed import gather_objects

_EXACT = 10**11  # multiplications that are done as they are, in float32
_ENTRIES = 1 << 22  # put in the order of the candidates at a time


@dataclass(frozen=True, eq=False)
class Dropped:
    """Bounds on what is not in a sparse affinity.

    Attributes:
        largest: (n,) float64, log of a bound on each affinity of a target that was dropped; -inf: none was.
        total: (n,) float64, log of a bound on the sum of them.
        excess: (entries,) float32, how much the log of a kept affinity may lie above what is stored.
    """

    largest: Tensor
    total: Tensor
    excess: Tensor


class SparseAffinity:
    r"""The ``keep`` largest affinities of each target, candidate by candidate; all others count as none.

    Where beta is such that a few patterns share a sample, the k kept samples protect a target through the one or two
    nearest of them: of C candidates little more than the C / k nearest ones of a target matter, and a few times as many
    choose as the whole matrix does. In high dimensions the products are computed of projections of the vectors on their
    first principal directions, wide enough for an error of ``error`` nats near by; the largest error that this can make
    is known, and enters the bounds.

    Args:
        rows: the affinities.
        keep: how many of each target, >= 1; all of them where there are fewer candidates.
        own: (n,) int64, the candidate that each target is, -1 for none: its affinity to itself is taken as it is.
        error: root mean square error of the log affinities of near neighbours that a projection may make, >= 0; 0: none
            is made. On the CPU; elsewhere products are exact (to float32, on a GPU that can from bfloat16 parts).
        bounds: also bound what is dropped, for the certificate of the selection.
        device: where products are computed; None: where the vectors are.

    Attributes:
        kept: how many of each target.
        starts: (C + 1,) int64, where the entries of each candidate begin.
        targets: (entries,) int32, target of each entry.
        logs: (entries,) float32, log of its affinity.
        dropped: bounds on the rest; None without ``bounds``.

    Raises:
        ValueError: ``keep`` or ``error`` out of range.
        MemoryError: not even those of one target fit on the device.

    Example:
        >>> import torch
        >>> from hopfield_replay.functional import far_task_energy
        >>> x = torch.tensor([[0.0], [1.0], [5.0], [5.5]])
        >>> rows = StreamedAffinity(x, x, far_task_energy(x), beta=1.0, masses=0.1)
        >>> sparse = SparseAffinity(rows, 2)
        >>> sparse.starts.tolist(), sparse.targets.tolist()
        ([0, 2, 4, 6, 8], [0, 1, 0, 1, 2, 3, 2, 3])

    Source: Lindgren, Wu, Dimakis, "Leveraging sparsity for efficient submodular data summarization" (2016), for
    facility location.
    """

    def __init__(
        self,
        rows: StreamedAffinity,
        keep: int,
        *,
        own: Tensor | None = None,
        error: float = 0.3,
        bounds: bool = False,
        device: torch.device | None = None,
    ) -> None:
        check_integer(keep, "keep", 1)
        if not error >= 0:
            raise ValueError(f"error must be a number of nats >= 0, got {error}.")
        self.rows = rows
        self.shape = rows.shape
        self.device = rows.device
        n, count = self.shape
        place = rows.device if device is None else device
        small = n * count * rows.targets.shape[1] <= _EXACT
        keep, found = min(keep, count), None
        shared = is_shared(rows.targets) or is_shared(rows.candidates)

        def searched(search: Callable[[int], Search | SplitSearch], most: int) -> tuple[Tensor, ...]:
            def collected(step: int) -> tuple[Tensor, ...]:
                return _collected(search(step).found(), n, keep, bounds)

            return in_chunks_that_fit(collected, most, "The affinities do", together=shared)[0]

        by_parts = not small and split.available(place)
        if not small and (all(gather_objects(by_parts)) if shared else by_parts):
            try:
                found = searched(partial(SplitSearch, rows, keep, own, bounds, place), SplitSearch.most(count, keep))
            except split.KernelError as failed:
                split.give_up(place, failed)
        if found is None:
            exact = small or place.type != "cpu" or not error
            projection = (
                Projection(rows.centre, None) if exact else fitted(rows.candidates, rows.centre, rows.beta, error)
            )
            found = searched(partial(Search, rows, projection, keep, own, bounds, place), Search.most(count, keep))
        chosen, logs, excess, largest, total = found
        del found
        self.kept = keep
        self.starts, self.targets, order = _by_candidate(chosen, count)
        del chosen
        self.logs = _gathered(logs, order)
        self.dropped = Dropped(largest, total, _gathered(excess, order)) if bounds else None

    def __mul__(self, factor: float) -> "SparseAffinity":
        """The affinities with every mass multiplied by a factor > 0, as a matrix would be."""
        scaled, more = copy.copy(self), math.log(factor)
        scaled.rows, scaled.logs = self.rows * factor, self.logs + more
        if self.dropped is not None:
            scaled.dropped = replace(self.dropped, largest=self.dropped.largest + more, total=self.dropped.total + more)
        return scaled

    def distances(self) -> Tensor:
        """Distance of each entry, (entries,) float32, where all new energies are 0 and all masses 1."""
        return self.logs.mul(-2.0 / self.rows.beta).clamp_(min=0.0).sqrt_()

    def log_totals(self) -> Tensor:
        """Log of what is kept of each target's affinity to all candidates, (n,) float64."""
        peak = torch.full((self.shape[0],), -torch.inf).scatter_reduce_(0, self.targets.long(), self.logs, "amax")
        shares = (self.logs - peak[self.targets]).double().exp_()
        totals = torch.zeros(len(peak), dtype=torch.float64).index_add_(0, self.targets, shares)
        return totals.log_() + peak


def _collected(search: Iterator[Found], n: int, keep: int, bounds: bool) -> tuple[Tensor, ...]:
    """What was found of n targets: candidates (n, keep), logs (n, keep), their excess, and the bounds (n,)."""
    chosen = torch.empty(n, keep, dtype=torch.int32)
    logs, excess = torch.empty(n, keep), torch.empty(n, keep if bounds else 0)
    largest, total = (torch.full((n if bounds else 0,), -torch.inf, dtype=torch.float64) for _ in range(2))
    for some in search:
        window = slice(some.start, some.start + len(some.chosen))
        chosen[window], logs[window], excess[window] = some.chosen, some.logs, some.excess
        largest[window], total[window] = some.largest, some.total
    return chosen, logs, excess, largest, total


def _by_candidate(chosen: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates (n, keep) of each target in the order of the candidates: where each begins, targets, and the order."""
    n, keep = chosen.shape
    step = max(1, _ENTRIES // keep)
    blocks = chosen.split(step)
    counts = torch.zeros(count, dtype=torch.int64)
    for block in blocks:
        counts += torch.bincount(block.flatten(), minlength=count)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    free = starts[:-1].clone()
    targets = torch.empty(n * keep, dtype=torch.int32)
    order = torch.empty(n * keep, dtype=torch.int32 if n * keep < 1 << 31 else torch.int64)
    for number, block in enumerate(blocks):
        candidates, by = block.flatten().sort(stable=True)
        here = torch.bincount(candidates, minlength=count)
        rank = torch.arange(len(by)) - (here.cumsum(0) - here)[candidates]
        place = free[candidates] + rank
        free += here
        by += number * step * keep
        targets[place] = torch.div(by, keep, rounding_mode="floor").to(torch.int32)
        order[place] = by.to(order.dtype)
    return starts, targets, order


def _gathered(values: Tensor, order: Tensor) -> Tensor:
    """Values (n, keep) in another order, (n keep,)."""
    return values.flatten()[order] if values.numel() else values.flatten()


__all__ = ["Dropped", "SparseAffinity"]
