import math
from collections import namedtuple

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from hopfield_replay import EnergyReplayBuffer, ReplayLoader
from hopfield_replay.buffer import replay_stream
from tests.lightning.small import Foreign, image_of, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
]

FORMS = ("dict", "tuple", "tensor")
Pair = namedtuple("Pair", ["image", "label"])


def filled(form="tensor", n=6, value=9.0):
    """A buffer of n samples of task 7 that are all ``value``."""
    buffer = EnergyReplayBuffer(n, "random")
    fill(buffer, form, n, value)
    return buffer


def fill(buffer, form="tensor", n=6, value=9.0):
    images, labels = torch.full((n, 1, 8, 8), value), torch.full((n,), 7)
    batch = {"dict": {"image": images, "label": labels}, "tuple": (images, labels), "tensor": images}[form]
    vectors = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    buffer.update(batch, vectors, ids=torch.arange(n) + (7 << 40), task=7)


def counts(replay):
    """Own and replayed samples in every batch of an epoch."""
    found = []
    for batch, _, _ in replay:
        replayed = int((image_of(batch).flatten(1)[:, 0] == 9.0).sum())
        found.append((len(image_of(batch)) - replayed, replayed))
    return found


@pytest.mark.heavy
@pytest.mark.parametrize("ratio", [0.05, 0.25, 1 / 3, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 16, 64])
def test_share_is_exact_over_an_epoch_with_a_small_last_batch(ratio, batch_size):
    own = 25  # no multiple of a batch size above 1: the last batch is smaller
    data = loader(n=own, form="tensor", batch_size=batch_size)
    replay = ReplayLoader(data, filled(), replay_ratio=ratio)
    for epoch in (1, 2, 3):
        epoch_counts = counts(replay)
        assert [first for first, _ in epoch_counts] == [len(batch) for batch in data]
        due = [first * ratio / (1 - ratio) for first, _ in epoch_counts]
        for (_, second), wanted in zip(epoch_counts, due, strict=True):
            assert abs(second - wanted) <= 1.0 + 1e-9  # a fraction is carried to the next batch
        total = sum(second for _, second in epoch_counts)
        if epoch == 1:
            assert abs(total - sum(due)) <= 0.5 + 1e-9
    everything = sum(second for _ in range(20) for _, second in counts(replay)) / 20
    assert everything / (own + everything) == pytest.approx(ratio, abs=0.01)  # nothing is lost between epochs


def test_own_samples_come_first_and_unchanged():
    data = loader(form="tuple")
    replay = ReplayLoader(data, filled("tuple"), replay_ratio=0.5)
    for (images, labels), (batch, _, _) in zip(data, replay, strict=True):
        assert torch.equal(batch[0][: len(images)], images)
        assert torch.equal(batch[1][: len(images)], labels)
        assert (batch[0][len(images) :] == 9.0).all()
        assert (batch[1][len(images) :] == 7).all()


def test_an_empty_buffer_adds_nothing():
    data = loader(form="tensor")
    replay = ReplayLoader(data, EnergyReplayBuffer(3), replay_ratio=0.9)
    assert [batch.tolist() for batch, _, _ in replay] == [batch.tolist() for batch in data]


def test_the_buffer_is_read_when_a_batch_is_made():
    buffer = EnergyReplayBuffer(6)
    replay = ReplayLoader(loader(form="tensor"), buffer, replay_ratio=0.5)
    stream = iter(replay)
    assert len(next(stream)[0]) == 4
    fill(buffer)
    assert len(next(stream)[0]) == 8


@pytest.mark.parametrize("form", FORMS)
def test_batches_keep_their_form(form):
    replay = ReplayLoader(loader(form=form), filled(form), replay_ratio=0.5)
    batch, index, _ = next(iter(replay))
    assert index == 0
    assert isinstance(batch, {"dict": dict, "tuple": tuple | list, "tensor": torch.Tensor}[form])
    if form == "dict":
        assert set(batch) == {"image", "label"}
        assert batch["label"].tolist() == [0] * 4 + [7] * 4
    assert image_of(batch).shape == (8, 1, 8, 8)


