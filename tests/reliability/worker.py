"""One tiny run of three tasks that is meant to be killed: every step it does is noted in a journal.

The module draws no global random numbers (its noise is a function of the step), and its loader goes on inside an epoch:
so every step of every attempt must equal the same step of a run that was never interrupted.
"""

import hashlib
import io
import json
import os
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.utilities.files import write_json
from tests.lightning.small import Images, Resumable, image_of, trainer

TASKS, EPOCHS, BATCHES = 3, 2, 3
STEPS = TASKS * EPOCHS * BATCHES


class Autoencoder(LightningModule):
    """Denoises with noise that depends on the step only; writes each step's batch and loss to the journal."""

    def __init__(self, journal):
        super().__init__()
        self.layer = nn.Linear(64, 64)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) / 8)
            self.layer.bias.zero_()
        self.journal = journal

    def training_step(self, batch, batch_idx):
        flat = image_of(batch).flatten(1)
        noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(self.global_step))
        loss = (self.layer(flat + 0.1 * noise) - flat).square().mean()
        self.log("loss", loss)
        seen = hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:16]
        line = json.dumps({"step": self.global_step, "epoch": self.current_epoch, "batch": seen, "loss": float(loss)})
        os.write(self.journal, line.encode() + b"\n")
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Denoiser:
    """The module as it is now, as a Denoiser."""

    num_timesteps = 100

    def __init__(self, module):
        self.module = module

    def noise(self, clean, timestep, noise):
        return clean + timestep / 100 * noise

    def predict_clean(self, noisy, timestep, condition=None):
        with torch.no_grad():
            return self.module.layer(noisy.flatten(1)).view_as(noisy)

    def snr(self, timestep):
        return 1.0


class SaveBuffer(Callback):
    """What a user does after every boundary: keep the buffer, and the table of the run.

    In on_fit_end: killed between a task's last checkpoint and on_train_end, a run that resumes has nothing left to
    train, and Lightning calls on_train_end no more.
    """

    def __init__(self, monitor, folder):
        self.monitor = monitor
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        self.monitor.buffer.save(self.folder / "buffer.safetensors")
        write_json(self.folder / "tables.json", [self.monitor.table()])


def run(folder, *callbacks, policy="greedy_gain", storage=False, ckpt_path="last"):
    """One attempt, as a job that is started again and again makes it; the callbacks come before the monitor."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    journal = os.open(folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(journal, b"{}\n")  # an attempt begins
    module = Autoencoder(journal)
    buffer = EnergyReplayBuffer(7, policy, sampling="rise", storage=folder / "scratch" if storage else None)
    monitor = ForgettingMonitor(buffer, probe_size=6, timesteps=(10, 30), denoiser=Denoiser)
    checkpoints = folder / "checkpoints"
    often = ModelCheckpoint(checkpoints, filename="{step}", save_last=True, save_top_k=1, every_n_train_steps=2)
    each = ModelCheckpoint(checkpoints, filename="{epoch}-{step}", save_last=True, save_top_k=1)
    runner = trainer(
        *callbacks, monitor, SaveBuffer(monitor, folder), often, each, max_epochs=EPOCHS, enable_checkpointing=True
    )
    data = [Resumable(Images(task, 4 * BATCHES), batch_size=4) for task in range(TASKS)]
    fit_tasks(runner, module, [ReplayDataModule(d, buffer, replay_ratio=0.4) for d in data], ckpt_path=ckpt_path)
    result = {
        "buffer": buffer.state_dict(),
        "history": monitor.history,
        "weights": dict(module.state_dict()),
        "optimizer": runner.optimizers[0].state_dict(),
        "metrics": dict(runner.callback_metrics),
        "global_step": runner.global_step,
    }
    os.close(journal)
    written = io.BytesIO()  # torch's own writer has an error of its own for a full disk
    torch.save(result, written)
    (folder / "result.pt").write_bytes(written.getvalue())
    return result


def journal(folder):
    """The attempts' steps: a list of dicts for each attempt."""
    attempts = []
    for line in (Path(folder) / "journal").read_text().splitlines():
        entry = json.loads(line)
        if not entry:
            attempts.append([])
        else:
            attempts[-1].append(entry)
    return attempts


def quiet():
    """One thread, no warnings: what they say is tested elsewhere."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
