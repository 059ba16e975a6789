"""Which positions a loader draws from: against what its sampler yields, and without a trace in the sampler."""

import random
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from hopfield_replay.tracker.positions import Positions, loader_positions

N = 20
DATA = TensorDataset(torch.arange(float(N))[:, None])


class Shuffles(Sampler):
    """Shuffles its own list in place, with Python's numbers, and counts its passes: nothing of it may be seen."""

    def __init__(self):
        self.indices = list(range(N))
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        random.shuffle(self.indices)
        return iter(self.indices)

    def __len__(self):
        return N


class Twice(Shuffles):
    """Position 3 twice in every epoch."""

    def __iter__(self):
        return iter([3, *range(5), 3])

    def __len__(self):
        return 7


class Numpy(Shuffles):
    def __iter__(self):
        return iter(np.random.permutation(N))  # noqa: NPY002  # NumPy's global numbers, as samplers use them


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield from torch.randperm(N).tolist()


class Halves(Sampler):
    def __iter__(self):
        return iter(random.sample(range(N), N // 2))


class Locked(Shuffles):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def distributed(**settings):
    return DistributedSampler(DATA, 4, 1, **settings)


@pytest.mark.parametrize(
    ("loader", "values", "certain", "masses"),
    [
        (lambda: DataLoader(DATA, 3), range(N), True, None),
        (lambda: DataLoader(DATA, 3, shuffle=True), range(N), True, None),
        (lambda: DataLoader(DATA, 3, drop_last=True), range(18), True, None),
        (lambda: DataLoader(DATA, 3, shuffle=True, drop_last=True), range(N), False, None),
        (lambda: DataLoader(DATA, 5, shuffle=True, drop_last=True), range(N), True, None),  # there is no tail
        (lambda: DataLoader(DATA, 3, sampler=SubsetRandomSampler([7, 2, 9])), [2, 7, 9], True, None),
        (lambda: DataLoader(DATA, 2, sampler=SubsetRandomSampler([7, 2, 9]), drop_last=True), [2, 7, 9], False, None),
        (lambda: DataLoader(DATA, batch_sampler=[[4, 1], [8]]), [1, 4, 8], True, None),
        (lambda: DataLoader(DATA, 3, sampler=Shuffles()), range(N), True, None),
        (lambda: DataLoader(DATA, 3, sampler=Numpy()), range(N), True, None),
        (lambda: DataLoader(DATA, 3, sampler=Locked()), range(N), True, None),
        (lambda: DataLoader(DATA, 3, sampler=Twice()), range(5), True, [1, 1, 1, 3, 1]),
        (lambda: DataLoader(DATA, 3, sampler=Endless()), range(N), True, None),
        (lambda: DataLoader(DATA, 3, sampler=Halves()), range(N), False, None),
        (lambda: DataLoader(DATA, 3, sampler=RandomSampler(DATA, replacement=True)), range(N), False, None),
        (lambda: DataLoader(DATA, 3, sampler=RandomSampler(DATA, num_samples=7)), range(N), False, None),
        (lambda: DataLoader(DATA, 3, sampler=WeightedRandomSampler([0, 2, 0, 1.5], 9)), [1, 3], False, [2, 1.5]),
        (lambda: DataLoader(DATA, 3, sampler=WeightedRandomSampler([0, 2, 0, 2], 9)), [1, 3], False, None),
        (lambda: DataLoader(DATA, 3, sampler=distributed(shuffle=False)), [1, 5, 9, 13, 17], True, None),
        (lambda: DataLoader(DATA, 3, sampler=distributed()), range(N), False, None),
        (lambda: DataLoader(DATA, None, sampler=BatchSampler(SequentialSampler(range(7)), 3, False)), range(7), True,
         None),
    ],
)  # fmt: skip
def test_what_is_drawn(loader, values, certain, masses):
    found = loader_positions(loader())
    assert found.values.tolist() == list(values)
    assert found.certain == certain
    assert (found.masses is None) if masses is None else found.masses.tolist() == masses


@pytest.mark.parametrize(
    ("sampler", "drop_last", "values", "certain", "masses"),
    [
        (WeightedRandomSampler([0, 2, 0, 1.5], 12), False, [1, 3], False, [2, 1.5]),
        (RandomSampler(DATA, replacement=True), False, range(N), False, None),
        (RandomSampler(DATA), True, range(N), False, None),
        (SubsetRandomSampler([7, 2, 9, 4, 6, 8, 1]), False, [1, 2, 4, 6, 7, 8, 9], False, None),
    ],
)
@pytest.mark.parametrize("wrapper", ["shard", "skip"])
def test_what_is_drawn_by_batches_that_others_leave_out(wrapper, sampler, drop_last, values, certain, masses):
    """Of several processes of Accelerate, and of an epoch that goes on in its middle."""
    accelerate = pytest.importorskip("accelerate.data_loader")
    batches = BatchSampler(sampler, 3, drop_last)
    if wrapper == "shard":
        wrapped = accelerate.BatchSamplerShard(batches, num_processes=2, process_index=1)
    else:
        wrapped = accelerate.SkipBatchSampler(batches, skip_batches=1)
    found = loader_positions(DataLoader(DATA, batch_sampler=wrapped))
    assert found.values.tolist() == list(values)
    assert found.certain == certain
    assert not found.guessed
    assert (found.masses is None) if masses is None else found.masses.tolist() == masses


@pytest.mark.parametrize(
    ("loader", "limit", "values", "certain"),
    [
        (lambda: DataLoader(DATA, 3), 2, range(6), True),
        (lambda: DataLoader(DATA, 3), 7, range(N), True),
        (lambda: DataLoader(DATA, 3), 100, range(N), True),
        (lambda: DataLoader(DATA, 3), 0, [], True),
        (lambda: DataLoader(DATA, 3, shuffle=True), 2, range(N), False),
        (lambda: DataLoader(DATA, 3, sampler=SubsetRandomSampler(range(9))), 1, range(9), False),
        (lambda: DataLoader(DATA, batch_sampler=[[4, 1], [8]]), 1, [1, 4], True),
    ],
)
def test_limits(loader, limit, values, certain):
    found = loader_positions(loader(), limit)
    assert found.values.tolist() == list(values)
    assert found.certain == certain
    assert set(found.values.tolist()) <= set(found.every.tolist())


def test_which_positions_are_only_guessed():
    assert loader_positions(DataLoader(DATA, 3, sampler=Halves())).guessed
    for loader in (
        DataLoader(DATA, 3, shuffle=True, drop_last=True),
        DataLoader(DATA, 3, sampler=WeightedRandomSampler([1, 2], 9)),
    ):
        assert not loader_positions(loader).guessed


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


class Words(Sampler):
    def __iter__(self):
        return iter(["a", "b"])


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(Stream(), 3),
        lambda: DataLoader([torch.zeros(2, 1)], batch_size=None),
        lambda: DataLoader({"a": 1, "b": 2}, 1, sampler=Words()),
        lambda: [torch.zeros(2, 1)],
    ],
)
def test_loaders_without_positions(loader):
    assert loader_positions(loader()) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomSampler(DATA),
        lambda: RandomSampler(DATA, generator=torch.Generator().manual_seed(5)),
        Shuffles,
        Numpy,
        distributed,
        lambda: WeightedRandomSampler(torch.ones(N), 30),
    ],
)
def test_the_training_draws_the_same_with_and_without_having_been_asked(make):
    orders = []
    for asks in (False, True):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        loader = DataLoader(DATA, 4, sampler=make())
        if asks:
            loader_positions(loader)
            loader_positions(loader, 2)
        orders.append([torch.cat([batch for (batch,) in loader]).flatten().tolist() for _ in range(2)])
    assert orders[0] == orders[1]
    sampler = Shuffles()
    loader_positions(DataLoader(DATA, 4, sampler=sampler))
    assert (sampler.passes, sampler.indices) == (0, list(range(N)))


