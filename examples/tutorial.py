# %% [markdown]
"""A tour of hopfield-replay, to be read from top to bottom: one model, two tasks, and what happens in between.

    python examples/tutorial.py    # every number below is printed by it

Each cell (`# %%`) can be run by itself in an editor that knows them. The data are scikit-learn's handwritten digits.
"""

# %% The data: ten digits of 8 x 8 pixels in [-1, 1]. The first task are the digits 0 to 4, the second one 5 to 9.
import logging
import sys
import tempfile
import warnings
from pathlib import Path

if {"-h", "--help"} & set(sys.argv[1:]):
    sys.exit(print(__doc__))

from helpers.command import answer_interrupts

answer_interrupts(__name__)

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import (
    EnergyReplayBuffer,
    ForgettingMonitor,
    HopfieldMemory,
    ReplayDataModule,
    audit,
    balanced,
    fit_tasks,
    forecast,
    run_report,
)
from hopfield_replay.denoisers import CallableDenoiser, VarianceSchedule
from hopfield_replay.functional import energy_rise, spearman_interval
from hopfield_replay.policies import Candidates

torch.set_num_threads(1)  # images this small gain nothing from more
warnings.filterwarnings("ignore", message=".*LeafSpec.*|.*does not have many workers.*")  # Lightning, on small data
logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8.0 - 1.0  # (n, 1, 8, 8)
labels = torch.tensor(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
images, labels = images[order], labels[order]
first, second = labels < 5, labels >= 5
old, new = images[first], images[second]

# %% Energies. The modern Hopfield energy of an image is low where many stored images are near, high where it is alone:
# E(x) = -(1/beta) log mean_i exp(-beta |x - x_i|^2 / 2). beta sets how near is near, and is calibrated to the data.
memory = HopfieldMemory(old)
energies = memory.energy(old, exclude=torch.arange(len(old)))  # leave-one-out: an image is no neighbour of itself
print(f"beta {memory.beta:.2f}; energies from {energies.min():.1f} to {energies.max():.1f}, mean {energies.mean():.1f}")
for digit in range(5):
    print(f"  digit {digit}: mean energy {energies[labels[first] == digit].mean():.2f}")
print(memory.diagnose())

# %% The forecast. Training on the second task replaces what the model models. The energy of an old image then rises;
# this rise, not the energy itself, is what forgetting follows. It needs the data only: no model has been trained yet.
rises = energy_rise(old, old, new, memory.beta, exclude_old=torch.arange(len(old)))
print(f"expected rise: mean {rises.mean():.2f}; most for digit {labels[first][rises.argmax()]}")
print(forecast(old, new, labels=labels[first], capacities=(20, 50, 100)).table())


# %% A model: any LightningModule will do. This one predicts the noise with a perceptron.
class Diffusion(LightningModule):
    """A DDPM."""

    signal: Tensor
    frequencies: Tensor

    def __init__(self, width: int = 384) -> None:
        super().__init__()
        self.register_buffer("signal", torch.linspace(0.9999, 0.98, 1000).cumprod(0))  # share of variance kept at t
        self.register_buffer("frequencies", torch.pi * torch.arange(8) / 1000)
        self.network = nn.Sequential(
            nn.Linear(80, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 64)
        )

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        angles = torch.as_tensor(timesteps).expand(len(noisy))[:, None] * self.frequencies
        inputs = torch.cat([noisy.flatten(1), angles.sin(), angles.cos()], 1)
        predicted: Tensor = self.network(inputs).view(noisy.shape)
        return noisy - predicted

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        clean, noise = batch[0], torch.randn_like(batch[0])
        timesteps = torch.randint(0, 1000, (len(clean),))
        share = self.signal[timesteps][:, None, None, None]
        return nn.functional.mse_loss(self(share.sqrt() * clean + (1 - share).sqrt() * noise, timesteps), noise)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def denoiser(model: LightningModule) -> CallableDenoiser:
    """How to noise and denoise with the model; a diffusers network and scheduler on a module are found unaided."""
    assert isinstance(model, Diffusion)
    return CallableDenoiser(model, VarianceSchedule(model.signal))


# %% Training without replay. ForgettingMonitor measures at every boundary: the energy of 200 probes of each task, and
# the error with which the model restores them from noise. Probes get the same noise each time, so that differences are
# the model's. Weights are averaged: else the noise of the last steps is as large as the difference between policies.
tasks = [DataLoader(TensorDataset(images[of], labels[of]), batch_size=64, shuffle=True) for of in (first, second)]


class KeepWeights(Callback):
    """Copies the weights after each task."""

    def __init__(self) -> None:
        self.after_task: list[dict[str, Tensor]] = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.after_task.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})