def test_a_named_tuple_stays_one():
    data = DataLoader([Pair(torch.zeros(1, 8, 8), 0) for _ in range(4)], batch_size=4)
    batch, _, _ = next(iter(ReplayLoader(data, filled("tuple"), replay_ratio=0.5)))
    assert type(batch) is Pair
    assert batch.label.tolist() == [0] * 4 + [7] * 4


def test_workers_change_nothing():
    alone, helped = (
        [batch for batch, _, _ in ReplayLoader(loader(form="tensor", num_workers=workers), filled(), seed=3)]
        for workers in (0, 1)
    )
    assert all(map(torch.equal, alone, helped))


def test_length_is_that_of_the_loader():
    replay = ReplayLoader(loader(n=10, form="tensor"), filled(), replay_ratio=0.5)
    iter(replay)
    assert len(replay) == 3


def spread(n=50):
    buffer = EnergyReplayBuffer(n, "random")
    values = torch.arange(float(n))[:, None]
    buffer.update(values, values, ids=torch.arange(n), task=0)
    return buffer


def stream_of(ratio, seed):
    return replay_stream.ReplayStream(loader(), spread(), ratio, seed)


def draws(stream, batches):
    return [stream.draw(8).flatten().tolist() for _ in range(batches)]


def test_the_stream_goes_on_where_its_state_was_taken(tmp_path):
    stream = stream_of(0.4, 5)
    draws(stream, 3)
    torch.save(stream.state_dict(), tmp_path / "stream.pt")
    rest = draws(stream, 4)
    again = stream_of(0.4, 5)
    again.load_state_dict(torch.load(tmp_path / "stream.pt", weights_only=True))
    assert draws(again, 4) == rest
    assert draws(stream_of(0.4, 5), 4) != rest


def test_each_rank_draws_its_own(monkeypatch):
    first = draws(stream_of(0.5, 5), 3)
    monkeypatch.setattr(replay_stream, "world", lambda: (1, 2))
    assert draws(stream_of(0.5, 5), 3) != first


def test_another_seed_draws_others():
    first, second = (draws(stream_of(0.5, seed), 3) for seed in (0, 1))
    assert first != second


def replayed_of(module):
    return [int((image_of(batch) == 9.0).all(-1).all(-1).sum()) for _, batch in module.seen]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 2}, 6),
        ({"max_epochs": 2, "limit_train_batches": 2}, 4),
        ({"max_epochs": 2, "limit_train_batches": 0.34}, 2),
        ({"fast_dev_run": True}, 1),
        ({"fast_dev_run": 2}, 2),
        ({"max_epochs": 2, "overfit_batches": 1}, 2),
        ({"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1}, 6),
        ({"max_epochs": 1, "accumulate_grad_batches": 3}, 3),
    ],
)
@pytest.mark.filterwarnings("ignore:.*reload_dataloaders_every_n_epochs")
def test_trainer_limits(settings, steps):
    module = Foreign()
    trainer(**settings).fit(module, ReplayLoader(loader(), filled("dict"), replay_ratio=0.5))
    assert replayed_of(module) == [4] * steps


def test_overfit_batches_repeats_its_batch():
    module = Foreign()
    trainer(max_epochs=2, overfit_batches=1).fit(module, ReplayLoader(loader(), filled("dict"), replay_ratio=0.5))
    (_, first), (_, second) = module.seen
    assert torch.equal(first["image"][:4], second["image"][:4])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(loader().dataset[i] for i in range(12))


def test_a_stream_without_length():
    module = Foreign()
    data = DataLoader(Stream(), batch_size=4)
    trainer(max_epochs=2).fit(module, ReplayLoader(data, filled("dict"), replay_ratio=0.5))
    assert replayed_of(module) == [4] * 6


