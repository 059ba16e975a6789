"""A task read in order whatever the loader shuffles, again by position, and without disturbing the training."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from hopfield_replay import TaskSource
from hopfield_replay.tracker.contents import contents
from tests.utilities.test_nested import same

IMAGES = torch.arange(22.0).view(11, 2)
LABELS = torch.arange(11) * 10


class Records(Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, index):
        return {"image": IMAGES[index], "meta": {"label": LABELS[index]}, "text": f"number {index}"}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(IMAGES, LABELS, strict=True))


class Numbered(Dataset):
    """A data set that says which of its samples were read."""

    def __init__(self, count):
        self.count = count
        self.read = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        return torch.tensor([float(index)])


def pairs():
    return TensorDataset(IMAGES, LABELS)


def everything(source):
    positions, batches = zip(*source.batches(), strict=True)
    return torch.cat(positions), batches


LOADERS = {
    "shuffled": lambda: DataLoader(pairs(), batch_size=4, shuffle=True),
    "drop_last": lambda: DataLoader(pairs(), batch_size=4, shuffle=True, drop_last=True),  # another tail each time
    "batch sampler": lambda: DataLoader(pairs(), batch_sampler=BatchSampler(RandomSampler(pairs()), 3, False)),
    "no batching": lambda: DataLoader([(IMAGES[:6], LABELS[:6]), (IMAGES[6:], LABELS[6:])], batch_size=None),
    "stream": lambda: DataLoader(Stream(), batch_size=4),
    "list": lambda: [(IMAGES[:6], LABELS[:6]), (IMAGES[6:], LABELS[6:])],
}


@pytest.mark.parametrize("name", LOADERS)
def test_all_samples_in_order(name):
    positions, batches = everything(TaskSource(LOADERS[name]()))
    assert positions.tolist() == list(range(11))
    assert torch.equal(torch.cat([batch[0] for batch in batches]), IMAGES)
    assert torch.equal(torch.cat([batch[1] for batch in batches]), LABELS)


@pytest.mark.parametrize("name", LOADERS)
def test_fetch_any_positions_in_any_order(name):
    source = TaskSource(LOADERS[name]())
    wanted = torch.tensor([10, 0, 7, 3, 9, 1])
    images, labels = source.fetch(wanted)
    assert torch.equal(images, torch.stack([IMAGES[i] for i in wanted]))
    assert torch.equal(labels, 10 * wanted)


def test_fetch_reads_only_what_is_asked():
    data = Numbered(1000)
    source = TaskSource(DataLoader(data, batch_size=2))
    assert source.fetch(torch.tensor([5, 999, 7])).flatten().tolist() == [5.0, 999.0, 7.0]
    assert data.read == [5, 999, 7]


def test_dictionaries_with_captions_and_an_own_collate_function():
    source = TaskSource(DataLoader(Records(), batch_size=4, shuffle=True))
    found = source.fetch(torch.tensor([6, 2]))
    assert found["text"] == ["number 6", "number 2"]
    assert found["meta"]["label"].tolist() == [60, 20]
    doubled = DataLoader(pairs(), batch_size=4, collate_fn=lambda items: torch.stack([2 * x for x, _ in items]))
    assert torch.equal(TaskSource(doubled).fetch(torch.tensor([4])), 2 * IMAGES[4:5])


@pytest.mark.parametrize("name", ["in order", "stream", "list"])
def test_limit_counts_batches(name):
    loader = DataLoader(pairs(), batch_size=4) if name == "in order" else LOADERS[name]()
    positions, _ = everything(TaskSource(loader, limit=1))
    assert positions.tolist() == list(range(6 if name == "list" else 4))


def test_the_first_batches_of_a_shuffled_loader_can_be_any():
    source = TaskSource(LOADERS["shuffled"](), limit=1)
    assert source.positions.values.tolist() == list(range(11))
    assert not source.positions.certain


def test_a_limit_of_nothing_and_an_empty_data_set_give_no_batches():
    assert list(TaskSource(LOADERS["shuffled"](), limit=0).batches()) == []
    assert list(TaskSource(DataLoader(Numbered(0), batch_size=4)).batches()) == []
    assert list(TaskSource([]).batches()) == []


def test_workers():
    source = TaskSource(DataLoader(pairs(), batch_size=4, shuffle=True, num_workers=1))
    assert same(source.fetch(torch.tensor([8, 1])), [IMAGES[[8, 1]], LABELS[[8, 1]]])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_training_draws_the_same_numbers_with_and_without_a_measurement(workers):
    loader = DataLoader(pairs(), batch_size=4, shuffle=True, num_workers=workers)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    source = TaskSource(loader)
    list(source.batches())
    source.fetch(torch.tensor([2, 3]))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_can_be_read_once_only():
    with pytest.raises(TypeError, match="generator can be read only once; give a DataLoader"):
        TaskSource(batch for batch in [IMAGES])
    with pytest.raises(TypeError, match="Expected a DataLoader or an iterable of batches, got int"):
        TaskSource(3)


# -- a task is what its loader yields


class Asks(Dataset):
    """Its workers are set up by its own class, as those of a data set that opens files are."""

    offset = None

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.tensor([float(index) + self.offset])


def set_up(_):
    torch.utils.data.get_worker_info().dataset.offset = 100.0


def test_worker_init_fn_sees_the_data_set_itself():
    source = TaskSource(DataLoader(Asks(), batch_size=2, num_workers=1, worker_init_fn=set_up, persistent_workers=True))
    assert torch.cat([batch for _, batch in source.batches()]).flatten().tolist() == [100.0 + i for i in range(6)]
    assert source.fetch(torch.tensor([4])).tolist() == [[104.0]]


class Bulk(Dataset):
    """Reads many in one call."""

    calls = ()

    def __len__(self):
        return 11

    def __getitem__(self, indices):
        self.calls = (*self.calls, indices)
        return IMAGES[indices], LABELS[indices]


def test_a_data_set_that_reads_many_in_one_call():
    data = Bulk()
    source = TaskSource(DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), 4, False)))
    positions, batches = everything(source)
    assert positions.tolist() == list(range(11))
    assert torch.equal(torch.cat([batch[0] for batch in batches]), IMAGES)
    assert len(data.calls) == 1
    assert source.fetch(torch.tensor([9, 2]))[1].tolist() == [90, 20]


class Sizes(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.zeros(3, 8, 8 + index)


def test_images_of_several_sizes():
    with pytest.raises(ValueError, match=r"several sizes .*equal size.* Resize or crop them to one size"):
        list(TaskSource(DataLoader(Sizes(), batch_size=4)).batches())
    with pytest.raises(ValueError, match="Resize or crop them"):
        list(TaskSource(DataLoader(Sizes(), batch_size=4, num_workers=1)).batches())


class Random(Dataset):
    """Other numbers every time, of all three kinds of random numbers."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.tensor([float(index), *draws()])


