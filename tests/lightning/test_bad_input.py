"""Wrong uses, each answered before a step is trained by one sentence that names what was given and the cure."""

import re

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from hopfield_replay import (
    EnergyReplayBuffer,
    ForgettingMonitor,
    ForgettingTracker,
    ReplayBatches,
    ReplayDataModule,
    TaskSource,
    audit,
    balanced,
    fit_tasks,
    forecast,
    select,
)
from hopfield_replay.policies import GreedyGain
from hopfield_replay.tracker import sample_ids
from tests.lightning.small import Foreign, Images, loader, trainer
from tests.lightning.styles import Tutorial

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
]


class Shrink:
    """A denoiser."""

    num_timesteps = 10

    def noise(self, clean, timestep, noise):
        return clean + noise

    def predict_clean(self, noisy, timestep, condition=None):
        return noisy / 2

    def snr(self, timestep):
        return 1.0


class Half:
    num_timesteps = 10

    def noise(self, clean, timestep, noise):
        return clean


class Short(Shrink):
    def predict_clean(self, noisy):
        return noisy


class Data(LightningDataModule):
    pass


def tasks(buffer=None, count=2, **settings):
    data = [loader(task, **settings) for task in range(count)]
    return data if buffer is None else [ReplayDataModule(one, buffer) for one in data]


def filled(ids, labels=None, size=64, **settings):
    buffer = EnergyReplayBuffer(10, beta=1.0, **settings)
    column = torch.zeros(12, dtype=torch.long)
    batch = {"label": column, "image": torch.rand(12, 1, 8, 8)}
    buffer.update(batch, torch.rand(12, size), ids=ids, task=1000, labels=labels)
    return buffer


FREE = sample_ids(1000, torch.arange(12))
LABELS = torch.zeros(12, dtype=torch.long)


def with_buffer(buffer, **settings):
    fit_tasks(trainer(ForgettingMonitor(buffer, **settings)), Foreign(), tasks(buffer))


def with_denoiser(denoiser):
    fit_tasks(trainer(ForgettingMonitor(denoiser=denoiser)), Foreign(), tasks())