@pytest.mark.parametrize("ratio", [0, 1, 0.0, 1.0, -0.5, 1.5, math.nan])
def test_ratio_outside_the_open_interval(ratio):
    with pytest.raises(ValueError, match=r"replay_ratio must lie in \(0, 1\), got .*For no replay"):
        ReplayLoader(loader(), filled(), replay_ratio=ratio)


@pytest.mark.parametrize("ratio", ["half", None, True])
def test_ratio_that_is_no_number(ratio):
    with pytest.raises(TypeError, match="replay_ratio must be a number"):
        ReplayLoader(loader(), filled(), replay_ratio=ratio)


@pytest.mark.parametrize("several", [[loader()], {"a": loader()}, (loader(), loader())])
def test_several_loaders(several):
    with pytest.raises(TypeError, match=r"one loader, got .*Merge the data sets"):
        ReplayLoader(several, filled())


def test_a_buffer_that_is_none():
    with pytest.raises(TypeError, match="must be an EnergyReplayBuffer, got NoneType"):
        ReplayLoader(loader(), None)


def test_samples_of_another_shape_are_named():
    data = DataLoader([torch.zeros(1, 4, 4)] * 4, batch_size=4)
    with pytest.raises(ValueError, match=r"\(4, 1, 4, 4\).*\(4, 1, 8, 8\).*one shape and dtype"):
        next(iter(ReplayLoader(data, filled(), replay_ratio=0.5)))


# -- a schedule in place of a number


def test_a_schedule_sees_the_task_and_the_steps_of_the_task():
    buffer, asked = filled(), []

    def schedule(task, step):
        asked.append((task, step))
        return 0.5 if step < 2 else 0.0

    replay = ReplayLoader(loader(n=12, form="tensor"), buffer, replay_ratio=schedule)
    seen = []
    for epoch in range(2):
        replay.stream.set_epoch(epoch)
        seen += counts(replay)
    assert asked == [(8, step) for step in range(6)]  # the buffer was last filled with task 7
    assert seen == [(4, 4), (4, 4), (4, 0), (4, 0), (4, 0), (4, 0)]
    assert replay.stream.share == pytest.approx(8 / 32)  # what was replayed, of all that was trained on


def test_the_task_of_a_schedule_does_not_depend_on_what_stayed():
    buffer = EnergyReplayBuffer(2, "high_energy", groups=None)
    for task, energies in ((0, torch.tensor([9.0, 8.0])), (1, torch.zeros(2))):
        rows = torch.zeros(2, 1)
        buffer.update(rows, rows, ids=torch.arange(2) + 10 * task, task=task, energies=energies)
    assert buffer.tasks.tolist() == [0, 0]
    stream = replay_stream.ReplayStream(loader(), buffer, lambda task, step: 0.1 * task, 0)
    assert stream.share == pytest.approx(0.2)
    again = EnergyReplayBuffer(2, "high_energy")
    again.load_state_dict(buffer.state_dict())
    assert again.newest_task == 1


def test_a_schedule_goes_on_where_its_state_was_taken():
    def schedule(task, step):
        return 0.1 * (step % 5)

    first = stream_of(schedule, 5)
    for _ in range(3):
        first.draw(8)
    again = stream_of(schedule, 5)
    again.load_state_dict(first.state_dict())
    for _ in range(4):
        a, b = first.draw(8), again.draw(8)
        assert (a is None and b is None) or torch.equal(a, b)
    assert again.share == first.share


@pytest.mark.parametrize("ratio", [-0.1, 1.0, math.nan])
def test_a_schedule_out_of_range_is_named(ratio):
    with pytest.raises(ValueError, match=r"The replay_ratio of task 1, step 0 must lie in \[0, 1\), got"):
        stream_of(lambda task, step: ratio, 0).draw(8)
