"""Batches with replay in a plain loop, against counts by hand and against what a Trainer's loader draws."""

import itertools
from collections import OrderedDict, UserDict

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, ReplayBatches, TaskSource


def filled(n=6):
    buffer = EnergyReplayBuffer(n, "random", beta=1.0)
    values = torch.arange(float(n))[:, None] - 100
    buffer.update([values], values, ids=torch.arange(n), task=0)
    return buffer


def data(n=10):
    return TensorDataset(torch.arange(float(n))[:, None])


def values(batches):
    return [batch[0].flatten().tolist() for batch in batches]


def replayed(batches):
    return [[value for value in batch if value < 0] for batch in values(batches)]


@pytest.mark.parametrize("workers", [0, 1])
def test_own_samples_come_first_and_replay_has_its_share(workers):
    batches = ReplayBatches(DataLoader(data(), batch_size=4, num_workers=workers), filled(), replay_ratio=0.25)
    assert len(batches) == 3
    found, counts = [], []
    for (batch,) in batches:
        own = len(batch) - batches.replayed
        found += batch[:own].flatten().tolist()
        assert (batch[own:] < 0).all()
        counts.append(batches.replayed)
    assert found == list(range(10))
    assert sum(counts) == round(10 / 3)
    assert batches.share == 0.25


def test_draws_are_those_of_the_trainers_loader():
    lightning = pytest.importorskip("hopfield_replay.lightning")
    theirs = lightning.ReplayLoader(DataLoader(data(), batch_size=4), filled(), seed=3)
    ours = ReplayBatches(DataLoader(data(), batch_size=4), filled(), seed=3)
    for epoch in range(2):
        theirs.stream.set_epoch(epoch)
        assert values(ours) == values(batch for batch, _, _ in theirs)


def test_epochs_draw_differently_and_can_be_set():
    batches = ReplayBatches(DataLoader(data(), batch_size=4), filled())
    first, second = replayed(batches), replayed(batches)
    assert first != second
    again = ReplayBatches(DataLoader(data(), batch_size=4), filled())
    again.set_epoch(1)
    assert replayed(again) == second
    again.set_epoch(0)
    assert replayed(again) == first


def test_an_epoch_that_was_cut_goes_on_from_its_state():
    whole = ReplayBatches(DataLoader(data(), batch_size=2), filled())
    expected = values(whole) + values(whole)
    cut = ReplayBatches(DataLoader(data(), batch_size=2), filled())
    begun = values(itertools.islice(cut, 3))
    assert begun == expected[:3]
    left = DataLoader(torch.utils.data.Subset(data(), range(6, 10)), batch_size=2)  # the loader's part of it
    resumed = ReplayBatches(left, filled(), seed=0)
    resumed.load_state_dict(cut.state_dict())
    assert values(resumed) == expected[3:5]
    rest = ReplayBatches(DataLoader(data(), batch_size=2), filled())
    rest.load_state_dict(resumed.state_dict())
    assert values(rest) == expected[5:]


def test_an_empty_buffer_adds_nothing_until_it_is_filled():
    buffer = EnergyReplayBuffer(6, "random", beta=1.0)
    batches = ReplayBatches(DataLoader(data(), batch_size=5), buffer)
    assert replayed(batches) == [[], []]
    assert batches.replayed == 0
    buffer.update([torch.full((6, 1), -1.0)], torch.rand(6, 1), ids=torch.arange(6), task=0)
    assert replayed(batches) == [[-1.0] * 5] * 2


def test_a_schedule_counts_the_batches_of_the_task():
    seen = []

    def ratio(task, step):
        seen.append((task, step))
        return 0.5

    batches = ReplayBatches(DataLoader(data(), batch_size=5), filled(), replay_ratio=ratio)
    for _ in range(2):
        values(batches)
    assert seen == [(1, 0), (1, 1), (1, 2), (1, 3)]


def test_a_schedule_counts_the_batches_that_there_were():
    def stream():
        yield from ((torch.full((2, 1), float(i)),) for i in range(3))

    class Stream:  # without a length
        __iter__ = staticmethod(stream)

    for loader, cut in ((DataLoader(data(), batch_size=4), 1), (Stream(), 2)):
        seen = []
        batches = ReplayBatches(loader, filled(), replay_ratio=lambda task, step, seen=seen: seen.append(step) or 0.5)
        values(itertools.islice(batches, cut))  # who breaks out goes on in the same epoch
        values(batches)
        again = ReplayBatches(loader, filled(), replay_ratio=batches._stream.replay_ratio)
        again.load_state_dict(batches.state_dict())
        values(again)
        assert seen == list(range(cut + 3 + 3))


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize(("size", "batch_size"), [(5, 1), (4, 4), (10, 10), (7, 2)])
def test_few_samples_in_an_epoch_leave_the_share_right(size, batch_size, ratio):
    batches = ReplayBatches(DataLoader(data(size), batch_size=batch_size), filled(), replay_ratio=ratio)
    due = size * ratio / (1 - ratio)
    drawn = 0
    for epoch in range(1, 41):
        drawn += len([value for batch in replayed(batches) for value in batch])
        assert abs(drawn - epoch * due) < 2