MEMBERS = "denoiser must have num_timesteps, noise, predict_clean and snr, got "
WRAP = " Wrap a model with hopfield_replay.denoisers.DiffusersDenoiser or CallableDenoiser."
LACKS = f"{MEMBERS}Half without predict_clean(noisy, timestep, condition) and snr(timestep).{WRAP}"
TO_LIST = "For one task give a list of one."
ERRORS = {
    "a denoiser without its members": (lambda: ForgettingMonitor(denoiser=Half()), TypeError, LACKS),
    "a function that makes one": (
        lambda: with_denoiser(lambda module: Half()),
        TypeError,
        f"What was given as denoiser was called with the Foreign and made none: {LACKS}",
    ),
    "a function that returns nothing": (
        lambda: with_denoiser(lambda module: None),
        TypeError,
        f"What was given as denoiser was called with the Foreign and made none: {MEMBERS}None.{WRAP}",
    ),
    "a network in place of a denoiser": (
        lambda: ForgettingMonitor(denoiser=nn.Linear(2, 2)),
        TypeError,
        f"{MEMBERS}Linear.{WRAP}",
    ),
    "a denoiser of another signature": (
        lambda: ForgettingMonitor(denoiser=Short()),
        TypeError,
        f"{MEMBERS}Short, whose predict_clean(noisy) must be called as predict_clean(noisy, timestep, condition)."
        f"{WRAP}",
    ),
    "replay from nowhere": (
        lambda: fit_tasks(trainer(ForgettingMonitor()), Foreign(), [loader(), ReplayDataModule(loader(1))]),
        MisconfigurationException,
        "ReplayDataModule has no buffer, and its trainer has no ForgettingMonitor with one. Give both "
        "EnergyReplayBuffer(capacity=...), or the trainer ForgettingMonitor(buffer).",
    ),
    "a buffer with the ids of this run": (
        lambda: with_buffer(filled(torch.arange(12), LABELS)),
        ValueError,
        "which samples of task 0 would get. Fill it under ids that no task here has, such as "
        "hopfield_replay.tracker.sample_ids(1000, positions) with task=1000, or empty it with buffer.clear().",
    ),
    "a buffer without labels": (
        lambda: with_buffer(filled(FREE)),
        ValueError,
        "The samples of the task have labels, and those of the buffer have none: all must, or none. Give labels at "
        "buffer.update(labels=...) and in the batches, or leave them out of both (labels=False here).",
    ),
    "a buffer of another dimension": (
        lambda: with_buffer(filled(FREE, LABELS, size=32)),
        ValueError,
        "Task 0 has samples of 64 numbers (from position 0 of its data), but those before have 32; all need one "
        "shape. Resize them, or pass encoder=.",
    ),
    "fewer places than tasks": (
        lambda: fit_tasks(trainer(ForgettingMonitor(two := EnergyReplayBuffer(2))), Foreign(), tasks(two, 3)),
        MisconfigurationException,
        "3 tasks cannot share the 2 places of EnergyReplayBuffer(0 of 2, policy=GreedyGain, groups='task', "
        "sampling='rise_weight'); raise capacity to at least 3, or let all samples compete with groups=None and a "
        'policy such as "reservoir".',
    ),
    "swapped arguments": (
        lambda: fit_tasks(trainer(), tasks(), Foreign()),
        TypeError,
        "fit_tasks takes (trainer, model, datamodules), got (Trainer, list, Foreign): model and datamodules are "
        "swapped.",
    ),
    "a swapped trainer": (
        lambda: fit_tasks(Foreign(), trainer(), tasks()),
        TypeError,
        "fit_tasks takes (trainer, model, datamodules), got (Foreign, Trainer, list): trainer and model are swapped.",
    ),
    "a class of modules": (
        lambda: fit_tasks(trainer(), Foreign, tasks()),
        TypeError,
        "model must be a LightningModule, got the class Foreign.",
    ),
    "one task without a list": (
        lambda: fit_tasks(trainer(), Foreign(), loader()),
        TypeError,
        f"datamodules must be a list with one entry for each task, got DataLoader. {TO_LIST}",
    ),
    "a class of datamodules": (
        lambda: fit_tasks(trainer(), Foreign(), [loader(), Data]),
        TypeError,
        "datamodules[1] is the class Data; give an object of it: Data(...).",
    ),
    "a data set": (
        lambda: fit_tasks(trainer(), Foreign(), [loader(), Images()]),
        TypeError,
        "datamodules[1] is the data set Images; wrap it: DataLoader(dataset, batch_size=..., shuffle=True).",
    ),
    "no task": (
        lambda: fit_tasks(trainer(), Foreign(), [loader(), None]),
        TypeError,
        "datamodules[1] must be a LightningDataModule or a loader, got None.",
    ),
    "replay of a loop of one's own": (
        lambda: fit_tasks(trainer(), Foreign(), [ReplayBatches(loader(), EnergyReplayBuffer(2))]),
        TypeError,
        "datamodules[0] is a ReplayBatches, which is for loops of one's own; give ReplayDataModule(...).",
    ),
    "replay around replay": (
        lambda: ReplayDataModule(ReplayDataModule(loader(), EnergyReplayBuffer(2)), EnergyReplayBuffer(2)),
        TypeError,
        "datamodule is a ReplayDataModule, which replays already; give what it wraps.",
    ),
    "a swapped buffer": (
        lambda: ReplayDataModule(EnergyReplayBuffer(2), loader()),
        TypeError,
        "datamodule is an EnergyReplayBuffer, and buffer a DataLoader: give ReplayDataModule(datamodule, buffer) in "
        "this order.",
    ),
    "several loaders": (
        lambda: ReplayDataModule([loader(), loader()], EnergyReplayBuffer(2)),
        TypeError,
        "ReplayLoader joins replay to one loader, got list. Merge the data sets into one loader.",
    ),
    "a policy misspelt": (
        lambda: EnergyReplayBuffer(2, "greedygain"),
        ValueError,
        "or pass an object with select(). Did you mean 'greedy_gain'?",
    ),
    "a sampling misspelt": (
        lambda: EnergyReplayBuffer(2, sampling="weigth"),
        ValueError,
        'sampling must be "uniform", "weight", "rise_weight", "energy", "rise", "gain" or None, got \'weigth\'. Did '
        "you mean 'weight'?",
    ),
    "groups misspelt": (
        lambda: EnergyReplayBuffer(2, groups="tasks"),
        ValueError,
        "groups must be None, \"task\" or \"label\", got 'tasks'. Did you mean 'task'?",
    ),
    "auto misspelt": (
        lambda: EnergyReplayBuffer(2, beta="Auto"),
        ValueError,
        "beta must be a number or \"auto\", got 'Auto'. Did you mean 'auto'?",
    ),
    "auto misspelt in a monitor": (
        lambda: ForgettingMonitor(beta="AUTO"),
        ValueError,
        "beta must be a number or \"auto\", got 'AUTO'. Did you mean 'auto'?",
    ),
    "a share in per cent": (
        lambda: ReplayDataModule(loader(), EnergyReplayBuffer(2), replay_ratio=50),
        ValueError,
        "replay_ratio must lie in (0, 1), got 50: it is the share of every training batch that is replayed. For no "
        "replay, pass the loader itself.",
    ),
    "a capacity as a share": (
        lambda: EnergyReplayBuffer(0.1),
        TypeError,
        "capacity must be a whole number, got 0.1.",
    ),
    "one timestep": (
        lambda: ForgettingMonitor(timesteps=100),
        TypeError,
        "timesteps must be a list of numbers, or None for the default, got 100.",
    ),
    "a class of callbacks": (
        lambda: fit_tasks(trainer(ForgettingMonitor), Foreign(), tasks()),
        TypeError,
        "The Trainer's callbacks hold the class ForgettingMonitor; give an object of it: ForgettingMonitor(...).",
    ),
    "tasks in a list of their own": (
        lambda: fit_tasks(trainer(), Foreign(), [[Data(), Data()]]),
        TypeError,
        "datamodules[0] is a list of 2 datamodules; datamodules takes them one after the other, one for each task.",
    ),
    "replay around all tasks at once": (
        lambda: ReplayDataModule([Data(), Data()], EnergyReplayBuffer(2)),
        TypeError,
        "datamodule is a list of 2 datamodules; give a ReplayDataModule for each: [ReplayDataModule(one, buffer) for "
        "one in datamodules].",
    ),
    "tensors for tasks": (
        lambda: fit_tasks(trainer(), Foreign(), [torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8)]),
        TypeError,
        "datamodules[0] is a Tensor of shape (6, 1, 8, 8); wrap it: DataLoader(TensorDataset(tensor), batch_size=..., "
        "shuffle=True).",
    ),
    "replay around an array": (
        lambda: ReplayDataModule(torch.rand(6, 2).numpy(), EnergyReplayBuffer(2)),
        TypeError,
        "datamodule is a ndarray of shape (6, 2); wrap it: DataLoader(TensorDataset(tensor),",
    ),
    "replay around a data set": (
        lambda: ReplayDataModule(Images(), EnergyReplayBuffer(2)),
        TypeError,
        "datamodule is the data set Images; wrap it: DataLoader(dataset, batch_size=..., shuffle=True).",
    ),
    "replay around a class": (
        lambda: ReplayDataModule(Data, EnergyReplayBuffer(2)),
        TypeError,
        "datamodule is the class Data; give an object of it: Data(...).",
    ),
    "tasks by name": (
        lambda: fit_tasks(trainer(), Foreign(), {"old": loader(), "new": loader(1)}),
        TypeError,
        "datamodules must be a list with one entry for each task, got dict. Give list(datamodules.values()).",
    ),
    "tasks from a generator": (
        lambda: fit_tasks(trainer(), Foreign(), (one for one in tasks())),
        TypeError,
        "got generator. Give list(datamodules), in the order of the tasks.",
    ),
    "a schedule of one argument": (
        lambda: ReplayDataModule(loader(), EnergyReplayBuffer(2), replay_ratio=lambda task: 0.5),
        TypeError,
        "replay_ratio must be a number or a function of task and step, got a function that is called as (task).",
    ),
    "a mark that is no name": (
        lambda: ReplayDataModule(loader(), EnergyReplayBuffer(2), mark=True),
        TypeError,
        "mark must be the name of a column, or None, got True.",
    ),
    "a policy's class": (
        lambda: EnergyReplayBuffer(2, policy=GreedyGain),
        TypeError,
        "policy must be a name or an object with a method select(candidates, k), got the class GreedyGain; give an "
        "object of it: GreedyGain(...).",
    ),
    "an object that chooses nothing": (
        lambda: EnergyReplayBuffer(2, policy=Data()),
        TypeError,
        "policy must be a name or an object with a method select(candidates, k), got Data.",
    ),
    "equal shares of labels without labels": (
        lambda: with_buffer(EnergyReplayBuffer(4, balanced("random", by="label")), labels=False),
        ValueError,
        "The policy Balanced needs a tensor of integers (n,) in every batch, and found none that is called label,",
    ),
    "a function that generates": (
        lambda: ForgettingMonitor(EnergyReplayBuffer(4), generated=lambda count: torch.rand(count, 1, 8, 8)),
        TypeError,
        "generated must be a GeneratedTask, got function. Give GeneratedTask(sample, count=...) with a function of "
        "the number of samples.",
    ),
    "a seed in words": (
        lambda: ForgettingMonitor(seed="first"),
        TypeError,
        "seed must be a whole number, got 'first'.",
    ),
    "a timestep in words": (
        lambda: ForgettingMonitor(timesteps=["early", 3]),
        TypeError,
        "timesteps must be finite numbers, got 'early'.",
    ),
    "nothing set aside": (
        lambda: ForgettingMonitor(reserve=0),
        ValueError,
        "reserve must be a whole number >= 1, got 0.",
    ),
    "a file for a folder": (
        lambda: EnergyReplayBuffer(2, storage=__file__),
        FileExistsError,
        "must be a folder, and a file is in its place.",
    ),
    "paths for samples": (
        lambda: forecast("old/", "new/"),
        TypeError,
        "Expected samples (a tensor, a DataLoader or an iterable of batches), got the path 'old/'. Images are read "
        "with hopfield_replay.analysis.read_collection, or by the hopfield-replay commands.",
    ),
    "a datamodule for samples": (
        lambda: select(ReplayDataModule(loader(), EnergyReplayBuffer(2)), keep=2),
        TypeError,
        "Expected a DataLoader or an iterable of batches, got ReplayDataModule; give one of its loaders, such as "
        "train_dataloader() after setup().",
    ),
    "one policy to compare": (
        lambda: forecast(torch.rand(9, 2), torch.rand(9, 2), policies="random"),
        TypeError,
        "policies must be a list of names, got 'random'; give ['random'].",
    ),
    "files for models": (
        lambda: audit("before.ckpt", "after.ckpt", torch.rand(9, 2)),
        TypeError,
        "old must be a Denoiser or a torch module that holds one, got str. hopfield_replay.checkpoints.load_version "
        "opens a file, and so does hopfield-replay audit.",
    ),
    "a column misspelt": (
        lambda: with_buffer(EnergyReplayBuffer(4), samples="images"),
        ValueError,
        "samples='images' is not in the batch, a dict that holds batch['label'], batch['image'].",
    ),
}


