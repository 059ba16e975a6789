"""What a loader's sampler draws: which positions of the data set, how often, and whether that is certain."""

import copy
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_origin

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
)

from hopfield_replay.utilities.distributed import gather_objects, gather_rows, raise_on_all_ranks, world
from hopfield_replay.utilities.random_states import OwnRandomness

_ENDLESS = 10  # a sampler without a length that draws more than so many times the data set's length has no end


@dataclass(frozen=True, eq=False)
class Positions:
    """The positions that a loader draws from.

    Attributes:
        values: (n,) int64, distinct and ascending.
        masses: (n,) float64, how often each is drawn, relative to the others; None: equally often.
        certain: every one of them is drawn in every epoch. Otherwise which ones are is known only from the batches.
        share: of the positions that an epoch draws, in (0, 1]; 0.0: it draws with replacement.
        guessed: not even which positions may be drawn is known; those of the whole data set stand here.
        without_limit: (N,) int64, what could be drawn without a limit, where that is more.
    """

    values: Tensor
    masses: Tensor | None = None
    certain: bool = True
    share: float = 1.0
    guessed: bool = False
    without_limit: Tensor | None = None

    @property
    def every(self) -> Tensor:
        """(N,) int64, what could be drawn without a limit."""
        return self.values if self.without_limit is None else self.without_limit

    def missed(self, draws: float) -> float:
        """How many positions are expected never to be drawn, after so many draws.

        Example:
            >>> Positions(torch.arange(100), certain=False, share=0.9).missed(180)  # two epochs that leave out a tenth
            1.0
        """
        count = len(self.values)
        if self.certain:
            return 0.0
        if self.share:
            return float(round(count * (1.0 - self.share) ** (draws / (self.share * count)), 9))
        masses = torch.ones(count, dtype=torch.float64) if self.masses is None else self.masses
        return float(torch.exp(-draws * masses / masses.sum()).sum())


