"""Many tasks through one Trainer, and a million samples through one buffer: what grows, and how fast.

python -m tests.reliability.long_runs tasks --tasks 50
python -m tests.reliability.long_runs tasks --tasks 50 --followed-tasks 5 --history-size 5
python -m tests.reliability.long_runs stream --samples 1000000 --policy reservoir
python -m tests.reliability.long_runs pool --samples 1000000 --policy greedy_gain
"""

import argparse
import gc
import json
import logging
import math
import os
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.denoisers import CallableDenoiser

ALPHAS = torch.linspace(0.99, 0.01, 50)


class Denoiser(LightningModule):
    """A perceptron that predicts the noise in 8x8 images."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(65, 64), nn.SiLU(), nn.Linear(64, 64))

    def predict(self, x, t):
        share = (t.float() / len(ALPHAS))[:, None]
        return self.net(torch.cat([x.flatten(1), share], 1)).view(x.shape)

    def training_step(self, batch, batch_idx):
        x = batch[0]
        t = torch.randint(len(ALPHAS), (len(x),))
        a = ALPHAS[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(x)
        return (self.predict(a.sqrt() * x + (1 - a).sqrt() * noise, t) - noise).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def digits(task, size):
    """A share of scikit-learn's 8x8 digits, another one and slightly brighter for each task."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rows = numpy.random.default_rng(task).permutation(len(images))[:size]
    x = torch.from_numpy(images[rows] / 8.0 - 1.0).float().view(-1, 1, 8, 8) + 0.01 * task
    return TensorDataset(x, torch.from_numpy(labels[rows]).long())


