"""Deletion is proven by searching the bytes of every file that was written; the command shows what is left."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from hopfield_replay import (
    EnergyReplayBuffer,
    ForgettingMonitor,
    ForgettingTracker,
    ReplayDataModule,
    TaskSource,
    fit_tasks,
)
from hopfield_replay.checkpoints import BufferFile
from hopfield_replay.cli import main
from tests.utilities.test_nested import same


def sample(task, position):
    """Eight numbers and a caption that occur nowhere else."""
    generator = torch.Generator().manual_seed(1000 * task + position)
    return {"x": torch.rand(8, generator=generator) + 3 * task, "text": f"the caption {task}-{position} of a sample"}


class Task(Dataset):
    def __init__(self, task, count=24):
        self.task, self.count = task, count

    def __len__(self):
        return self.count

    def __getitem__(self, position):
        return sample(self.task, position)


def loader(task):
    return DataLoader(Task(task), batch_size=8)


def traces(folder, task, position):
    """Files that hold anything of a sample: its numbers, as they are or as float64, its caption, plain or escaped."""
    made = sample(task, position)
    marks = [
        made["x"].numpy().tobytes(),
        made["x"].double().numpy().tobytes(),
        made["x"][2:6].numpy().tobytes(),
        made["text"].encode(),
        json.dumps(made["text"]).encode(),
    ]
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name for name, content in contents.items() if any(mark in content for mark in marks)}


@pytest.fixture
def run(tmp_path):
    """Two tasks tracked, with everything written that can be: rows, a buffer's file, states, a checkpoint."""
    buffer = EnergyReplayBuffer(8, storage=tmp_path / "rows", beta=2.0)
    tracker = ForgettingTracker(buffer, probe_size=6)
    for task in range(2):
        source = TaskSource(loader(task))
        tracker.begin_task(source)
        tracker.end_task(source)
    for task in range(2):  # probes hold their samples where a denoiser is known
        probe = tracker._probes[task]
        object.__setattr__(probe, "batch", TaskSource(loader(task)).fetch(probe.ids & ((1 << 40) - 1)))
    buffer.save(tmp_path / "buffer.safetensors")
    torch.save(tracker.state_dict(), tmp_path / "tracker.pkl")
    model = {"weight": torch.rand(3)}
    checkpoint = {"state_dict": model, "callbacks": {"ForgettingMonitor": tracker.state_dict()}, "loops": [1, (2, 3)]}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    return tracker, tmp_path


def both(tracker, task):
    """Positions of samples that are kept and followed, only kept, only followed, in reserve."""
    kept = {int(at) for at, t in zip(tracker.buffer.ids, tracker.buffer.tasks, strict=True) if t == task}
    followed = set(tracker.probe(task).ids.tolist())
    reserve = {int(at) for at in tracker.buffer._reserve[0].ids} if task == 1 else set()
    sets = [kept & followed, kept - followed, followed - kept - reserve, reserve - followed]
    return [min(found) & ((1 << 40) - 1) for found in sets if found]


@pytest.mark.heavy
@pytest.mark.parametrize("task", [0, 1])
def test_a_deletion_request_leaves_no_trace_in_any_file(run, task, capsys):
    tracker, folder = run
    gone = both(tracker, task)
    assert len(gone) >= 3
    for position in gone:
        assert traces(folder, task, position)  # it was there
    tracker.remove([(task << 40) + position for position in gone])
    for name in ("buffer.safetensors", "tracker.pkl", "last.ckpt"):
        named = [f"{task}:{position}" for position in gone]
        assert (
            main(["buffer", str(folder / name), "--output-dir", str(folder / f"seen {name}"), "--remove", *named]) == 0
        )
    for position in gone:
        assert traces(folder, task, position) == set()
    left = [p for p in range(24) if p not in gone and (task << 40) + p in tracker.buffer.ids.tolist()]
    assert {"buffer.safetensors", "tracker.pkl", "last.ckpt"} <= traces(folder, task, left[0])
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert list(state) == ["state_dict", "callbacks", "loops"]
    assert state["loops"] == [1, (2, 3)]
    resumed = ForgettingTracker(EnergyReplayBuffer(8), probe_size=6, allow_changes=True)
    resumed.load_state_dict(state["callbacks"]["ForgettingMonitor"])
    assert same(resumed.buffer.state_dict(), tracker.buffer.state_dict())
    assert [record.to_dict().keys() for record in resumed.history] == [r.to_dict().keys() for r in tracker.history]
    for mine, theirs in zip(resumed.history, tracker.history, strict=True):
        assert [p.ids.tolist() for p in mine.probes] == [p.ids.tolist() for p in theirs.probes]
    source = TaskSource(loader(2))  # and the run goes on
    resumed.begin_task(source)
    assert len(resumed.end_task(source).probes) == 3


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["buffer.safetensors", "tracker.pkl", "last.ckpt"])
def test_a_file_is_edited_by_itself(run, name):
    tracker, folder = run
    file = BufferFile(folder / name)
    gone = tracker.buffer.ids[[0, 5]]
    assert file.remove([*gone.tolist(), 77]) == 2
    assert len(next(iter(BufferFile(folder / name).buffers().values()))) == 8  # nothing is written yet
    file.save()
    (found,) = BufferFile(folder / name).buffers().values()
    assert found.ids.tolist() == [at for at in tracker.buffer.ids.tolist() if at not in gone.tolist()]
    tracker.buffer.remove(gone)
    assert torch.allclose(found.weights, tracker.buffer.weights)
    assert BufferFile(folder / name).remove(gone) == 0


