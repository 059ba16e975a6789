"""CPU time of a training step with the monitor and with replay, against the bare Trainer, and what a boundary costs.

Run from the repository root: ``python -m tests.benchmarks.overhead``. Both sides train the same module with the same
number of samples in every batch: replay has b of the task and b replayed, the bare Trainer 2 b. A round runs every arm
once, in turning order; a ratio is the median over rounds of the ratio of two neighbours' CPU times (process_time of
the epochs alone, without reading and boundary). The second table is one run of digits as the main example makes it.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.denoisers import DiffusersDenoiser
from hopfield_replay.tracker import tracker as tracker_module
from hopfield_replay.tracker.meter import ErrorMeter


class Clock(Callback):
    """CPU seconds of the training epochs, and of the whole fit."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.fits: list[float] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._fit = time.process_time()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append(time.process_time() - self._epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fits.append(time.process_time() - self._fit)


class Diffusion(LightningModule):
    """A small UNet as in the examples, predicting the noise of (images, labels)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        from diffusers import DDPMScheduler, UNet2DModel

        self.scheduler = DDPMScheduler()
        self.network = UNet2DModel(
            sample_size=size,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images = batch[0]
        noise, times = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        noisy = self.scheduler.add_noise(images, noise, times)
        return (self.network(noisy, times).sample - noise).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


class Tiny(LightningModule):
    """A perceptron whose step costs less than Lightning's loop around it: the hard case."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(size * size, 64), nn.SiLU(), nn.Linear(64, size * size))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        flat = batch[0].flatten(1)
        return (self.network(flat) - flat).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def data(size: int, samples: int, batch_size: int, seed: int = 0) -> DataLoader[Any]:
    """Random images with labels."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, 1, size, size, generator=draw)
    kept = TensorDataset(images, torch.randint(10, (samples,), generator=draw))
    return DataLoader(kept, batch_size=batch_size, shuffle=True, drop_last=True)


def filled(size: int, capacity: int) -> EnergyReplayBuffer:
    """A buffer of an earlier task."""
    buffer = EnergyReplayBuffer(capacity, "random")
    images, labels = data(size, capacity, capacity, seed=1).dataset[:]
    buffer.update((images, labels), images, ids=torch.arange(capacity) + (1 << 60), task=0, labels=labels)
    return buffer


def trainer(*callbacks: Callback, epochs: int) -> Trainer:
    """A quiet trainer on the CPU."""
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def seconds_per_step(
    make: Callable[[int], LightningModule], arm: str, options: argparse.Namespace, steps: int
) -> float:
    """CPU seconds of a step in one arm, the first epoch left out."""
    size, half = options.size, options.batch_size
    torch.manual_seed(0)
    clock, module = Clock(), make(size)
    replayed = arm.endswith("replay")
    batch = half if replayed else 2 * half
    loader: Any = data(size, batch * steps, batch)
    buffer = filled(size, options.capacity) if replayed else None
    callbacks: list[Callback] = [clock]
    if "monitor" in arm:
        callbacks.append(ForgettingMonitor(buffer, probe_size=4, beta=1.0, timesteps=(1,)))
    if arm == "bare":
        trainer(clock, epochs=3).fit(module, loader)
        return min(clock.epochs[1:]) / steps
    task = loader if buffer is None else ReplayDataModule(loader, buffer, replay_ratio=0.5)
    fit_tasks(trainer(*callbacks, epochs=3), module, [task])
    return min(clock.epochs[1:]) / steps


def between_boundaries(options: argparse.Namespace) -> None:
    """Print the ratio of every arm to the bare Trainer."""
    print(f"{'CPU time of a step, against bare':<34}{'bare, ms':>10}{'monitor':>10}{'replay':>10}{'both':>10}   range")
    arms = ("bare", "monitor", "replay", "monitor and replay")
    models = {"unet": (Diffusion, options.steps), "tiny": (Tiny, 20 * options.steps)}
    for make, steps in [models[name] for name in models if options.only in (None, name)]:
        for arm in arms:
            seconds_per_step(make, arm, options, steps // 2)
        rounds = []
        for number in range(options.rounds):
            order = arms if number % 2 else arms[::-1]
            rounds.append({arm: seconds_per_step(make, arm, options, steps) for arm in order})
        ratios = {arm: sorted(found[arm] / found["bare"] for found in rounds) for arm in arms[1:]}
        bare = statistics.median(found["bare"] for found in rounds)
        medians = "".join(f"{statistics.median(found):>10.3f}" for found in ratios.values())
        low, high = ratios[arms[-1]][0], ratios[arms[-1]][-1]
        name = f"{make.__name__}, {options.size}x{options.size}, {2 * options.batch_size} a batch"
        print(f"{name:<34}{1e3 * bare:>10.3f}{medians}   {low:.3f} to {high:.3f}", flush=True)


class Parts:
    """CPU seconds of the parts of a boundary, by the functions that do them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running = False

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Time every outermost call of ``owner.name``."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return original(*args, **kwargs)
            self._running, started = True, time.process_time()
            try:
                return original(*args, **kwargs)
            finally:
                self._running = False
                self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - started

        setattr(owner, name, timed)


