"""Signals of a cluster: SIGTERM is never lost, and a job that SLURM starts again goes on where it was."""

import json
import os
import signal
import stat

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.buffer.storage import SampleStore
from hopfield_replay.lightning.run_folder import alone_in_folders
from hopfield_replay.lightning.tasks import TaskCursor
from tests.lightning.small import Foreign, Images, Resumable, same, trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:No denoiser was found"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*found no checkpoint in"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]
TASKS, STEPS = 3, 6  # of each task
EVERY = {"n": 2}  # steps between checkpoints


class Signal(Callback):
    """Sends a signal in front of one of all steps."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


class Leave(Callback):
    """Ends the process, as SLURM does soon after its announcement."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


def run(folder, *callbacks, checkpoints=True, ckpt_path=None):
    folder.mkdir(exist_ok=True)
    buffer = EnergyReplayBuffer(6)
    monitor = ForgettingMonitor(buffer, probe_size=5, beta=1.0)
    more = (
        [ModelCheckpoint(folder / "checkpoints", save_last=True, every_n_train_steps=EVERY["n"])] if checkpoints else []
    )
    runner = trainer(*callbacks, monitor, *more, default_root_dir=folder, enable_checkpointing=checkpoints)
    module = Foreign()
    data = [ReplayDataModule(Resumable(Images(task), batch_size=4), buffer) for task in range(TASKS)]
    fit_tasks(runner, module, data, ckpt_path=ckpt_path)
    history = [record.to_dict() for record in monitor.history]
    return {"history": history, "buffer": buffer.state_dict(), "weights": dict(module.state_dict()),
            "steps": len(module.seen), "global_step": runner.global_step}  # fmt: skip


@pytest.fixture(autouse=True)
def _handlers():
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A job of one process; scontrol notes what it is asked."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "scontrol"
    tool.write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    for name, value in {"NTASKS": 1, "NTASKS_PER_NODE": 1, "JOB_NAME": "train", "JOB_ID": 7, "PROCID": 0, "LOCALID": 0,
                        "NODEID": 0, "NODELIST": "localhost", "NNODES": 1}.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    return tmp_path


def same_run(found, wanted):
    return same({k: v for k, v in found.items() if k != "steps"}, {k: v for k, v in wanted.items() if k != "steps"})


def in_the_boundary(monkeypatch, number, of_task):
    """Send a signal while a boundary's rows are copied."""
    prepare, calls = SampleStore.prepare_put, []

    def prepared(self, samples, slots):
        write = prepare(self, samples, slots)

        def interrupted():
            calls.append(len(slots))
            if len(calls) == of_task + 1:
                os.kill(os.getpid(), number)
            write()

        return interrupted

    monkeypatch.setattr(SampleStore, "prepare_put", prepared)


@pytest.mark.parametrize("of_task", [0, TASKS - 1])
def test_sigterm_during_a_boundary_ends_the_run_after_it(tmp_path, monkeypatch, of_task):
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patched:
        in_the_boundary(patched, signal.SIGTERM, of_task)
        with pytest.raises(SIGTERMException):
            run(tmp_path / "cut")
    steps = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert steps == STEPS * (of_task + 1)  # no step of a further task
    assert same_run(run(tmp_path / "cut", ckpt_path="last"), whole)