def resident():
    """Resident memory of this process, MB (10^6 bytes)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def private():
    """Resident memory without pages of files, MB: those come and go with what else the machine does."""
    _, pages, of_files = map(int, Path("/proc/self/statm").read_text().split()[:3])
    return (pages - of_files) * os.sysconf("SC_PAGE_SIZE") / 1e6


def state_bytes(tree):
    """Bytes of the tensors in a nesting."""
    if isinstance(tree, torch.Tensor):
        return tree.nbytes
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return sum(map(state_bytes, items))


class Growth(Callback):
    """What there is after each task."""

    def __init__(self, monitor):
        self.monitor = monitor
        self.rows = []

    def on_train_start(self, trainer, pl_module):
        self._start = time.process_time()

    def on_train_end(self, trainer, pl_module):
        seconds = time.process_time() - self._start
        gc.collect()
        objects = gc.get_objects()
        self.rows.append(
            {
                "seconds": seconds,
                "rss_mb": resident(),
                "tensors": sum(type(thing) is torch.Tensor for thing in objects),
                "objects": len(objects),
                "files": len(os.listdir("/proc/self/fd")),
                "state_kb": state_bytes(self.monitor.state_dict()) / 1e3,
                "record_kb": state_bytes(self.monitor.history[-1]) / 1e3,
            }
        )


def run_tasks(tasks, *, size=180, capacity=100, probe_size=64, storage=None, **bounds):
    """One Trainer over many tasks; the rows of :class:`Growth`, and the buffer."""
    torch.manual_seed(0)
    module = Denoiser()
    buffer = EnergyReplayBuffer(capacity, storage=storage)
    monitor = ForgettingMonitor(
        buffer, denoiser=lambda m: CallableDenoiser(m.predict, ALPHAS), probe_size=probe_size, **bounds
    )
    growth = Growth(monitor)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[monitor, growth],
    )  # fmt: skip
    loaders = [DataLoader(digits(task, size), batch_size=32, shuffle=True) for task in range(tasks)]
    fit_tasks(trainer, module, [ReplayDataModule(loader, buffer, replay_ratio=0.5) for loader in loaders])
    return growth.rows, buffer


def slope(values, skip=5):
    """Slope for each task and its 95 % interval, by least squares after the first ``skip`` tasks."""
    from scipy import stats

    y = numpy.array(values[skip:], dtype=float)
    if (y == y[0]).all():
        return 0.0, 0.0, 0.0
    fit = stats.linregress(numpy.arange(len(y)), y)
    half = float(stats.t.ppf(0.975, len(y) - 2)) * fit.stderr
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def chunk(start, size):
    """Synthetic 16x16 images in uint8, and their means over 2x2 squares as vectors (n, 64)."""
    generator = torch.Generator().manual_seed(start)
    kinds = torch.randint(50, (size,), generator=generator)
    coarse = torch.rand(50, 8, 8, generator=torch.Generator().manual_seed(7))[kinds]
    images = torch.nn.functional.interpolate(coarse[:, None], scale_factor=2)[:, 0]
    images = (images + 0.15 * torch.randn(images.shape, generator=generator)).clamp_(0, 1)
    images = images.mul_(255).to(torch.uint8)
    return images, nn.functional.avg_pool2d(images[:, None].float() / 255, 2).flatten(1)


def limit_data(megabytes):
    """No more than this of private writable memory: heap, stacks and anonymous mappings; shared mappings are free."""
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 10**6, megabytes * 10**6))


def run_stream(samples, size, capacity, policy, storage):
    """Many chunks through update, all of one task; the buffer and the private memory after each chunk."""
    buffer = EnergyReplayBuffer(capacity, policy, storage=storage)
    memory = []
    for start in range(0, samples, size):
        images, vectors = chunk(start, min(size, samples - start))
        buffer.update(images, vectors, ids=torch.arange(start, start + len(images)), task=0)
        memory.append(private())
    return buffer, memory


def run_pool(samples, capacity, policy, storage):
    """All samples in one update; their energies are given: the leave-one-out energies of N cost N^2."""
    size = 20_000
    vectors = torch.empty(samples, 64)
    for start in range(0, samples, size):
        vectors[start : start + size] = chunk(start, size)[1][: samples - start]
    buffer = EnergyReplayBuffer(capacity, policy, storage=storage, beta=20.0)
    energies = vectors.square().sum(1).double()

    def read(positions):
        found = torch.empty(len(positions), 16, 16, dtype=torch.uint8)
        for start in (positions // size).unique().tolist():
            inside = positions // size == start
            found[inside] = chunk(start * size, size)[0][positions[inside] % size]
        return found

    buffer.update(read, vectors, ids=torch.arange(samples), task=0, energies=energies)
    return buffer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tasks", "stream", "pool"])
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--followed-tasks", type=int)
    parser.add_argument("--history-size", type=int)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=10_000)
    parser.add_argument("--capacity", type=int, default=1000)
    parser.add_argument("--policy", default="reservoir")
    parser.add_argument("--limit-mb", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*does not have many workers")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    limit_data(given.limit_mb)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "tasks":
            bounds = {"followed_tasks": given.followed_tasks, "history_size": given.history_size}
            rows, _ = run_tasks(given.tasks, storage=folder, **bounds)
            for name in rows[0]:
                values = [row[name] for row in rows]
                each, low, high = slope(values)
                print(f"{name:10} first {values[0]:.4g}, last {values[-1]:.4g}, ", end="")
                print(f"each task {each:+.4g} [{low:+.4g}, {high:+.4g}]")
        else:
            base = resident()
            if given.what == "stream":
                buffer, memory = run_stream(given.samples, given.chunk, given.capacity, given.policy, folder)
                each, low, high = slope(memory)
                print(f"private MB each chunk {each:+.3g} [{low:+.3g}, {high:+.3g}] (95 %)")
            else:
                buffer = run_pool(given.samples, given.capacity, given.policy, folder)
            files = sum(file.stat().st_size for file in Path(folder).iterdir() if file.name != "in_use")
            print(json.dumps({"samples": given.samples, "kept": len(buffer), "bytes on disk": files}))
            print(f"resident before {base:.0f} MB")
            assert all(math.isfinite(energy) for energy in buffer.energies.tolist())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"peak resident {peak:.0f} MB, RLIMIT_DATA {given.limit_mb} MB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