def boundaries(options: argparse.Namespace) -> None:
    """Print what the boundaries of five tasks of 300 digits cost, as a share of the tasks' CPU time."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(digits.target)
    chosen = [((labels // 2) == task).nonzero().flatten()[:300] for task in range(5)]
    tasks = [TensorDataset(images[own], labels[own]) for own in chosen]
    parts = Parts()
    parts.watch(tracker_module.TaskReader, "read", "reading data")
    parts.watch(tracker_module.TaskReader, "probes", "choosing probes")
    for name in ("energy", "effective_patterns", "_density"):
        parts.watch(tracker_module, name, "energies")
    parts.watch(tracker_module, "HopfieldMemory", "calibrating beta")
    for name in ("of_probes", "losses"):
        parts.watch(ErrorMeter, name, "reconstruction errors")
    for name in ("update", "refine"):
        parts.watch(EnergyReplayBuffer, name, "selection and buffer")
    whole = Parts()
    for name in ("begin_task", "end_task"):
        whole.watch(tracker_module.ForgettingTracker, name, "boundary")
    torch.manual_seed(0)
    clock, module = Clock(), Diffusion(8)
    buffer = EnergyReplayBuffer(50)
    denoiser = DiffusersDenoiser(module.network, module.scheduler)
    monitor = ForgettingMonitor(buffer, denoiser=denoiser, probe_size=options.probes)
    loaders = [
        ReplayDataModule(DataLoader(task, batch_size=32, shuffle=True, drop_last=True), buffer) for task in tasks
    ]
    fit_tasks(trainer(clock, monitor, epochs=options.epochs), module, loaders)
    total, boundary = sum(clock.fits), whole.seconds["boundary"]
    print(f"\nfive tasks of digits, {options.epochs} epochs each: {total:.1f} CPU seconds, of which {boundary:.2f} s")
    print(f"({boundary / total:.1%}) at the boundaries:")
    for part, seconds in sorted(parts.seconds.items(), key=lambda item: -item[1]):
        print(f"  {part:<24}{seconds:>8.3f} s {seconds / total:>8.2%} of the run {seconds / boundary:>8.1%} of them")
    other = boundary - sum(parts.seconds.values())
    print(f"  {'other':<24}{other:>8.3f} s {other / total:>8.2%} of the run {other / boundary:>8.1%} of them")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=16, help="height and width of the images")
    parser.add_argument("--batch-size", type=int, default=32, help="new samples in a batch; as many are replayed")
    parser.add_argument("--capacity", type=int, default=500, help="kept samples")
    parser.add_argument(
        "--steps", type=int, default=20, help="steps of an epoch (twenty times as many for the tiny one)"
    )
    parser.add_argument("--rounds", type=int, default=11, help="rounds of all arms")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each task of digits")
    parser.add_argument("--probes", type=int, default=60, help="probes of each task of digits")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--only", choices=("unet", "tiny", "boundaries"), help="one of the measurements")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.only != "boundaries":
        between_boundaries(options)
    if options.only in (None, "boundaries"):
        boundaries(options)


if __name__ == "__main__":
    main()