def test_sigterm_during_a_task_ends_the_run_as_lightning_does(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(SIGTERMException):
        run(tmp_path / "cut", Signal(9, signal.SIGTERM))
    assert same_run(run(tmp_path / "cut", ckpt_path="last"), whole)


@pytest.mark.filterwarnings("ignore:Goes on from")
@pytest.mark.parametrize("step", [1, 9, STEPS * TASKS - 1])
@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.heavy
def test_a_requeued_job_goes_on_in_its_task(slurm, step, checkpoints):
    whole = run(slurm / "whole", checkpoints=checkpoints)
    with pytest.raises(SystemExit):  # Lightning's exit after Ctrl-C
        run(slurm / "cut", Signal(step, signal.SIGUSR1), Leave(step + 1), checkpoints=checkpoints)
    assert "requeue 7" in (slurm / "asked").read_text()
    again = run(slurm / "cut", checkpoints=checkpoints)  # the same command
    assert same_run(again, whole)
    assert again["steps"] == STEPS * TASKS - step - 1  # the step at hand was ended first
    assert not [file.name for file in (slurm / "cut").iterdir() if file.suffix == ".ckpt"]
    assert same_run(run(slurm / "cut", checkpoints=checkpoints), whole)  # and nothing of it is left for another run


@pytest.mark.filterwarnings("ignore:Goes on from")
@pytest.mark.parametrize("steps", [(2,), (5,), (2, 5), (1, 3, 4, 7), (2, 5, 8, 11, 14, 16)])
@pytest.mark.heavy
def test_a_job_that_is_requeued_again_and_again(slurm, steps):
    whole = run(slurm / "whole")
    for step in steps:
        with pytest.raises(SystemExit):
            run(slurm / "cut", Signal(step, signal.SIGUSR1), Leave(step + 1), ckpt_path="last")
    assert same_run(run(slurm / "cut", ckpt_path="last"), whole)


@pytest.mark.filterwarnings("ignore:Goes on from")
@pytest.mark.parametrize("of_task", range(TASKS))
@pytest.mark.heavy
def test_the_announcement_during_a_boundary_finds_it_whole(slurm, monkeypatch, of_task):
    whole = run(slurm / "whole")
    with monkeypatch.context() as patched:
        in_the_boundary(patched, signal.SIGUSR1, of_task)
        with pytest.raises(SIGTERMException):  # no further task begins in this job
            run(slurm / "cut")
    (file,) = (slurm / "cut").glob("hpc_ckpt_*.ckpt")
    callbacks = torch.load(file, weights_only=True)["callbacks"]
    state = next(value for key, value in callbacks.items() if key.startswith("ForgettingMonitor"))
    assert len(state["history"]) == of_task + 1
    assert int(state["buffer"]["newest_task"]) == of_task
    assert callbacks[TaskCursor().state_key]["task"] == of_task
    assert same_run(run(slurm / "cut"), whole)


@pytest.mark.filterwarnings("ignore:Goes on from")
def test_a_newer_checkpoint_is_gone_on_from(slurm):
    whole = run(slurm / "whole")
    with pytest.raises(SystemExit):  # SLURM was slow: two more steps were done, and a checkpoint written
        run(slurm / "cut", Signal(9, signal.SIGUSR1), Leave(13))
    again = run(slurm / "cut", ckpt_path="last")
    assert same_run(again, whole)
    assert again["steps"] == STEPS * TASKS - 12


@pytest.mark.parametrize("steps", [(4,), (7,), (4, 7), (4, 7, 10, 13), (3, 6, 9, 12, 15, 17)])
@pytest.mark.heavy
def test_cut_after_checkpoints_of_an_epochs_last_step_no_step_is_done_twice_as_many_times(tmp_path, monkeypatch, steps):
    """Lightning loses count of the epochs when such a run is resumed, and cut there again."""
    monkeypatch.setitem(EVERY, "n", STEPS // 2)  # the steps of an epoch
    whole = run(tmp_path / "whole")
    for step in steps:
        with pytest.raises(SystemExit):
            run(tmp_path / "cut", Leave(step), ckpt_path="last")
    assert same_run(run(tmp_path / "cut", ckpt_path="last"), whole)


def test_files_of_a_requeue_mean_nothing_elsewhere(tmp_path):
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"")
    run(tmp_path)
    assert (tmp_path / "hpc_ckpt_1.ckpt").exists()


def test_two_runs_in_one_folder_of_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    left = tmp_path / "checkpoints" / f".{'0' * 16}.elsewhere-1-2-3.{'a' * 32}.partial.ckpt"
    left.write_bytes(b"half")  # of a killed run on another machine
    (tmp_path / "checkpoints" / ".own.partial.ckpt").write_bytes(b"of somebody else")
    first = trainer(ModelCheckpoint(tmp_path / "checkpoints"), enable_checkpointing=True)
    with alone_in_folders(first):
        with pytest.raises(MisconfigurationException, match=rf"keeps its checkpoints in .*process {os.getpid()}"):
            run(tmp_path)
        assert not left.exists()
    run(tmp_path)
    run(tmp_path, ckpt_path="last")
    names = {file.name for folder in (tmp_path, tmp_path / "checkpoints") for file in folder.iterdir()}
    assert not {name for name in names if "in_use" in name}
    assert ".own.partial.ckpt" in names


def test_one_run_writes_its_checkpoints_while_another_does(tmp_path):
    """Names of files that are being written are each writer's own."""
    from hopfield_replay.lightning.checkpoints import AtomicCheckpointIO

    done = os.fork()
    if not done:
        try:
            for number in range(200):
                AtomicCheckpointIO().save_checkpoint({"a": number}, tmp_path / "last.ckpt")
            os._exit(0)
        finally:
            os._exit(1)
    for number in range(200):
        AtomicCheckpointIO().save_checkpoint({"a": number}, tmp_path / "last.ckpt")
    assert os.waitstatus_to_exitcode(os.waitpid(done, 0)[1]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert json.dumps(torch.load(tmp_path / "last.ckpt", weights_only=True)).startswith('{"a": ')