@pytest.fixture
def untrained(monkeypatch):
    """No step may be trained."""

    def step(self, batch, batch_idx):
        raise AssertionError("a step was trained")

    monkeypatch.setattr(Foreign, "training_step", step)


@pytest.mark.parametrize(("use", "error", "sentence"), ERRORS.values(), ids=ERRORS)
def test_a_wrong_use_is_refused_before_training(use, error, sentence, untrained):
    with pytest.raises(error, match=re.escape(sentence)):
        use()


def test_a_loop_of_ones_own_is_told_what_its_denoiser_lacks():
    tracker, source = ForgettingTracker(), TaskSource(loader())
    tracker.begin_task(source)
    with pytest.raises(TypeError, match=re.escape(LACKS)):
        tracker.end_task(source, denoiser=Half())
    assert tracker.end_task(source, denoiser=Shrink()).probes[0].error is not None


def test_a_function_that_needs_the_first_step_is_asked_again():
    class Late(Foreign):
        def training_step(self, batch, batch_idx):
            self.denoiser = Shrink()
            return super().training_step(batch, batch_idx)

    asked = []

    def denoiser(module):
        asked.append(hasattr(module, "denoiser"))
        return module.denoiser

    monitor = ForgettingMonitor(denoiser=denoiser, verify=False)
    fit_tasks(trainer(monitor), Late(), tasks())
    assert asked == [False, True]
    assert monitor.history[0].trust == "given"


