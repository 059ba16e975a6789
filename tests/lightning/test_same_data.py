"""A resumed run notices other data, another order of tasks and other settings; and goes on with what has passed."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.small import trainer
from tests.lightning.streams import Indexed, Recorder, Stream

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # lightning, at every fit
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),  # lightning: a copy of the checkpoint
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


class PowerCutError(Exception):
    pass


class CutAt(Callback):
    def __init__(self, step, end=False):
        self.step, self.end = step, end

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and not self.end:
            raise PowerCutError

    def on_train_end(self, trainer, pl_module):
        if trainer.global_step == self.step and self.end:
            raise PowerCutError


def tasks(order=(0, 1, 2), n=20, dataset=Indexed):
    return [DataLoader(dataset(n, 1000 * task), 5) for task in order]


def run(folder, *callbacks, loaders=None, allow=False, resume=False, buffer=None, settings=None, **limits):
    buffer = EnergyReplayBuffer(6, "random", seed=1) if buffer is None else buffer
    monitor = ForgettingMonitor(buffer, **{"beta": 1.0, "probe_size": 30, "seed": 2, **(settings or {})})
    saving = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)
    runner = trainer(*callbacks, monitor, saving, enable_checkpointing=True, **{"max_epochs": 1, **limits})
    module = Recorder()
    data = [ReplayDataModule(loader, buffer) for loader in (tasks() if loaders is None else loaders)]
    fit_tasks(runner, module, data, ckpt_path="last" if resume else None, allow_changes=allow)
    return monitor, module


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """Cut in the second task's second epoch: a plain loader then begins the epoch anew, but all has passed before."""
    folder = tmp_path_factory.mktemp("cut")
    with pytest.raises(PowerCutError):
        run(folder, CutAt(14), max_epochs=2)
    return folder


def go_on(cut, tmp_path, **changes):
    """Resume a copy."""
    for file in cut.glob("*.ckpt"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return run(tmp_path, resume=True, max_epochs=2, **changes)


def test_the_same_data_and_settings_go_on(cut, tmp_path):
    whole, _ = run(tmp_path / "whole", max_epochs=2)
    monitor, _ = go_on(cut, tmp_path)
    energies = [[probe.energy.tolist() for record in m.history for probe in record.probes] for m in (monitor, whole)]
    assert energies[0] == energies[1]  # weights depend on global random numbers, which no checkpoint holds


class Others(Indexed):
    pass


@pytest.mark.parametrize(
    ("loaders", "message"),
    [
        (lambda: tasks((0, 2, 1)), r"Task 1 was 20 samples of Indexed .contents .*, and is 20 samples of Indexed"),
        (
            lambda: tasks((1, 0, 2)),
            r"Task 0 was .* and is .*, the data of the checkpoint's task 1\. Resume with the same",
        ),
        (lambda: [tasks()[0], tasks()[0], tasks()[2]], r"Task 1 .* now, the data of the checkpoint's task 0"),
        (lambda: tasks(n=21), r"Task 0 was 20 samples .* is 21 samples"),
        (lambda: [tasks()[0], tasks(n=21)[1], tasks()[2]], r"Task 1 was 20 samples .* is 21 samples"),
        (lambda: tasks(dataset=Others), r"Task 0 was 20 samples of Indexed .* is 20 samples of Others"),
        (
            lambda: [tasks()[0], DataLoader(Indexed(20, 1000), 5, sampler=SubsetRandomSampler(range(15))), tasks()[2]],
            r"Task 1 was 20 samples .* is 15 samples",
        ),
        (lambda: [tasks()[0], DataLoader(Stream(), 5), tasks()[2]], r"Task 1 was 20 .* is a stream of Stream"),
    ],
)
def test_other_data_is_an_error_that_names_both(cut, tmp_path, loaders, message):
    with pytest.raises(ValueError, match=message):
        go_on(cut, tmp_path, loaders=loaders())
    go_on(cut, tmp_path, loaders=loaders(), allow=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"beta": 2.0}}, r"with beta=1.0, this run has beta=2.0"),
        ({"settings": {"beta": "auto"}}, r"with beta=1.0, this run has beta=auto"),
        ({"settings": {"seed": 3}}, r"with seed=2, this run has seed=3"),
        ({"buffer": lambda: EnergyReplayBuffer(6, "random", seed=9)}, r"buffer_seed=1, this run has buffer_seed=9"),
        ({"buffer": lambda: EnergyReplayBuffer(6, "herding", seed=1)}, r"policy=Random\(\), this run has policy=ByVec"),
        (
            {"buffer": lambda: EnergyReplayBuffer(6, "random", seed=1, groups=None)},
            r"groups=task, this run has groups=None",
        ),
        (
            {"buffer": lambda: EnergyReplayBuffer(6, "random", seed=1, similarity="dot")},
            r"similarity=distance, this run has similarity=dot",
        ),
        ({"settings": {"encoder": torch.nn.Flatten()}}, r"encoder=None, this run has encoder=Flatten\(\)"),
    ],
)
def test_other_settings_are_an_error_that_names_both(cut, tmp_path, change, message):
    def made():
        return {name: value() if callable(value) else value for name, value in change.items()}

    with pytest.raises(ValueError, match=message):
        go_on(cut, tmp_path, **made())
    go_on(cut, tmp_path, allow=True, **made())


