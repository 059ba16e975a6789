"""What is wrong with data is said before it costs a training step, and what changes meanwhile loses nothing."""

from collections import namedtuple

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, SequentialSampler

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.small import trainer
from tests.lightning.streams import DATA, Indexed, Recorder, Shrink, Stream, image
from tests.lightning.test_trained_on import check_kept

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
]


class Raises(Sampler):
    def __len__(self):
        return 3

    def __iter__(self):
        raise OSError("the list of files is lost")


class Lies(BatchSampler):
    def __len__(self):
        return 99


class Made(Dataset):
    """Samples of any kind."""

    def __init__(self, make, n=12):
        self.make, self.n = make, n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return self.make(index)


class Passing(IterableDataset):
    def __init__(self, make, n=12):
        self.make, self.n = make, n

    def __iter__(self):
        return (self.make(index) for index in range(self.n))


def fit(loader, *, denoiser=None, module=None, **settings):
    buffer = EnergyReplayBuffer(4, "random")
    monitor = ForgettingMonitor(buffer, beta=1.0, denoiser=denoiser, timesteps=[1] if denoiser else None, **settings)
    module = Recorder() if module is None else module
    module.tracker = None
    try:
        fit_tasks(trainer(monitor), module, [ReplayDataModule(loader, buffer)])
    finally:
        assert "convert_input" not in vars(module.trainer.precision_plugin)  # the trainer is let go of
    return monitor, module


def padded(items):
    """Captions of other lengths in one batch, as a tokenizer pads them."""
    tokens = torch.nn.utils.rnn.pad_sequence([item["tokens"] for item in items], batch_first=True)
    return {"x": torch.stack([item["x"] for item in items]), "tokens": tokens.long()}