def train(buffer: EnergyReplayBuffer | None) -> tuple[KeepWeights, ForgettingMonitor]:
    """The weights after each task, and what the monitor saw."""
    seed_everything(0, verbose=False)
    monitor, kept = ForgettingMonitor(buffer, denoiser=denoiser, probe_size=200), KeepWeights()
    trainer = Trainer(
        max_epochs=100,
        accelerator="cpu",
        callbacks=[EMAWeightAveraging(device="cpu", decay=0.99), monitor, kept],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = tasks if buffer is None else [ReplayDataModule(loader, buffer, replay_ratio=0.5) for loader in tasks]
    fit_tasks(trainer, Diffusion(), data)
    return kept, monitor


weights, monitor = train(None)
print(monitor.table())

# %% Did the forecast hold? Compare, over the probes of the first task, the energy rise with what the model forgot.
probe = monitor.history[1].probes[0]
lost = probe.reconstruction
assert lost is not None
for name, x in {"rise": probe.intrinsic, "before": probe.energy_start}.items():
    rank = spearman_interval(x, lost)
    print(
        f"rank correlation of forgetting with energy {name}: {rank.estimate:+.2f} [{rank.low:+.2f}, {rank.high:+.2f}]"
    )


# %% Replay. A buffer keeps 50 of the 901 images; half of every batch is drawn from it. greedy_gain, the default, keeps
# the images whose joint replay protects the most energy; the others are there to compare with.
def forgotten(monitor: ForgettingMonitor) -> str:
    rise = monitor.history[1].probes[0].reconstruction
    assert rise is not None
    return f"mean {rise.mean():.4f}, worst tenth {rise.sort().values[-20:].mean():.4f}"


print("forgetting without replay:", forgotten(monitor))
for policy in ("random", "high_energy", "high_rise", "greedy_gain"):
    print(f"forgetting with {policy}:", forgotten(train(EnergyReplayBuffer(50, policy))[1]))


# %% A policy of your own: an object with select(candidates, k), best first. Here: nearest to the mean of its digit.
class MostTypical:
    """Keep what looks most like the mean image."""

    def select(self, candidates: Candidates, k: int) -> Tensor:
        return (candidates.vectors - candidates.vectors.mean(0)).square().sum(1).argsort()[:k]


buffer = EnergyReplayBuffer(50, balanced(MostTypical(), by="label"))
print("forgetting with MostTypical:", forgotten(train(buffer)[1]))

# %% An audit compares two versions of a model, whoever trained them: here before and after the second task.
before, after = Diffusion(), Diffusion()
before.load_state_dict(weights.after_task[0])
after.load_state_dict(weights.after_task[1])
report = audit(denoiser(before), denoiser(after), images, labels=labels)
print(report.table())

# %% One page tells of a whole run: what was forgotten of each task and class, the worst first, with pictures.
with tempfile.TemporaryDirectory() as folder:
    told = run_report(monitor, title="The tutorial, without replay")
    print(told.lead())
    print(f"The page has {told.write(folder).stat().st_size // 1024} KiB.")

# %% Everything can be saved: the buffer by itself, or with the rest in the Trainer's checkpoints, where fit_tasks(...,
# ckpt_path="last") finds it after a crash.
with tempfile.TemporaryDirectory() as folder:
    buffer.save(Path(folder) / "buffer.safetensors")
    copied = EnergyReplayBuffer(50, buffer.policy)
    copied.load(Path(folder) / "buffer.safetensors")
print(f"{len(copied)} samples came back; the same ids: {torch.equal(copied.ids, buffer.ids)}")
