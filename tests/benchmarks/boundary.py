"""What a task boundary costs at the size people train at: CPU seconds and memory, one process a row.

Run from the repository root: ``python -m tests.benchmarks.boundary [costs|values]``. ``costs`` (the default) prints for
each row the CPU seconds of begin_task, end_task and the next begin_task on one thread, and the memory that they took
beside the data at their peak: anonymous pages, which a limit such as RLIMIT_DATA counts, and beside them the pages of
mapped files, which the system takes back when it needs them. ``--limit`` ends a row after so many CPU seconds.
``values`` prints what greedy_gain's choice is worth on samples that it never saw, as a share of what the choice from
the whole matrix of affinities gains over random ones. ``--device cuda`` measures on a GPU (wall seconds).
"""

import argparse
import inspect
import json
import math
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource, calibrate_beta
from hopfield_replay import functional as F
from hopfield_replay.policies import Candidates, GreedyGain

DATA = Path(__file__).parents[2] / "../shared/data"
_PERIOD = 1 << 30  # samples of two tasks are this far apart


@dataclass(frozen=True)
class Row:
    """One measurement: a task of ``count`` samples of ``shape``, under a policy, read by index or as a stream."""

    count: int
    shape: tuple[int, int, int]
    policy: str
    streamed: bool = False
    data_limit: float | None = None  # of the process, in GB

    def __str__(self) -> str:
        size = f"{self.count // 1000}k" if self.count < 10**6 else f"{self.count // 10**6}M"
        extra = ", streamed" if self.streamed else ""
        extra += f", RLIMIT_DATA {self.data_limit:g} GB" if self.data_limit else ""
        return f"{size} x {math.prod(self.shape)}, {self.policy}{extra}"


CIFAR, LATENT, MNIST = (3, 32, 32), (4, 64, 64), (1, 28, 28)
ROWS = {
    "2k-random": Row(2000, MNIST, "random"),
    "2k-greedy": Row(2000, MNIST, "greedy_gain"),
    "4k-random": Row(4000, MNIST, "random"),
    "4k-greedy": Row(4000, MNIST, "greedy_gain"),
    "50k-random": Row(50_000, CIFAR, "random"),
    "50k-reservoir": Row(50_000, CIFAR, "reservoir"),
    "50k-greedy": Row(50_000, CIFAR, "greedy_gain"),
    "50k-energy": Row(50_000, CIFAR, "high_energy"),
    "20k-latents": Row(20_000, LATENT, "greedy_gain"),
    "20k-latents-reservoir": Row(20_000, LATENT, "reservoir"),
    "200k-reservoir": Row(200_000, CIFAR, "reservoir", streamed=True),
    "200k-greedy": Row(200_000, CIFAR, "greedy_gain", streamed=True),
    "200k-indexed-reservoir": Row(200_000, CIFAR, "reservoir"),
    "200k-indexed-greedy": Row(200_000, CIFAR, "greedy_gain"),
    "1M-random": Row(10**6, MNIST, "random", streamed=True, data_limit=3.0),
    "1M-greedy": Row(10**6, MNIST, "greedy_gain", streamed=True, data_limit=3.0),
}