def test_a_boundary_that_is_made_up_for_is_of_the_same_data(tmp_path):
    """Killed between the task's last checkpoint and its end: nothing is trained any more, but measured and kept."""
    with pytest.raises(PowerCutError):
        run(tmp_path, CutAt(8, end=True))
    with pytest.raises(ValueError, match=r"Task 1 was .*, and is"):
        run(tmp_path, resume=True, loaders=tasks((0, 2, 1)))
    monitor, _ = run(tmp_path, resume=True)
    assert len(monitor.history) == 3


def test_a_checkpoint_from_before_fingerprints_goes_on(cut, tmp_path):
    for file in cut.glob("*.ckpt"):
        state = torch.load(file, weights_only=True)
        for name in ("settings", "data", "passed", "encoder", "calibrates"):
            del state["callbacks"]["ForgettingMonitor"][name]
        torch.save(state, tmp_path / file.name)
    monitor, _ = run(tmp_path, resume=True, max_epochs=2)
    assert len(monitor.history) == 3


def test_augmented_data_is_told_by_class_and_count(tmp_path):
    def jitter(image):
        return image + torch.rand(())

    def loaders(n=20):
        return [DataLoader(Indexed(n, 1000 * task, jitter), 5) for task in range(2)]

    with pytest.warns(UserWarning, match="were not what they had been"), pytest.raises(PowerCutError):
        run(tmp_path, CutAt(6), loaders=loaders())
    with pytest.raises(ValueError, match=r"was 20 samples of Indexed when .* is 19 samples"):
        run(tmp_path, resume=True, loaders=loaders(19))
    with pytest.warns(UserWarning, match="were not what they had been"):
        run(tmp_path, resume=True, loaders=loaders())


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(Stream(20), 5),
        lambda: DataLoader(Stream(20, shuffled=True), 5),
        lambda: DataLoader(Indexed(20), 3, shuffle=True, drop_last=True),
    ],
)
@pytest.mark.parametrize("end", [False, True])
def test_what_has_passed_goes_on(tmp_path, loader, end):
    """All that was trained on before the cut and after it, and nothing else, is measured and kept."""
    settings = {"loaders": [loader()], "max_epochs": 2, "settings": {"probe_size": 100}}
    steps = 2 * len(list(loader()))
    module = Recorder()

    class Keeps(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            module.tasks.append(batch[1].tolist())

    with pytest.raises(PowerCutError):
        run(tmp_path, CutAt(steps if end else 3, end), Keeps(), **settings)
    monitor, _ = run(tmp_path, Keeps(), resume=True, **settings)
    trained = {label for batch in module.tasks for label in batch}
    labels = monitor.buffer.labels.tolist()
    assert set(labels) <= trained
    images, again = monitor.buffer.gather(torch.arange(len(monitor.buffer)))
    assert torch.equal(monitor.buffer.vectors, images.flatten(1))
    assert again.tolist() == labels
    probe = monitor.tracker.probe(0)
    places = {
        tuple(row.tolist()): index
        for index, row in enumerate(torch.stack([Indexed()[i][0].flatten() for i in range(20)]))
    }
    assert {places[tuple(row.tolist())] for row in probe.vectors} == trained


def test_a_tensor_data_set_that_was_edited(tmp_path):
    def loaders(shift=0.0):
        data = torch.arange(40.0).view(20, 2)
        return [DataLoader(TensorDataset(data + shift, torch.arange(20)), 5)]

    with pytest.raises(PowerCutError):
        run(tmp_path, CutAt(2), loaders=loaders())
    with pytest.raises(ValueError, match=r"Task 0 was 20 samples of TensorDataset \(contents"):
        run(tmp_path, resume=True, loaders=loaders(0.5))