def seed():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # the global numbers are those that data sets draw


def draws():
    return float(torch.rand(())), random.random(), np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 1])
def test_random_data_is_read_without_touching_the_trainings_random_numbers(workers):
    source = TaskSource(DataLoader(Random(), batch_size=2, num_workers=workers))
    seed()
    first = torch.cat([batch for _, batch in source.batches()])
    assert source.few.random
    after = draws()
    seed()
    assert after == draws()
    assert torch.equal(torch.cat([batch for _, batch in source.batches()]), first)  # a look that can be repeated
    assert len(first[:, 1:].unique()) == 18
    assert not TaskSource(DataLoader(pairs(), batch_size=2)).few.random


def watched(loader, **settings):
    return TaskSource(loader, watched=True, **settings)


def test_what_passed_counts_where_the_sampler_does_not_say():
    source = watched(LOADERS["drop_last"](), total=4)
    source.expect(source.positions.values, contents((IMAGES, LABELS), 11))
    assert source.trained()[0].tolist() == list(range(11))  # as long as nothing has passed
    source.passed((IMAGES[[3, 8]], LABELS[[3, 8]]))
    assert source.trained()[0].tolist() == [3, 8]
    source.passed((IMAGES[[0]] + 1, LABELS[[0]]))  # nobody has read that
    places, _ = source.trained()
    assert places[:2].tolist() == [3, 8]
    batches = list(source.batches(places))
    assert [at.tolist() for at, _ in batches] == [[3, 8], [int(places[2])]]
    assert torch.equal(batches[1][1][0], IMAGES[[0]] + 1)
    assert torch.equal(source.fetch(places.flip(0))[0], torch.cat([IMAGES[[0]] + 1, IMAGES[[8, 3]]]))