class Raises(Sampler):
    def __iter__(self):
        yield 0
        raise RuntimeError("no more")


class Lies(BatchSampler):
    def __len__(self):
        return 99


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: DataLoader(DATA, 4, sampler=Raises()), r"BatchSampler failed .*RuntimeError: no more"),
        (lambda: DataLoader(DATA, batch_sampler=Lies(SequentialSampler(DATA), 4, False)), r"says 99 .* yields 5"),
        (lambda: DataLoader(DATA, 4, sampler=[3, 25]), r"draws the position 25, .*TensorDataset holds 20 samples"),
        (lambda: DataLoader(DATA, 4, sampler=[3, -1]), r"draws the position -1"),
    ],
)
def test_samplers_that_cannot_be_right(loader, message):
    with pytest.raises(ValueError, match=message):
        loader_positions(loader())


def test_an_empty_sampler():
    assert len(loader_positions(DataLoader(DATA, 4, sampler=SubsetRandomSampler([]))).values) == 0


def test_how_many_are_missed_against_many_runs():
    """Without replacement: a tail of 2 of 20 in each of 3 epochs; with: 30 draws of 20, in proportion to masses."""
    generator = torch.Generator().manual_seed(0)
    without = Positions(torch.arange(N), certain=False, share=0.9)
    masses = torch.linspace(0.2, 2.0, N, dtype=torch.float64)
    with_it = Positions(torch.arange(N), masses, certain=False, share=0.0)
    missed = [0.0, 0.0]
    for _ in range(2000):
        drawn = torch.cat([torch.randperm(N, generator=generator)[:18] for _ in range(3)])
        missed[0] += (N - len(drawn.unique())) / 2000
        drawn = torch.multinomial(masses, 30, replacement=True, generator=generator)
        missed[1] += (N - len(drawn.unique())) / 2000
    assert without.missed(54) == pytest.approx(missed[0], abs=0.01)
    assert with_it.missed(30) == pytest.approx(missed[1], abs=0.3)
    assert Positions(torch.arange(N)).missed(0) == 0.0
