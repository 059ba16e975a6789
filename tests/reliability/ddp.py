"""Several processes through Lightning's ddp strategy: all policies, an empty share, resumes, and one that fails.

python -m tests.reliability.ddp FOLDER PROCESSES ENDING POLICY...
torchrun --nnodes 2 ... -m tests.reliability.ddp FOLDER PROCESSES ENDING POLICY...

ENDING is what the run dies of, when all is written: "raise 1" (the second process raises in a training step), "kill 0"
(the first process is killed there) or "none".
"""

import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.utilities.distributed import world
from tests.lightning.run_tasks import AtTheEnd
from tests.lightning.small import Foreign, Images, trainer

SIZES = (13, 2, 7)  # uneven shares; with three processes the second task leaves none for the last


class PowerCutError(Exception):
    pass


def cut():
    raise PowerCutError


class Halves:
    """A model that never changes: its errors do not depend on how it was trained, by how many processes."""

    num_timesteps = 100

    def noise(self, clean, timestep, noise):
        return clean + timestep / 100 * noise

    def predict_clean(self, noisy, timestep, condition=None):
        return noisy / 2

    def snr(self, timestep):
        return 1.0


class Unreadable(Images):
    """One sample cannot be read, by one process, while the task is read."""

    rank = None

    def __getitem__(self, index):
        if index == self.rank and world()[0] == self.rank:
            raise OSError(f"sample {index} is lost")
        return super().__getitem__(index)


def run(*callbacks, policy="greedy_gain", folder=None, ckpt_path=None, unreadable=None, module=None, **settings):
    """Three tasks; returns what the monitor and the buffer know."""
    buffer = EnergyReplayBuffer(5, policy)
    monitor = ForgettingMonitor(buffer, probe_size=6, timesteps=(10, 30), denoiser=Halves())
    keeping = [] if folder is None else [ModelCheckpoint(folder, save_last=True)]
    data = [Unreadable(task, size) for task, size in enumerate(SIZES)]
    data[1].rank = unreadable
    loaders = [torch.utils.data.DataLoader(d, batch_size=3) for d in data]
    tasks = [ReplayDataModule(loader, buffer, replay_ratio=0.4) for loader in loaders]
    settings = {"max_epochs": 1, "enable_checkpointing": folder is not None, **settings}
    runner = trainer(*callbacks, monitor, *keeping, **settings)
    module = Foreign() if module is None else module
    fit_tasks(runner, module, tasks, ckpt_path=ckpt_path)
    return {"history": monitor.history, "buffer": buffer.state_dict(), "weight": module.layer.weight.detach().clone()}


def failing(rank, settings):
    """The error of this process when one cannot read its share of the second task."""
    try:
        run(unreadable=rank, **settings)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def apart(rank, folder, settings):
    """The error when only the first process sees the checkpoints: the others would begin anew."""
    try:
        run(folder=folder / ("cut" if rank == 0 else "elsewhere"), ckpt_path="last", **settings)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


class Dies(Foreign):
    """One process fails in the middle of the second task; the others wait for its gradients."""

    def __init__(self, how, rank, folder):
        super().__init__()
        self.how, self.rank, self.folder = how, rank, folder

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 3 and self.global_rank == self.rank:
            (self.folder / "failing").write_text(str(time.time()))
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("this process gives up")
        return super().training_step(batch, batch_idx)


def main():
    folder, processes, ending, policies = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    nodes = 1 if "TORCHELASTIC_RUN_ID" not in os.environ else int(os.environ["GROUP_WORLD_SIZE"])
    settings = {"strategy": "ddp", "devices": processes // nodes, "num_nodes": nodes}
    found = {"pid": os.getpid(), "policies": {policy: run(policy=policy, **settings) for policy in policies}}
    rank = world()[0]
    found["failing"] = [failing(failed, settings) for failed in (0, 1)]
    resumes = (folder / "cut").exists()
    torch.distributed.barrier()  # before one of them makes it
    if resumes:  # written by another number of processes
        found["resumed"] = run(folder=folder / "cut", ckpt_path="last", **settings)
    else:
        try:
            run(AtTheEnd(1, cut), folder=folder / "cut", **settings)
        except PowerCutError:
            found["cut"] = True
        torch.distributed.barrier()
        if rank == 0:
            shutil.copytree(folder / "cut", folder / "kept")
        torch.distributed.barrier()
        found["resumed"] = run(folder=folder / "cut", ckpt_path="last", **settings)
    found["apart"] = apart(rank, folder, settings)
    torch.save(found, folder / f"rank{rank}.pt")
    if ending != "none":
        how, failed = ending.split()
        run(module=Dies(how, int(failed), folder), folder=folder / "dying", **settings)


if __name__ == "__main__":
    main()