def test_a_task_whose_samples_are_all_gone_is_followed_no_more(run):
    tracker, folder = run
    ids = torch.arange(24)
    tracker.remove(ids)
    assert [probe.task for record in tracker.history for probe in record.probes] == [1]
    file = BufferFile(folder / "tracker.pkl")
    file.remove(ids)
    file.save()
    assert all(traces(folder, 0, p) <= {"buffer.safetensors", "last.ckpt"} for p in range(24))


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def training_step(self, batch, batch_idx):
        return (self.layer(batch["x"]) - batch["x"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:No denoiser was found", "ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*The number of training batches", "ignore:You.re resuming")
def test_a_checkpoint_of_lightning_resumes_without_what_was_deleted(tmp_path):
    def parts():
        buffer = EnergyReplayBuffer(8)
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, callbacks=[ForgettingMonitor(buffer, probe_size=4)],
        )  # fmt: skip
        return trainer, buffer, [ReplayDataModule(loader(task), buffer) for task in range(3)]

    trainer, buffer, datamodules = parts()
    fit_tasks(trainer, Module(), datamodules[:2])
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    gone = int(buffer.ids[0])
    assert main(["buffer", str(tmp_path / "run.ckpt"), "--quiet", "--remove", f"0:{gone}"]) == 0
    assert traces(tmp_path, 0, gone) == set()
    trainer, buffer, datamodules = parts()
    fit_tasks(trainer, Module(), datamodules, ckpt_path=tmp_path / "run.ckpt")
    assert gone not in buffer.ids.tolist()
    assert buffer.newest_task == 2


def test_the_command_shows_and_verifies(tmp_path, capsys):
    buffer = EnergyReplayBuffer(4)
    x = torch.rand(12, 1, 4, 4)
    names = [f"{i}.png" for i in range(12)]
    buffer.update((x, torch.arange(12) % 3), x, ids=torch.arange(12), task=0, names=names, task_name="first")
    buffer.save(tmp_path / "b.safetensors")
    assert main(["buffer", str(tmp_path / "b.safetensors"), "--output-dir", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "buffer: 4 samples" in said
    assert "0 (first)     4               100.0%" in said
    assert "verified: every vector" in said
    told = json.loads((tmp_path / "out" / "buffer.json").read_text())["buffer"]
    assert [row["id"] for row in told["samples"]] == buffer.ids.tolist()
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    name = told["samples"][2]["name"]
    assert main(["buffer", str(tmp_path / "b.safetensors"), "--remove", name]) == 0
    assert "Removed 1 of 1" in capsys.readouterr().out
    (left,) = BufferFile(tmp_path / "b.safetensors").buffers().values()
    assert name not in left.provenance.samples.values()
    assert len(left) == 3


def test_vectors_of_another_encoder_are_a_problem_that_is_named(tmp_path, capsys):
    buffer = EnergyReplayBuffer(2)
    buffer.update(torch.rand(4, 8), torch.rand(4, 3), ids=torch.arange(4), task=0)
    buffer.save(tmp_path / "b.safetensors")
    assert main(["buffer", str(tmp_path / "b.safetensors")]) == 0
    assert "problem: vectors have dimension 3, the encoder's 8" in capsys.readouterr().out


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "is no file"),
        ({"state_dict": {}}, [], "holds no buffer"),
        ("state", ["--remove", "cats/a.png"], "is no TASK:POSITION, no id, and no name"),
        ("state", ["--remove", "5:3"], "holds none of the samples 5:3; nothing was changed"),
        ({"format": "hopfield-replay buffer 4"}, [], "damaged"),
        ({"format": "hopfield-replay buffer 4"}, ["--remove", "3"], "damaged"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_changes_nothing(tmp_path, capsys, content, arguments, message):
    path = tmp_path / "file.pt"
    if content is not None:
        buffer = EnergyReplayBuffer(2)
        buffer.update(torch.rand(4, 3), torch.rand(4, 3), ids=torch.arange(4), task=0)
        torch.save(buffer.state_dict() if content == "state" else content, path)
    before = path.read_bytes() if path.exists() else None
    assert main(["buffer", str(path), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert (path.read_bytes() if path.exists() else None) == before
