"""How kept samples are chosen and drawn: forgetting against the error on new tasks, arm by arm, at several shares.

Run from the repository root, one process, 5 to 25 CPU seconds a run; runs that are done are not run again:

    python -m tests.benchmarks.replay_rules CELL [--arms ...] [--ratios ...] [--seeds ...] [--out FILE]
    python -m tests.benchmarks.replay_rules table [--reference ARM] [--out FILE]
    python -m tests.benchmarks.replay_rules figure [--arms ...] [--out FILE]

A perceptron that predicts v learns one task after the other; its averaged weights are measured on held-out images with
the same noise for all. All arms of a seed begin with one and the same model of the first task. The rise of an image is
its error now minus that when its task had been learned. That alone misleads where arms learn the tasks differently
well: who learns better has more to lose. So the table tells the level, too: the error now minus that which the
reference at a half had when the task had been learned.
"""

import argparse
import copy
import functools
import json
import math
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hopfield_replay import EnergyReplayBuffer, GreedyGain
from hopfield_replay.denoisers import HeldNetwork
from hopfield_replay.functional import energy, holm

DATA = Path(__file__).parents[2] / "../shared/data"
PAIRS = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
ONES = [[label] for label in range(10)]
CELLS = {  # data, tasks, samples of each, kept, steps, width, learning rate
    "digits-2": ("digits", [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], 600, 50, 600, 128, 1e-3),
    "digits-5": ("digits", PAIRS, 240, 100, 400, 128, 1e-3),
    "mnist-2": ("mnist", [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], 600, 100, 800, 128, 3e-3),
    "mnist-odd": ("mnist", [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]], 600, 100, 800, 128, 3e-3),
    "mnist-5": ("mnist", PAIRS, 600, 100, 500, 128, 3e-3),
    "cifar-2": ("cifar", [[3, 5], [1, 9]], 600, 100, 600, 256, 1e-3),
    "cifar-5": ("cifar", PAIRS, 600, 100, 500, 256, 1e-3),
    "digits-10": ("digits", ONES, 120, 100, 400, 128, 1e-3),
    "mnist-10": ("mnist", ONES, 600, 100, 500, 128, 3e-3),
    "cifar-10": ("cifar", ONES, 600, 100, 500, 256, 1e-3),
    "cifar16-2": ("cifar16", [[3, 5], [1, 9]], 600, 100, 600, 384, 1e-3),
    "cifar16-5": ("cifar16", PAIRS, 600, 100, 500, 384, 1e-3),
}
ARMS: dict[str, tuple[Any, ...]] = {  # policy, sampling, and how strongly answers for what is replayed are held
    "random": ("random", "uniform"),
    "random, by rise": ("random", "rise_weight"),
    "k_means": ("k_means", "weight"),
    "k_means, by rise": ("k_means", "rise_weight"),
    "mean, by weight": (GreedyGain(objective="mean"), "weight"),
    "mean, by rise": (GreedyGain(objective="mean"), "rise_weight"),
    "mean, by rise, temper .5": (GreedyGain(objective="mean", temper=0.5), "rise_weight"),
    "rise, by rise": (GreedyGain(objective="rise"), "rise_weight"),
    **{f"random, held {strength:g}": ("random", "uniform", strength) for strength in (0.3, 1.0, 3.0)},
    **{
        f"mean, by rise, held {strength:g}": (GreedyGain(objective="mean"), "rise_weight", strength)
        for strength in (0.3, 1.0, 3.0)
    },
    "rise, by rise, temper .5": (GreedyGain(objective="rise", temper=0.5), "rise_weight"),
}
HALF = 0.5
BATCH, TEST = 64, 200
COLUMNS = ("mean", "worst tenth", "low", "middle", "high")


