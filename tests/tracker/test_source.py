"""A task read in order whatever the loader shuffles, again by position, and without disturbing the training."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from hopfield_replay import TaskSource
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