def loader_positions(loader: Any, limit: int | None = None) -> Positions | None:
    """What a loader draws from; under torch.distributed what the loaders of all processes draw together.

    Its sampler is asked twice, as a copy and with other random numbers: what differs between two epochs is not certain.

    Args:
        loader: of any kind.
        limit: only the first ``limit`` batches of an epoch are used.

    Returns:
        None for loaders whose batches are not made of positions of a data set: iterable data sets, whole batches as
        items of the data set, keys that are no indices.

    Raises:
        ValueError: a sampler that fails, fewer batches than ``len(loader)``, positions that the data set does not have.

    Example:
        >>> from torch.utils.data import SubsetRandomSampler, TensorDataset
        >>> data = TensorDataset(torch.arange(9.0)[:, None])
        >>> found = loader_positions(DataLoader(data, 2, sampler=SubsetRandomSampler([7, 3, 5])))
        >>> found.values, found.certain
        (tensor([3, 5, 7]), True)
        >>> loader_positions(DataLoader(data, 2, sampler=WeightedRandomSampler([0.0, 1.0, 3.0], 5))).masses
        tensor([1., 3.], dtype=torch.float64)
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if limit == 0:
        return Positions(torch.arange(0))
    with raise_on_all_ranks("listing what the sampler draws"):
        passes = _two_passes(loader)
    if not all(gather_objects(passes is not None)):
        return None
    assert passes is not None
    first, second = passes
    weighted = _with_replacement(loader)
    if all(gather_objects(weighted is not None)):
        return weighted
    ordered = all(gather_objects(first.indices == second.indices and first.ends == second.ends))
    if ordered and limit is not None and limit < max(gather_objects(len(first.ends))):
        every = gather_rows(torch.tensor(first.indices, dtype=torch.int64)).unique()
        first = second = first.cut(limit)
        limit = None
    else:
        every = None
    wholes = [gather_rows(torch.tensor(one.indices, dtype=torch.int64)) for one in (first, second)]
    (positions, counts), (others, other_counts) = (whole.unique(return_counts=True) for whole in wholes)
    if not torch.equal(positions, others):  # another part in each epoch
        support, guessed = _support(loader)
        if support is None:
            return None
        return Positions(support, None, False, len(positions) / max(1, len(support)), guessed)
    if limit is not None and any(gather_objects(limit < len(first.ends))):
        part = sum(gather_objects(len(first.cut(limit).indices))) / max(1, len(positions))
        return Positions(positions, None, False, min(1.0, part))
    repeated = bool((counts != counts[:1]).any()) and torch.equal(counts, other_counts)
    # a distributed sampler repeats samples only to give every process as many
    if repeated and world()[1] == 1 and not isinstance(_inner(loader), DistributedSampler):
        return Positions(positions, counts.to(torch.float64), without_limit=every)
    return Positions(positions, without_limit=every)


@dataclass(frozen=True)
class _Pass:
    """The indices of one epoch, and where in them each batch ends."""

    indices: list[int]
    ends: list[int]

    def cut(self, batches: int) -> "_Pass":
        ends = self.ends[:batches]
        return _Pass(self.indices[: ends[-1] if ends else 0], ends)


def _inner(loader: DataLoader[Any]) -> Any:
    """The sampler of single positions, where there is one."""
    return getattr(_batch_sampler(loader), "sampler", None) or loader.sampler


def _batch_sampler(loader: DataLoader[Any]) -> Any:
    """What makes the batches, inside of wrappers that leave some out (Accelerate's shards and skipped batches)."""
    sampler: Any = loader.batch_sampler
    while isinstance(inner := getattr(sampler, "batch_sampler", None), BatchSampler):
        sampler = inner
    return sampler


def _two_passes(loader: DataLoader[Any]) -> tuple[_Pass, _Pass] | None:
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    length, size = _length(loader), _length(loader.dataset)
    own = _copy(sampler, loader.dataset)
    passes: list[_Pass] = []
    for number in range(2):
        if number:
            _next_epoch(own)
        try:
            with OwnRandomness(number):
                listed = _list(own, length, None if size is None else _ENDLESS * size)
        except Exception as error:
            raise ValueError(
                f"The loader's {type(sampler).__name__} failed when it was asked for an epoch's positions "
                f"({type(error).__name__}: {error}). Repair it: training would fail on it, too."
            ) from error
        if listed is None:
            return None
        if length is not None and len(listed.ends) < length:
            raise ValueError(
                f"len() of the {type(loader).__name__} says {length} batches, but its {type(sampler).__name__} yields "
                f"{len(listed.ends)}; give the sampler the right __len__."
            )
        wrong = [i for i in listed.indices if i < 0 or (size is not None and i >= size)]
        if wrong:
            raise ValueError(
                f"The loader's {type(sampler).__name__} draws the position {wrong[0]}, but the "
                f"{type(loader.dataset).__name__} holds {size} samples, at the positions from 0 to {(size or 0) - 1}."
            )
        passes.append(listed)
    return passes[0], passes[1]


def _list(sampler: Iterable[Any], batches: int | None, most: int | None) -> _Pass | None:
    """One epoch; None if it does not consist of lists of whole numbers."""
    indices: list[int] = []
    ends: list[int] = []
    for batch in sampler:
        if len(ends) == batches or (most is not None and batches is None and len(indices) >= most):
            break
        if not isinstance(batch, Tensor | list | tuple) or (isinstance(batch, Tensor) and batch.ndim != 1):
            return None
        try:
            indices.extend(map(operator.index, batch))
        except TypeError:
            return None
        ends.append(len(indices))
    return _Pass(indices, ends)


def _with_replacement(loader: DataLoader[Any]) -> Positions | None:
    """What torch's own samplers draw from, where they draw with replacement; None for all others."""
    sampler = _inner(loader)
    if type(_batch_sampler(loader)) is not BatchSampler:
        return None
    if isinstance(sampler, WeightedRandomSampler) and sampler.replacement:
        weights = torch.as_tensor(sampler.weights, dtype=torch.float64)
        positions = weights.nonzero().flatten()
        masses = weights[positions]
        return Positions(positions, None if bool((masses == masses[:1]).all()) else masses, False, 0.0)
    if isinstance(sampler, RandomSampler) and sampler.replacement:
        return Positions(torch.arange(len(sampler.data_source)), None, False, 0.0)
    return None


def _support(loader: DataLoader[Any]) -> tuple[Tensor | None, bool]:
    """All positions that could be drawn: those of the sampler below the batches, or, a guess, of the whole data set."""
    size = _length(loader.dataset)
    batches = _batch_sampler(loader)
    if isinstance(batches, BatchSampler) and hasattr(batches, "sampler"):  # a tail is dropped, another in every epoch
        own = _copy(batches.sampler, loader.dataset)
        sets: list[Tensor] = []
        for number in range(2):
            if number:
                _next_epoch(own)
            with OwnRandomness(number):
                listed = _list(([i] for i in own), None, None if size is None else _ENDLESS * size)
            part = torch.tensor([] if listed is None else listed.indices, dtype=torch.int64)
            sets.append(gather_rows(part).unique())
        if torch.equal(*sets):
            return sets[0], False
    return None if size is None else torch.arange(size), True


def _next_epoch(sampler: Any) -> None:
    for one in _samplers(sampler):
        if callable(getattr(one, "set_epoch", None)):
            one.set_epoch(getattr(one, "epoch", 0) + 1)


def _samplers(sampler: Any) -> list[Any]:
    """A sampler and those inside it."""
    samplers = [sampler]
    for one in samplers:
        for value in getattr(one, "__dict__", {}).values():
            inside = (
                hasattr(value, "__iter__")
                and hasattr(value, "__dict__")
                and not isinstance(value, Dataset | Tensor | type)
                and get_origin(value) is None  # a generic class leaves its alias on what it makes
            )
            if inside and not any(value is known for known in samplers):
                samplers.append(value)
    return samplers


def _copy(sampler: Any, dataset: Any) -> Any:
    """A copy whose numbers and counters are its own; data sets are shared, and what cannot be copied is used itself."""
    shared = {id(value): value for value in (dataset, *getattr(dataset, "__dict__", {}).values())}
    for one in _samplers(sampler):
        for value in getattr(one, "__dict__", {}).values():
            if isinstance(value, Dataset):
                shared[id(value)] = value
            elif isinstance(value, torch.Generator):  # before torch 2.7 they had no deepcopy
                shared[id(value)] = torch.Generator(value.device).set_state(value.get_state())
    try:
        return copy.deepcopy(sampler, shared)
    except Exception:
        return sampler


def _length(value: Any) -> int | None:
    try:
        length = len(value)
    except (TypeError, NotImplementedError):
        return None
    return length if math.isfinite(length) else None


__all__ = ["Positions", "loader_positions"]
