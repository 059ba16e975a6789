"""Files and checkpoints that older versions wrote are loaded, and a run goes on from them."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import (
    EnergyReplayBuffer,
    ForgettingMonitor,
    ForgettingTracker,
    ReplayDataModule,
    TaskSource,
    fit_tasks,
)
from hopfield_replay.functional import energy

FORMATS = Path(__file__).parents[1] / "formats"


def data(task):
    """What the files were made of."""
    generator = torch.Generator().manual_seed(task)
    return DataLoader(
        TensorDataset(torch.rand(12, 1, 2, 2, generator=generator) + task, torch.arange(12) % 2), batch_size=4
    )


def test_every_file_is_listed():
    listed = (FORMATS / "README.md").read_text()
    assert all(f"`{path.name}`" in listed for path in FORMATS.iterdir() if path.name != "README.md")


@pytest.mark.parametrize(("number", "drawn"), [(2, (0, 0)), (3, (30, 10)), (4, (30, 10))])
def test_a_buffer(number, drawn):
    buffer = EnergyReplayBuffer(4)
    buffer.load(FORMATS / f"buffer_{number}.safetensors")
    assert buffer.tasks.tolist() == [0, 0, 1, 1]
    images, labels = buffer.gather(torch.arange(4))
    for row in range(4):
        task, position = divmod(int(buffer.ids[row]), 1 << 40)
        expected, label = data(task).dataset[position]
        assert torch.equal(images[row], expected)
        assert labels[row] == label
        every = data(task).dataset.tensors[0].flatten(1)
        alone = energy(expected.flatten()[None], every, buffer.beta, exclude=torch.tensor([position]))
        assert float(buffer.energies[row]) == pytest.approx(float(alone), rel=1e-5)
    assert (buffer.drawn.new, buffer.drawn.replayed) == drawn
    assert (buffer.provenance.tasks, buffer.provenance.samples) == ({}, {})
    assert buffer.predicted_rises is None
    again = EnergyReplayBuffer(4)
    again.load_state_dict(buffer.state_dict())  # in the new format
    assert torch.equal(again.sample(9)[0], buffer.sample(9)[0])


@pytest.mark.parametrize("name", ["tracker_1.pt", "tracker_2.pt"])
def test_a_tracker(name):
    tracker = ForgettingTracker(EnergyReplayBuffer(4), probe_size=3)
    tracker.load_state_dict(torch.load(FORMATS / name, weights_only=True))
    assert tracker.history[1].probes[0].loss_forgetting is None
    assert tracker.history[1].trust is None
    assert (tracker.history[1].probes[0].error is None) == (name == "tracker_1.pt")
    assert [record.task for record in tracker.history] == [0, 1]
    assert tracker.beta == tracker.buffer.beta == tracker.history[0].beta
    lost = tracker.history[1].probes[0]
    new, kept = data(1).dataset.tensors[0].flatten(1), tracker.buffer
    assert lost.energy.shape == (3,)
    assert float(lost.intrinsic.mean()) == pytest.approx(float((lost["energy"] - lost["energy_start"]).mean()))
    assert tracker.history[1].replay_ratio == 0.5
    tracker.begin_task(TaskSource(data(2)))
    record = tracker.end_task(TaskSource(data(2)))
    assert len(record.probes) == 3
    assert kept.tasks.unique().tolist() == [0, 1, 2]
    assert new.shape == (12, 4)


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        return self.l(batch[0].flatten(1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.filterwarnings("ignore:No denoiser was found", "ignore:.*does not have many workers")
@pytest.mark.filterwarnings(
    "ignore:.*The number of training batches", "ignore:Be aware that when using", "ignore:You.re resuming"
)
def test_a_checkpoint_in_the_middle_of_a_task(tmp_path):
    """Written at step 2 of task 3 of 3, with its monitor's counts of replay beside the history."""
    buffer = EnergyReplayBuffer(4)
    monitor = ForgettingMonitor(buffer, probe_size=3)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[monitor],
    )
    saved = torch.load(FORMATS / "checkpoint_1.pt", weights_only=True)
    assert saved["callbacks"]["ForgettingMonitor"]["format"] == "hopfield-replay tracker 1"
    datamodules = [ReplayDataModule(data(task), buffer, replay_ratio=0.5) for task in range(3)]
    fit_tasks(trainer, Module(), datamodules, ckpt_path=FORMATS / "checkpoint_1.pt")
    assert [record.task for record in monitor.history] == [0, 1, 2]
    assert [record.replay_ratio for record in monitor.history] == [0.0, 0.5, 0.5]
    assert trainer.global_step == 18


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("settings", 0.5),
        ("settings", {"seed": torch.zeros(2)}),
        ("data", 3),
        ("data", {"0": 1.0}),
        ("data", {"0": {"dataset": "Stream"}}),
        ("data", {"first": {"dataset": "Stream", "samples": None, "contents": []}}),
        ("data", {"0": {"dataset": "Stream", "samples": None, "contents": ["x"]}}),
        ("taken", 7),
    ],
)
def test_damaged_parts_that_name_the_run(part, value):
    tracker = ForgettingTracker(beta=1.0)
    source = TaskSource([torch.eye(4)])
    tracker.begin_task(source)
    tracker.end_task(source)
    state = tracker.state_dict()
    fresh = ForgettingTracker(beta=1.0)
    with pytest.raises(ValueError, match="state of the tracker is damaged"):
        fresh.load_state_dict({**state, part: value})
    assert fresh.history == []
    fresh.load_state_dict(state)