def test_timesteps_that_the_inferred_schedule_does_not_have():
    module, data = Tutorial(), [DataLoader(Images(form="tuple"), batch_size=4)]
    before = module.net.last.weight.detach().clone()
    sentence = "timestep 5000 is out of range: this denoiser's timesteps are 0 <= t < 200."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        fit_tasks(trainer(ForgettingMonitor(timesteps=[5000])), module, data)
    assert torch.equal(module.net.last.weight, before)


@pytest.mark.parametrize("untyped", [lambda module: 1 / 0, Half])
def test_a_function_that_fails_is_told_before_a_weight_changes(untyped):
    module = Foreign()
    before = module.layer.weight.detach().clone()
    if untyped is Half:
        message = "raised TypeError: Half() takes no arguments. Give a Denoiser, or a function that makes one"
    else:
        message = "raised ZeroDivisionError: division by zero. Give a Denoiser, or a function that makes one"
    with pytest.raises(MisconfigurationException, match=re.escape(message)):
        fit_tasks(trainer(ForgettingMonitor(denoiser=untyped)), module, tasks())
    assert torch.equal(module.layer.weight, before)


WARNED = {
    "replay without a monitor": (
        lambda buffer: (trainer(), tasks(buffer)),
        "Nothing is replayed: EnergyReplayBuffer(0 of 4, policy=Random, groups='task', sampling='uniform') is empty, "
        "and no ForgettingMonitor fills it. Give the Trainer callbacks=[ForgettingMonitor(buffer)], unless code of "
        "yours fills it.",
    ),
    "a monitor beside plain loaders": (
        lambda buffer: (trainer(ForgettingMonitor(buffer)), tasks()),
        "Nothing is replayed in task 1: ForgettingMonitor fills EnergyReplayBuffer(0 of 4, policy=Random, "
        "groups='task', sampling='uniform'), but the training data is not wrapped. Give fit_tasks a "
        "ReplayDataModule(datamodule, buffer) for each task, or leave buffer out of ForgettingMonitor to measure "
        "only.",
    ),
    "two buffers that look alike": (
        lambda buffer: (trainer(ForgettingMonitor(buffer)), tasks(EnergyReplayBuffer(4, "random"))),
        "The training batches replay from one buffer, EnergyReplayBuffer(0 of 4, policy=Random, groups='task', "
        "sampling='uniform'), and ForgettingMonitor fills another object, EnergyReplayBuffer(0 of 4, policy=Random, "
        "groups='task', sampling='uniform'): what is replayed is not measured, and what is kept not replayed. Make "
        "one EnergyReplayBuffer, and give it to both ForgettingMonitor and ReplayDataModule.",
    ),
    "another buffer in a later task": (
        lambda buffer: (
            trainer(ForgettingMonitor(buffer)),
            [ReplayDataModule(loader(), buffer), ReplayDataModule(loader(1), EnergyReplayBuffer(3, "random"))],
        ),
        "The training batches replay from one buffer, EnergyReplayBuffer(0 of 3, policy=Random, groups='task', "
        "sampling='uniform'), and ForgettingMonitor fills another object, EnergyReplayBuffer(0 of 4, policy=Random, ",
    ),
    "tasks without an end": (
        lambda buffer: (trainer(ForgettingMonitor(buffer), max_epochs=-1), tasks(buffer)),
        "max_epochs=-1 sets no limit, so that the first of 2 tasks would be trained without end. Give the Trainer "
        "max_epochs or max_steps, which hold for each task.",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), WARNED.values(), ids=WARNED)
def test_what_may_be_meant_is_told_before_training(make, sentence, untrained):
    runner, data = make(EnergyReplayBuffer(4, "random"))
    with pytest.raises(UserWarning, match=re.escape(sentence)):  # warnings are errors in the tests
        fit_tasks(runner, Foreign(), data)


def test_fits_of_ones_own_are_told_when_something_could_be_replayed():
    monitor = ForgettingMonitor(EnergyReplayBuffer(4, "random"))
    runner = trainer(monitor, max_epochs=1)
    runner.fit(Foreign(), loader())
    runner.fit_loop.max_epochs = 2
    with pytest.raises(UserWarning, match="Nothing is replayed in this task: ForgettingMonitor fills"):
        runner.fit(Foreign(), loader(1))


@pytest.mark.parametrize(
    ("buffer", "data"),
    [
        (lambda: filled(FREE, LABELS), tasks),  # filled before the run
        (lambda: EnergyReplayBuffer(1, groups=None, policy="reservoir"), tasks),  # all tasks compete for the place
    ],
)
def test_right_uses_are_left_alone(buffer, data):
    kept = buffer()
    fit_tasks(trainer(ForgettingMonitor(kept), max_epochs=1), Foreign(), data(kept))
    assert len(kept) == kept.capacity
