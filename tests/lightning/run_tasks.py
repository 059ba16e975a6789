"""Train three tiny tasks with replay and checkpoints; as a script it kills its own process at a task's end.

python -m tests.lightning.run_tasks FOLDER TASK
"""

import os
import signal
import sys
import warnings

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.small import Foreign, loader, trainer


class AtTheEnd(Callback):
    """Calls something at the end of one task's training, before the callbacks that are listed later."""

    def __init__(self, task, action):
        self.task = task
        self.action = action
        self.ends = 0

    def on_train_end(self, trainer, pl_module):
        if self.ends == self.task:
            self.action()
        self.ends += 1


def run(
    folder,
    *callbacks,
    module=None,
    ckpt_path=None,
    every_step=False,
    make_loader=loader,
    count=3,
    denoiser=None,
    **settings,
):
    """One call of fit_tasks over three tasks; the callbacks come before the monitor."""
    buffer = EnergyReplayBuffer(7, "random", groups="task")
    monitor = ForgettingMonitor(buffer, probe_size=6, denoiser=denoiser)
    often = {"every_n_train_steps": 1} if every_step else {}
    saving = ModelCheckpoint(dirpath=folder, save_last=True, save_top_k=-1, filename="{epoch}-{step}", **often)
    module = Foreign() if module is None else module
    runner = trainer(*callbacks, monitor, saving, enable_checkpointing=True, **settings)
    tasks = [ReplayDataModule(make_loader(task), buffer, replay_ratio=0.4) for task in range(count)]
    fit_tasks(runner, module, tasks, ckpt_path=ckpt_path)
    return module, monitor


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run(sys.argv[1], AtTheEnd(int(sys.argv[2]), kill_this_process))