@functools.cache
def images(data: str, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vectors in [-1, 1] and labels, to train on and held out: digits 8x8, MNIST 14x14, CIFAR-10 8x8 or 16x16."""
    if data == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, labels = torch.from_numpy(digits.images).float().flatten(1) / 8 - 1, torch.from_numpy(digits.target).long()
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        return x[order[:1200]], labels[order[:1200]], x[order[1200:]], labels[order[1200:]]
    parts = []
    for part, idx in (("train", "train"), ("test", "t10k")):
        if data.startswith("cifar"):
            stored = np.load(folder / f"cifar10/{part}.npz")
            x, labels = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2), torch.from_numpy(stored["labels"])
        else:
            raw = folder / "MNIST/raw"
            pixels = np.frombuffer((raw / f"{idx}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
            x = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).copy())
            found = np.frombuffer((raw / f"{idx}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
            labels = torch.from_numpy(found.copy())
        side = {"cifar": 8, "cifar16": 16}.get(data, 14)
        small = nn.functional.adaptive_avg_pool2d(x.float() / 127.5 - 1, side)
        parts += [small.flatten(1), labels.long()]
    return parts[0], parts[1], parts[2], parts[3]


class Perceptron(nn.Module):
    """Predicts v from a noisy vector and a time in [0, 1]."""

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(200), 16)))
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear(dimension, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dimension))
        nn.init.zeros_(self.last[1].weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        phases = t[:, None] * self.frequencies
        time, h = self.time(torch.cat([phases.sin(), phases.cos()], 1)), self.first(x)
        for block in self.blocks:
            h = h + block(h + time)
        return self.last(h)


def signal(t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cos(t * math.pi / 2)[:, None], torch.sin(t * math.pi / 2)[:, None]


@torch.no_grad()
def errors(network: nn.Module, x: Tensor) -> Tensor:
    """Mean squared error (n,) of the denoised images, the mean of four times, with the same noise for every model."""
    noise, found = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)), []
    for time in (0.15, 0.3, 0.45, 0.6):
        t = torch.full((len(x),), time)
        a, s = signal(t)
        noisy = a * x + s * noise
        found.append((a * noisy - s * network(noisy, t) - x).square().mean(1))
    return torch.stack(found).mean(0)


def train(
    network: nn.Module,
    average: nn.Module,
    x: Tensor,
    steps: int,
    rate: float,
    generator: torch.Generator,
    buffer: EnergyReplayBuffer | None,
    ratio: float,
    strength: float = 0.0,
) -> None:
    """One task; ``ratio`` of every batch from the buffer, beside a batch of new samples.

    With a ``strength`` the averaged weights that the task begins with say what to answer for what is replayed.
    """
    held = HeldNetwork(network, strength)
    held.remember()
    held.load_state_dict(average.state_dict())
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
    replayed = 0 if buffer is None else round(BATCH * ratio / (1 - ratio))
    mine, averaged = ([p.data for p in module.parameters()] for module in (network, average))
    for step in range(steps):
        batch = x[torch.randint(len(x), (BATCH,), generator=generator)]
        if buffer is not None and replayed:
            batch = torch.cat([batch, buffer.sample(replayed, generator=generator, beside=BATCH)])
        t = torch.rand(len(batch), generator=generator)
        a, s = signal(t)
        noise = torch.randn(batch.shape, generator=generator)
        with held.holding(batch=len(batch), replayed=len(batch) - BATCH):
            loss = (network(a * batch + s * noise, t) - (a * noise - s * batch)).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(averaged, mine, 0.01)


FIRST: dict[tuple[str, int], tuple[nn.Module, nn.Module, Tensor]] = {}


def run(cell: str, arm: str, ratio: float, seed: int, folder: Path) -> dict[str, list[list[float]]]:
    """Errors of held-out images when their task had been learned, and at the end; their energies before."""
    data, classes, count, kept, steps, width, rate = CELLS[cell]
    x, labels, held_x, held_labels = images(data, folder)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)

    def of(vectors: Tensor, own: Tensor, task: list[int], most: int) -> Tensor:
        found = torch.isin(own, torch.tensor(task)).nonzero().flatten()
        return vectors[found[torch.randperm(len(found), generator=generator)[:most]]]

    tasks = [of(x, labels, task, count) for task in classes]
    tests = [of(held_x, held_labels, task, TEST) for task in classes]
    network, average = Perceptron(x.shape[1], width), Perceptron(x.shape[1], width)
    average.load_state_dict(network.state_dict())
    policy, sampling, *strength = ARMS[arm]
    buffer = EnergyReplayBuffer(kept, policy, sampling=sampling, seed=seed)
    buffer.replay_ratio = ratio
    start = []
    for task, vectors in enumerate(tasks):
        if task:
            buffer.refine(vectors)
        if task == 0 and (cell, seed) in FIRST:
            network, average, state = copy.deepcopy(FIRST[cell, seed])
            generator.set_state(state)
        else:
            train(network, average, vectors, steps, rate, generator, buffer if task else None, ratio, *strength)
        if task == 0:
            FIRST[cell, seed] = copy.deepcopy((network, average, generator.get_state()))
        start.append(errors(average, tests[task]))
        ids = torch.arange(len(vectors)) + 100_000 * task
        buffer.update(vectors, vectors, ids=ids, task=task)
    end = [errors(average, test) for test in tests]
    before = [energy(test, own, buffer.beta) for test, own in zip(tests, tasks, strict=True)]
    return {
        name: [[round(float(v), 6) for v in part] for part in parts]
        for name, parts in (("start", start), ("end", end), ("before", before))
    }


def summary(parts: list[np.ndarray], before: list[list[float]]) -> np.ndarray:
    """Mean, mean of the worst tenth, means of the terciles of the energy before, over all earlier tasks."""
    every = np.sort(np.concatenate(parts))
    terciles = [
        np.concatenate([part[np.array_split(np.argsort(e), 3)[third]] for part, e in zip(parts, before, strict=False)])
        for third in range(3)
    ]
    return np.array([every.mean(), every[-(len(every) // 10) :].mean(), *(part.mean() for part in terciles)])


Run = dict[str, list[list[float]]]
Key = tuple[str, float, int]  # arm, share, seed


def numbers(one: Run, reference: Run) -> np.ndarray:
    """Summaries of the rise and of the level of earlier tasks' images, and the mean error on tasks just learned."""
    old = range(len(one["start"]) - 1)
    rise = [np.array(one["end"][i]) - np.array(one["start"][i]) for i in old]
    level = [np.array(one["end"][i]) - np.array(reference["start"][i]) for i in old]
    new = np.mean([np.mean(part) for part in one["start"][1:]])
    return np.concatenate([summary(rise, one["before"]), summary(level, one["before"]), [new]])


def beside(reference_arm: str, found: dict[Key, Run], at: Key) -> tuple[np.ndarray, np.ndarray]:
    """A run's numbers minus those of another arm at a half, and minus that arm's where it learns new tasks as well.

    The latter are interpolated between its shares of the same seed, beyond them on the line of the last two; NaN where
    there is only one.
    """
    seed = at[2]
    reference = found[reference_arm, HALF, seed]
    mine = numbers(found[at], reference)
    curve = sorted(
        (numbers(one, reference) for (name, _, own), one in found.items() if (name, own) == (reference_arm, seed)),
        key=lambda row: float(row[-1]),
    )
    if len(curve) < 2:
        return mine - numbers(reference, reference), np.full_like(mine, np.nan)
    right = int(np.clip(np.searchsorted([row[-1] for row in curve], mine[-1]), 1, len(curve) - 1))
    low, high = curve[right - 1], curve[right]
    return mine - numbers(reference, reference), mine - (
        low + (high - low) * (mine[-1] - low[-1]) / (high[-1] - low[-1])
    )


def read(path: Path) -> dict[str, dict[Key, Run]]:
    """All runs of a file, cell by cell."""
    runs: dict[str, dict[Key, Run]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        one = json.loads(line)
        runs[one["cell"]][one["arm"], one["ratio"], one["seed"]] = one
    return runs


def table(path: Path, reference: str) -> None:
    """Paired differences to one arm, in thousandths, with 95 % intervals of Student's t over seeds.

    A star: the difference is not 0 by a paired t-test at 5 %, by Holm's method over the rises of all arms at a half,
    all cells and columns, at an equal error on new tasks.
    """
    rows: dict[str, dict[tuple[str, float], list[tuple[np.ndarray, np.ndarray]]]] = {}
    runs = read(path)
    for cell, found in runs.items():
        rows[cell] = defaultdict(list)
        for at in found:
            if (reference, HALF, at[2]) in found:
                rows[cell][at[:2]].append(beside(reference, found, at))
    stars = surprising(
        {
            (cell, arm, column): np.array([pair[1][column] for pair in pairs])
            for cell, found in rows.items()
            for (arm, share), pairs in found.items()
            for column in range(len(COLUMNS))
            if arm != reference and share == HALF
        }
    )
    for cell, found in runs.items():
        halves = [numbers(one, one) for at, one in found.items() if at[:2] == (reference, HALF)]
        told = [f"{name} {1e3 * value:.2f}" for name, value in zip(COLUMNS, np.mean(halves, axis=0), strict=False)]
        print(f"\n{cell}: at a half, {reference} rises by: {', '.join(told)}")
        names = [f"{kind} {name}" for kind in ("rise,", "level,") for name in COLUMNS]
        for title, part in (("at equal shares", 0), ("at an equal error on new tasks", 1)):
            print(
                f"\n| {title} | share | seeds |", " | ".join([*names, "new tasks"]), "|\n|" + "---|" * (len(names) + 4)
            )
            for (arm, ratio), pairs in sorted(rows[cell].items()):
                cells = interval(1e3 * np.array([pair[part] for pair in pairs]))
                starred = [
                    text + "*" * (part == 1 and ratio == HALF and (cell, arm, column) in stars)
                    for column, text in enumerate(cells)
                ]
                print(f"| {arm} | {ratio} | {len(pairs)} | {' | '.join(starred)} |")


Named = tuple[str, str, int]  # cell, arm, column


def surprising(differences: dict[Named, np.ndarray], level: float = 0.05) -> set[Named]:
    """Those whose mean is not 0 by a t-test, with at most ``level`` false ones in the whole family (Holm, 1979)."""
    from scipy.stats import ttest_1samp

    chances = {}
    for name, values in differences.items():
        own = values[np.isfinite(values)]
        if len(own) > 1:
            chances[name] = float(ttest_1samp(own, 0).pvalue)
    adjusted = holm(list(chances.values()))
    return {name for name, chance in zip(chances, adjusted, strict=True) if chance <= level}


def interval(values: np.ndarray) -> list[str]:
    """Mean and half width of the interval of each column, over the seeds that have it."""
    from scipy.stats import t as student

    found = []
    for column in values.T:
        own = column[np.isfinite(column)]
        if not len(own):
            found.append("")
            continue
        width = student.ppf(0.975, len(own) - 1) * own.std(ddof=1) / math.sqrt(len(own)) if len(own) > 1 else math.nan
        found.append(f"{own.mean():+.2f} +-{width:.2f}")
    return found


def figure(path: Path, arms: list[str]) -> Path:
    """Draw what is forgotten against the error on new tasks, over the shares: means over seeds that have them all."""
    from hopfield_replay.utilities.drawing import legend_below, new_figure, panels, series_style

    runs = read(path)
    shown = ("mean", "worst tenth", "high")
    drawing = new_figure(2.2 * len(runs) + 0.5)
    axes = panels(drawing, len(shown) * len(runs), len(shown))
    for row, (cell, found) in enumerate(runs.items()):
        beside_each_other = axes[row * len(shown) : (row + 1) * len(shown)]
        for style, arm in enumerate(arms):
            shares = sorted({share for name, share, _ in found if name == arm})
            seeds = [seed for seed in range(99) if shares and all((arm, share, seed) in found for share in shares)]
            every = [[numbers(found[arm, share, seed], found[arm, share, seed]) for seed in seeds] for share in shares]
            for axis, name in zip(beside_each_other, shown if seeds else (), strict=False):
                means = 1e3 * np.mean(every, axis=1)
                axis.plot(means[:, -1], means[:, COLUMNS.index(name)], label=arm, **series_style(style))
        for axis, name in zip(beside_each_other, shown, strict=True):
            axis.locator_params(axis="x", nbins=4)
            axis.set_title(f"{cell}, {'highest energies' if name == 'high' else name}", fontsize="small")
    for axis in axes[-len(shown) :]:
        axis.set_xlabel("error on new tasks, thousandths")
    for axis in axes[:: len(shown)]:
        axis.set_ylabel("forgetting, thousandths")
    legend_below(drawing, axes[-1], len(arms))
    target = path.with_suffix(".png")
    drawing.savefig(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", choices=[*CELLS, "table", "figure"])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--reference", choices=list(ARMS), default="random", help="of the table's differences")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("runs/replay_rules.jsonl"))
    options = parser.parse_args()
    if options.cells == ["table"]:
        return table(options.out, options.reference)
    if options.cells == ["figure"]:
        return print(figure(options.out, options.arms))
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.touch()
    done = {
        (one["cell"], one["arm"], one["ratio"], one["seed"])
        for one in map(json.loads, options.out.read_text().splitlines())
    }
    for one in product(options.seeds, options.cells, options.ratios, options.arms):
        seed, cell, ratio, arm = one
        if (cell, arm, ratio, seed) not in done:
            named = {"cell": cell, "arm": arm, "ratio": ratio, "seed": seed}
            found = named | run(cell, arm, ratio, seed, options.data)
            with options.out.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(*named.values(), flush=True)
    return None


if __name__ == "__main__":
    main()