@pytest.mark.parametrize("loader", [lambda: DataLoader(pairs(), batch_size=4), lambda: DataLoader(Stream(), 4)])
def test_what_passes_is_not_reported_in_vain(loader):
    source = TaskSource(loader())
    with pytest.raises(ValueError, match="watched=True"):
        source.passed((IMAGES[[3, 8]], LABELS[[3, 8]]))


@pytest.mark.parametrize(
    ("loader", "total", "ahead"),
    [
        (lambda: DataLoader(pairs(), batch_size=4, shuffle=True), 1, True),  # certain: all in every epoch
        (lambda: DataLoader(pairs(), batch_size=4, shuffle=True, drop_last=True), 6, True),
        (lambda: DataLoader(pairs(), batch_size=4, shuffle=True, drop_last=True), 1, False),  # not worth it
        (lambda: DataLoader(pairs(), batch_size=4, shuffle=True, drop_last=True), None, True),
        (lambda: DataLoader(Random(), batch_size=4, shuffle=True, drop_last=True), 1, False),
        (lambda: DataLoader(Random(), batch_size=4, shuffle=True, drop_last=True), 60, True),  # none will be missed
        (lambda: DataLoader(Random(), batch_size=4, shuffle=True), 1, True),
        (lambda: DataLoader(Stream(), batch_size=4), 6, False),
    ],
)
def test_which_data_is_read_before_it_is_trained_on(loader, total, ahead):
    assert watched(loader(), total=total).ahead == ahead
    assert TaskSource(loader(), total=total).ahead  # nobody tells what passes


def test_weights_are_masses_and_limits_of_what_passed_leave_them():
    loader = DataLoader(pairs(), 4, sampler=WeightedRandomSampler([0.0, 1.0, 3.0, *[0.0] * 8], 12))
    source = watched(loader)
    source.expect(source.positions.values, contents((IMAGES[1:3], LABELS[1:3]), 2))
    assert [part.tolist() for part in source.trained()] == [[1, 2], [1.0, 3.0]]
    source.passed((IMAGES[[2]], LABELS[[2]]))
    assert [part.tolist() for part in source.trained()] == [[2], [3.0]]


def test_data_that_shrinks_is_kept_from_what_is_left():
    data = Numbered(9)
    source = TaskSource(DataLoader(data, batch_size=4))
    assert len(source.positions.values) == 9
    data.count = 6
    with pytest.warns(UserWarning, match="has shrunk from 9 to 6 samples while it was trained on"):
        assert source.trained()[0].tolist() == list(range(6))


class Passes(IterableDataset):
    """Counts how often it is read; in another order each time."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        yield from zip(*(column[torch.randperm(11)] for column in (IMAGES, LABELS)), strict=True)


def test_a_stream_is_read_once_and_chosen_from_as_it_passes():
    data = Passes()
    source = TaskSource(DataLoader(data, batch_size=4), reserve=6)
    places, counts = source.trained()
    assert data.passes == 1
    assert (len(places), counts) == (6, None)
    read = {int(at): image for part, batch in source.batches(places) for at, image in zip(part, batch[0], strict=True)}
    fetched = source.fetch(places[[4, 1]])[0]
    assert torch.equal(fetched[0], read[int(places[4])])
    assert torch.equal(fetched[1], read[int(places[1])])
    assert data.passes == 1


def test_a_stream_with_a_limit_ends():
    class Endless(IterableDataset):
        given = 0

        def __iter__(self):
            while True:
                self.given += 1
                yield torch.rand(2)

    data = Endless()
    places, _ = TaskSource(DataLoader(data, batch_size=4), limit=3).trained()
    assert len(places) == 12
    assert data.given <= 16