def test_few_batches_in_a_task_leave_the_share_right():
    buffer, drawn = filled(), 0
    for task in range(1, 41):  # an online stream
        drawn += sum(map(len, replayed(ReplayBatches(DataLoader(data(10), 10), buffer, replay_ratio=0.04))))
        assert abs(drawn - task * 10 / 24) < 2
        more = torch.full((1, 1), -float(task))
        buffer.update([more], more, ids=torch.tensor([100 + task]), task=task)
        buffer.remove(buffer.ids[buffer.tasks > 0])


def test_the_loaders_part_of_a_batch_is_at_hand():
    batches = ReplayBatches(DataLoader(data(), batch_size=4), filled())
    for (batch,) in batches:
        assert torch.equal(batches.own[0], batch[: -batches.replayed])


def test_a_loop_that_ends_early_keeps_what_it_trained_on():
    tracker = ForgettingTracker(EnergyReplayBuffer(6, "random", beta=1.0))
    trained = set()
    for task in (0, 1):
        images = torch.utils.data.TensorDataset(torch.arange(10.0)[:, None] + 100 * task)
        loader = DataLoader(images, batch_size=2, shuffle=True)
        source = TaskSource(loader, watched=True)
        tracker.begin_task(source)
        batches = ReplayBatches(loader, tracker.buffer)
        for _ in itertools.islice(batches, 2):
            source.passed(batches.own)
            trained |= set(batches.own[0].flatten().tolist())
        record = tracker.end_task(source)
    assert set(tracker.buffer.vectors.flatten().tolist()) <= trained
    assert len(trained) == 8
    assert [len(probe.energy) for probe in record.probes] == [4, 4]
    assert record.replay_ratio == 0.5


def test_draws_that_begin_again_are_told():
    buffer = filled()
    first = replayed(ReplayBatches(DataLoader(data(), batch_size=4), buffer))
    with pytest.warns(UserWarning, match="Another ReplayBatches has begun epoch 0 of this task with seed=0"):
        assert replayed(ReplayBatches(DataLoader(data(), batch_size=4), buffer)) == first
    again = ReplayBatches(DataLoader(data(), batch_size=4), buffer)
    again.set_epoch(1)
    assert replayed(again) != first
    buffer.drawn.clear()  # another task
    replayed(ReplayBatches(DataLoader(data(), batch_size=4), buffer))


class Feature(UserDict):
    """As transformers' BatchFeature: its items are attributes, too, and the loop moves it."""

    def __getattr__(self, name):
        if name in ("data", "__setstate__"):
            raise AttributeError(name)
        return self.data[name]

    def to(self, dtype):
        return Feature({name: value.to(dtype) for name, value in self.items()})


@pytest.mark.parametrize("form", [OrderedDict, Feature, dict])
@pytest.mark.parametrize("mark", [None, "replayed"])
def test_mappings_keep_their_class(form, mark):
    prepare = (lambda batch: batch.to(torch.float64)) if form is Feature else lambda batch: batch
    loaders = [
        DataLoader(data() + torch.utils.data.TensorDataset(torch.tensor([[50.0 + task]])), 4, collate_fn=collate)
        for task in (0, 1)
        for collate in [lambda items: form(x=torch.stack([item[0] for item in items]))]
    ]
    tracker = ForgettingTracker(EnergyReplayBuffer(6, beta=1.0))
    for loader in loaders:
        source = TaskSource(loader, prepare=prepare)
        tracker.begin_task(source)
        batches = ReplayBatches(loader, tracker.buffer, mark=mark)
        assert all(type(batch) is form for batch in batches)
        tracker.end_task(source)
    assert batches.replayed
    assert type(tracker.state_dict()["buffer"]["samples"]) is dict


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((3, filled()), TypeError, "iterable of batches, got int"),
        ((iter([1]), filled()), TypeError, "can be read only once"),
        (([], [1]), TypeError, "EnergyReplayBuffer, got list"),
        (([], filled(), 1.0), ValueError, r"\(0, 1\), got 1.0"),
    ],
)
def test_bad_input(arguments, error, said):
    with pytest.raises(error, match=said):
        ReplayBatches(*arguments[:2], replay_ratio=arguments[2] if len(arguments) > 2 else 0.5)