def smooth_fields(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Random fields (count, *shape) uint8 of 50 kinds, whose amplitude falls with the frequency as in photographs."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = shape
    frequency = torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()
    amplitude = 1 / frequency.clamp(min=1 / height**2).sqrt()

    def draw(n: int) -> Tensor:
        noise = torch.randn(n, channels, *amplitude.shape, 2, generator=generator)
        fields = torch.fft.irfft2(torch.view_as_complex(noise) * amplitude, s=(height, width))
        return fields / fields.std()

    kinds = draw(50)
    parts = [draw(256) + kinds[torch.randint(50, (256,), generator=generator)] for _ in range(-(-count // 256))]
    return (torch.cat(parts)[:count] * 36 + 128).clamp(0, 255).to(torch.uint8)


def real_images(shape: tuple[int, int, int]) -> Tensor | None:
    """Images (n, *shape) uint8 from the data folder; None without it, or where it has none of this shape."""
    cifar, mnist = DATA / "cifar10/train.npz", DATA / "MNIST/raw/train-images-idx3-ubyte"
    if shape == CIFAR and cifar.exists():
        with np.load(cifar) as file:
            images = next(array for array in file.values() if array.ndim == 4)
        return torch.from_numpy(images).permute(0, 3, 1, 2)[torch.randperm(len(images))].contiguous()
    if shape == MNIST and mnist.exists():
        return torch.from_numpy(np.frombuffer(mnist.read_bytes(), np.uint8, offset=16).reshape(-1, 1, 28, 28).copy())
    return None


class Images(Dataset[Tensor]):
    """Images in [-1, 1], a shifted and mirrored copy of the pool for every round through it; none is stored."""

    def __init__(self, row: Row, first: int) -> None:
        found = real_images(row.shape)
        self.pool = smooth_fields(2048, row.shape) if found is None else found
        self.count, self.first = row.count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, index: list[int]) -> list[Tensor]:
        at = torch.tensor(index) + self.first
        images = self.pool[at % len(self.pool)].float().div_(127.5).sub_(1)
        rounds = at // len(self.pool)
        for number in rounds.unique().tolist():
            rows = (rounds == number).nonzero().flatten()
            moved = images[rows].roll((number * 5 % 7, number * 3 % 11), (-2, -1))
            images[rows] = moved.flip(-1) if number % 2 else moved
        return list(images)


class Stream(IterableDataset[Tensor]):
    """The same, one after the other."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __iter__(self) -> Any:
        for start in range(0, len(self.images), 256):
            yield from self.images.__getitems__(list(range(start, min(start + 256, len(self.images)))))


class Peak:
    """Largest memory of the process beside what it has at the start, in GiB, looked at every 5 ms."""

    def __init__(self) -> None:
        self._start = self._read()
        self.anonymous = self.mapped = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def _read() -> tuple[int, int]:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        anonymous, file, shared = (int(lines[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem"))
        return anonymous, file + shared

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            anonymous, mapped = self._read()
            self.anonymous = max(self.anonymous, (anonymous - self._start[0]) / 2**20)
            self.mapped = max(self.mapped, (mapped - self._start[1]) / 2**20)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def source(row: Row, task: int) -> TaskSource:
    """The task's samples behind a loader."""
    images = Images(row, task * _PERIOD)
    data: Dataset[Tensor] = Stream(images) if row.streamed else images
    return TaskSource(DataLoader(data, batch_size=256, shuffle=not row.streamed))


def measure(row: Row, device: str, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds and GiB of one row, in this process."""
    torch.set_num_threads(1)
    if row.data_limit:
        size = int(row.data_limit * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    known = inspect.signature(ForgettingTracker).parameters
    arguments = {name: value for name, value in {"device": device, **options}.items() if name in known}
    tracker = ForgettingTracker(EnergyReplayBuffer(500, policy=row.policy), **arguments)
    first, second = source(row, 0), source(row, 1)
    clock = time.process_time if device == "cpu" else time.perf_counter
    marks = [clock()]
    steps: list[Callable[[], object]] = [
        lambda: tracker.begin_task(first),
        lambda: tracker.end_task(first),
        lambda: tracker.begin_task(second),
    ]
    found: dict[str, Any] = {"seconds": [], "anonymous": [], "mapped": []}
    for step in steps:
        with Peak() as peak:
            step()
        marks.append(clock())
        found["seconds"].append(marks[-1] - marks[-2])
        found["anonymous"].append(peak.anonymous)
        found["mapped"].append(peak.mapped)
    return found


def row_in_a_process(name: str, limit: int, device: str, options: dict[str, Any]) -> str:
    """One line of the table."""
    row = ROWS[name]
    command = [sys.executable, "-m", "tests.benchmarks.boundary", "--row", name, "--device", device]
    command += ["--options", json.dumps(options)]

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bounded, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended by signal {-done.returncode}"]
        why = f"not done after {limit} CPU s" if done.returncode in (-24, -9) else last[0][:90]
        return f"| {row} | {why} | | | |"
    found = json.loads(done.stdout.splitlines()[-1])
    seconds, anonymous, mapped = found["seconds"], found["anonymous"], found["mapped"]
    return (
        f"| {row} | {seconds[0]:.1f} | {seconds[1]:.1f} | {seconds[2]:.1f} | {seconds[1] + seconds[2]:.1f} | "
        f"{max(anonymous):.2f} | {max(mapped):.2f} |"
    )


def held_out_sets() -> dict[str, tuple[Tensor, Tensor]]:
    """Real samples to choose from, and others to judge the choice by; smooth fields where there are none."""
    found = {}
    if (digits := real_images(MNIST)) is not None:
        labels = np.frombuffer((DATA / "MNIST/raw/train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
        old = digits.flatten(1)[torch.from_numpy(labels < 5)].float().div_(255)
        found["MNIST 0-4"] = (old[:16_000], old[16_000:20_000])
    if (photos := real_images(CIFAR)) is not None:
        pixels = photos.flatten(1).float().div_(127.5).sub_(1)
        found["CIFAR-10"] = (pixels[:9000], pixels[9000:])
    if not found:
        fields = smooth_fields(11_000, CIFAR).flatten(1).float().div_(127.5).sub_(1)
        found["smooth fields"] = (fields[:9000], fields[9000:])
    return found


def values() -> None:
    """Print what each way to choose protects of samples that were never seen."""
    torch.set_num_threads(1)
    print("| data | kept | random | whole matrix | greedy_gain | share of the gain over random | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for name, (old, unseen) in held_out_sets().items():
        beta = calibrate_beta(old)
        far = F.far_task_energy(old)
        for k in (100, 500):
            mass = F.replay_mass(k, 0.5)

            def worth(chosen: Tensor, old: Tensor = old, unseen: Tensor = unseen, mass: float = mass) -> float:
                rows = F.affinity(unseen, old[chosen], far, beta, masses=mass)  # noqa: B023
                return float(rows.sum(1).log1p().mean()) / beta  # noqa: B023

            draws = [torch.randperm(len(old))[:k] for _ in range(10)]
            chance = sum(map(worth, draws)) / len(draws)
            whole = F.affinity(old, old, far, beta, masses=mass, dtype=torch.float32)
            dense = worth(F.greedy_replay_gain(whole, k, beta=beta).indices)
            del whole
            ids, zeros = torch.arange(len(old)), torch.zeros(len(old), dtype=torch.float64)
            pool = Candidates(ids, torch.zeros_like(ids), zeros, old, zeros + 0.5, beta=beta, places=k)
            start = time.process_time()
            chosen = GreedyGain().select(pool, k)
            seconds = time.process_time() - start
            found = worth(chosen)
            share = f"{(found - chance) / (dense - chance):.1%}"
            print(f"| {name} | {k} | {chance:.3f} | {dense:.3f} | {found:.3f} | {share} | {seconds:.1f} |", flush=True)


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=("costs", "values"), default="costs")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--row", choices=tuple(ROWS), help="measure one row in this process and print JSON")
    parser.add_argument("--limit", type=int, default=1200, help="CPU seconds after which a row is given up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--options", type=json.loads, default={}, help="more arguments of the tracker, as JSON")
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(ROWS[options.row], options.device, options.options)))
        return
    if options.part == "values":
        values()
        return
    print("| N x d, policy | begin_task s | end_task s | next begin_task s | end + next | + GiB | + GiB mapped files |")
    print("|---|---|---|---|---|---|---|")
    for name in options.rows:
        print(row_in_a_process(name, options.limit, options.device, options.options), flush=True)


if __name__ == "__main__":
    main()