NAN = torch.full((1, 6, 6), torch.nan)
BEFORE = {
    "a sampler that raises": (
        lambda: DataLoader(DATA, 4, sampler=Raises()),
        {},
        r"failed when it was asked .*OSError: the list of files is lost",
    ),
    "a length that lies": (
        lambda: DataLoader(DATA, batch_sampler=Lies(SequentialSampler(DATA), 10, False)),
        {},
        r"says 99 batches, but its Lies yields 4",
    ),
    "images of several sizes": (
        lambda: DataLoader(Made(lambda i: (torch.zeros(1, 6, 6 + i), i)), 4),
        {},
        r"several sizes .* Resize or crop",
    ),
    "batches of several sizes": (
        lambda: DataLoader(Made(lambda i: (torch.zeros(1, 6, 6 + i // 4), i)), 4),
        {},
        r"several sizes .* Resize or crop",
    ),
    "captions padded for each batch": (
        lambda: DataLoader(Made(lambda i: {"x": image(i), "tokens": torch.zeros(3 + i // 4)}), 4, collate_fn=padded),
        {},
        r"batch\['tokens'\] cannot be joined: .* pad texts to one length",
    ),
    "labels beyond int64": (
        lambda: DataLoader(Made(lambda i: {"x": image(i), "label": torch.tensor(2**64 - 1, dtype=torch.uint64)}), 4),
        {},
        r"batch\['label'\] holds labels beyond int64",
    ),
    "two things that could be the samples": (
        lambda: DataLoader(Made(lambda i: (image(i), image(i + 50))), 4),
        {},
        r"could be any of batch\[0\] .*samples=0",
    ),
    "the same for a denoiser, where an encoder can read them": (
        lambda: DataLoader(Made(lambda i: (image(i), image(i + 50))), 4),
        {"encoder": lambda batch: batch[0].flatten(1), "denoiser": Shrink()},
        r"The denoiser that was given .* cannot be measured .* the samples could be any of",
    ),
    "a condition of another length": (
        lambda: DataLoader(Made(lambda i: (image(i), i)), 4),
        {"condition": lambda batch: batch[1][:2]},
        r"has 2 rows for 4 samples",
    ),
    "a column that is not there": (
        lambda: DataLoader(Made(lambda i: {"image": image(i)}), 4),
        {"labels": "digit"},
        r"labels='digit' is not in the batch, a dict that holds batch\['image'\]",
    ),
    "nothing that could be kept": (
        lambda: DataLoader(Made(lambda i: {"image": image(i), "size": (6, 6)}), 4, collate_fn=list),
        {},
        r"batch.* is (dict|int|tuple)|no floating tensor|could be any of",
    ),
    "NaN in a stream, in its first batch": (
        lambda: DataLoader(Passing(lambda i: (NAN if i == 1 else image(i), i)), 4),
        {},
        r"Task 0 holds NaN or infinite values: in 1 samples of a batch of its stream \(rows \[1\]\)",
    ),
    "a stream of which the samples cannot be told": (
        lambda: DataLoader(Passing(lambda i: (image(i), image(i + 50))), 4),
        {},
        r"could be any of",
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_said_before_a_step_is_trained(name):
    make, settings, message = BEFORE[name]
    module = Recorder()
    with pytest.raises((ValueError, TypeError, MisconfigurationException), match=message):
        fit(make(), module=module, **settings)
    watched = name == "the same for a denoiser, where an encoder can read them"  # said once the step was watched
    assert len(module.batches) <= watched


def test_nan_later_in_a_stream_is_said_before_the_step_on_it():
    module = Recorder()
    with pytest.raises(ValueError, match=r"in 1 samples of a batch of its stream \(rows \[2\]\)"):
        fit(DataLoader(Passing(lambda i: (NAN if i == 6 else image(i), i)), 4), module=module)
    assert len(module.batches) == 1


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument")
def test_a_step_that_takes_its_batches_itself():
    class Takes(Recorder):
        def training_step(self, dataloader_iter):
            batch, _, _ = next(dataloader_iter)
            return super().training_step(batch, 0)

    with pytest.raises(MisconfigurationException, match="takes its batches from dataloader_iter"):
        fit(DataLoader(Stream(), 4), module=Takes())
    monitor, _ = fit(DataLoader(DATA, 4), module=Takes())  # known by position
    assert len(monitor.buffer) == 4


class Changes(Indexed):
    """Its samples or their number change in the second epoch."""

    change_to = None
    reads = 0


class InSecondEpoch(Recorder):
    def __init__(self, action):
        super().__init__()
        self.action = action

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.action()


@pytest.mark.filterwarnings("ignore:.*were not what they had been")
def test_data_that_is_replaced_is_kept_as_it_is_now():
    data = Indexed(12)

    def replace():
        data.first = 100

    monitor, _ = fit(DataLoader(data, 4), module=InSecondEpoch(replace))
    check_kept(monitor.buffer)
    assert set(monitor.buffer.labels.tolist()) <= set(range(100, 112))


def test_replaced_data_is_said():
    data = Indexed(12)

    def replace():
        data.first = 100

    with pytest.warns(UserWarning, match=r"4 of 4 chosen samples of task 0 were not what they had been .*augmentation"):
        fit(DataLoader(data, 4), module=InSecondEpoch(replace))


def test_data_that_shrinks():
    data = Indexed(12)

    def shrink():
        data.n = 8

    with pytest.warns(UserWarning, match=r"\(Indexed\) has shrunk from 12 to 8 samples while it was trained on"):
        monitor, _ = fit(DataLoader(data, 4), module=InSecondEpoch(shrink), denoiser=Shrink())
    assert sorted(monitor.tracker.probe(0).batch[1].tolist()) == list(range(8))
    check_kept(monitor.buffer)


def test_data_that_grows():
    data = Indexed(12)

    def grow():
        data.n = 20

    monitor, module = fit(DataLoader(data, 4), module=InSecondEpoch(grow), denoiser=Shrink())
    assert set(module.tasks[0]) == set(range(20)) or set(module.tasks[0]) == set(range(12))
    assert set(monitor.tracker.probe(0).batch[1].tolist()) == set(module.tasks[0])
    check_kept(monitor.buffer)


@pytest.mark.filterwarnings("ignore:InSecondEpoch could not be measured at the boundary")  # its loss is NaN there, too
def test_nan_at_the_second_reading_names_the_samples_and_changes_nothing():
    class Breaks(Indexed):
        broken = False

        def __getitem__(self, index):
            found, label = super().__getitem__(index)
            return (found / 0 * 0, label) if self.broken and index == 3 else (found, label)

    data = Breaks(12)

    def break_it():
        data.broken = True

    buffer = EnergyReplayBuffer(12, "random")
    monitor = ForgettingMonitor(buffer, beta=1.0, probe_size=1)
    with pytest.raises(ValueError, match=r"1 of 12 chosen samples of task 0 were finite .* \(positions \[3\]\)"):
        fit_tasks(trainer(monitor), InSecondEpoch(break_it), [DataLoader(data, 12)])
    assert (len(buffer), len(monitor.history), monitor.tracker.open_task) == (0, 0, 0)


# -- what is said of the batches


@pytest.mark.filterwarnings("ignore:Nothing is replayed in this task")  # the second fit is of the loader itself
def test_what_was_taken_is_said_once(caplog):
    with caplog.at_level("INFO"):
        monitor, _ = fit(DataLoader(DATA, 4))
        fit_tasks(trainer(monitor), Recorder(), [DataLoader(DATA, 4)])
    line = "samples: batch[0], 1x6x6 in [0.000106, 0.998]; labels: batch[1]; condition: batch[1]"
    assert [record.message for record in caplog.records if "samples:" in record.message] == [
        f"ForgettingMonitor takes {line}"
    ]
    assert monitor.table().splitlines()[-1] == line


@pytest.mark.parametrize("stream", [False, True])
def test_columns_of_the_datamodule(stream):
    def make(i):
        return {"lr": image(i)[:, ::2, ::2], "hr": image(i), "digit": i}

    loader = DataLoader(Passing(make) if stream else Made(make), 4)

    class Takes(Recorder):
        def training_step(self, batch, batch_idx):
            return super().training_step({"image": batch["hr"], "label": batch["digit"]}, batch_idx)

    seen = []

    class Sees(Shrink):
        def predict_clean(self, noisy, timestep, condition=None):
            seen.append((noisy.shape[1:], sorted(condition)))
            return noisy

    buffer = EnergyReplayBuffer(4, "random")
    monitor = ForgettingMonitor(buffer, beta=1.0, denoiser=Sees(), timesteps=[1])
    data = ReplayDataModule(loader, buffer, samples="hr", labels="digit")
    fit_tasks(trainer(monitor), Takes(), [data])
    assert buffer.vectors.shape == (4, 36)
    kept = buffer.gather(torch.arange(4))
    assert torch.equal(buffer.vectors, kept["hr"].flatten(1))
    assert torch.equal(buffer.labels, kept["digit"])
    assert set(map(str, seen)) == {str((torch.Size([1, 6, 6]), ["digit", "lr"]))}  # not the answer
    other = ForgettingMonitor(EnergyReplayBuffer(4, "random"), beta=1.0, samples="lr")
    with pytest.raises(MisconfigurationException, match="say in one place where samples, labels and condition are"):
        fit_tasks(trainer(other), Takes(), [ReplayDataModule(loader, other.buffer, samples="hr")])


# -- replayed samples are marked


def dicts(task=0):
    return DataLoader(Made(lambda i: {"image": image(i + 100 * task), "label": i + 100 * task}), 4)


def test_replayed_samples_are_marked():
    buffer = EnergyReplayBuffer(4, "random")
    module = Recorder()
    monitor = ForgettingMonitor(buffer, beta=1.0)
    fit_tasks(trainer(monitor), module, [ReplayDataModule(dicts(t), buffer, mark="replayed") for t in (0, 1)])
    first, second = module.batches[:6], module.batches[6:]
    assert all(batch["replayed"].dtype == torch.bool and not batch["replayed"].any() for batch in first)
    for batch in second:
        assert torch.equal(batch["replayed"], batch["label"] < 100)
        assert batch["replayed"].sum() == 4
    assert set(buffer.gather(torch.arange(4))) == {"image", "label"}  # the mark is not kept


def test_marks_of_a_stream_are_not_kept():
    buffer = EnergyReplayBuffer(4, "random")
    loaders = [
        DataLoader(Passing(lambda i, t=t: {"image": image(i + 100 * t), "label": i + 100 * t}), 4) for t in (0, 1)
    ]
    monitor, module = ForgettingMonitor(buffer, beta=1.0), Recorder()
    fit_tasks(trainer(monitor), module, [ReplayDataModule(loader, buffer, mark="replayed") for loader in loaders])
    assert set(buffer.gather(torch.arange(4))) == {"image", "label"}
    assert sorted(set(monitor.tracker.probe(1).ids.tolist())) == monitor.tracker.probe(1).ids.tolist()
    assert len(monitor.tracker.probe(1).ids) == 12  # none of the replayed ones


Pair = namedtuple("Pair", "image label")


@pytest.mark.filterwarnings("ignore:Nothing is replayed. .*and no ForgettingMonitor")
@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (lambda: DataLoader(DATA, 4), TypeError, "adds a column to batches that are mappings .* got list"),
        (
            lambda: DataLoader(Made(lambda i: {"image": image(i), "replayed": i}), 4),
            ValueError,
            r"is the name of a column that the batches have: \['image', 'replayed'\]",
        ),
    ],
)
def test_what_cannot_be_marked(loader, error, message):
    buffer = EnergyReplayBuffer(4, "random")
    with pytest.raises(error, match=message):
        fit_tasks(trainer(), Recorder(), [ReplayDataModule(loader(), buffer, mark="replayed")])
