"""Speed, memory and error of the energy engine against named baselines, all measured in this run.

Ratios are medians over paired rounds: in each round every candidate runs once after the other, and is divided by the
baseline of the same round. `python tests/benchmarks/energy.py --json out.json`; energy_gpu.py for a GPU.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from hopfield_replay.functional import PatternTiles, energy, energy_and_retrieval
from hopfield_replay.functional._engine.logsumexp import Sums, gather
from hopfield_replay.functional._engine.scores import TileShape

BETA = 10.0
CPU_SIZES = {64: 100_000, 784: 60_000, 3072: 50_000, 16384: 20_000}


def data(n: int, count: int, d: int, kind: str = "centred", device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Clustered patterns, mean |xi - c|^2 of 64 (digits have about 50), and queries of which half are patterns."""
    generator = torch.Generator(device).manual_seed(0)
    options = {"generator": generator, "device": device}
    centres = torch.randn(50, d, **options)
    which = torch.randint(50, (count + n,), **options)
    points = (centres[which] + torch.randn(count + n, d, **options)).mul_((32 / d) ** 0.5)
    patterns, fresh = points[:count].clone(), points[count:]
    if kind == "duplicates":
        patterns = patterns[torch.randint(count // 4, (count,), **options)]
    x = torch.cat([patterns[: n // 2], fresh[n // 2 :]])
    if kind == "offset":
        shift = (2 * 3560 / d) ** 0.5
        x, patterns = x + shift, patterns + shift
    return x, patterns


def paired(candidates: dict[str, Callable[[], object]], baseline: str, rounds: int, device: str) -> dict[str, float]:
    """Median over the rounds of each candidate's time over the baseline's; the baseline's own median in seconds.

    On the CPU the time is that of this process on its one thread, so that other processes disturb it less.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            start = clock()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round warms up
                times[name].append(clock() - start)
    result = {
        name: median(own / base for own, base in zip(taken, times[baseline], strict=True))
        for name, taken in times.items()
        if name != baseline
    }
    return result | {f"{baseline}, seconds": median(times[baseline])}


def product(x: Tensor, patterns: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """torch.mm alone, on the engine's own tiles, into one buffer."""
    shape = TileShape.of(x)
    x, patterns = x.to(dtype), patterns.to(dtype)
    buffer = torch.empty(shape.rows * shape.columns, dtype=dtype, device=x.device)

    def run() -> None:
        for column in range(0, len(patterns), shape.columns):
            tile = patterns[column : column + shape.columns]
            for row in range(0, len(x), shape.rows):
                block = x[row : row + shape.rows]
                out = buffer[: len(block) * len(tile)].view(len(block), len(tile))
                if dtype == torch.bfloat16:  # what the engine needs: products of bfloat16, summed and kept in float32
                    torch.mm(block, tile.T, out_dtype=torch.float32)
                else:
                    torch.mm(block, tile.T, out=out)

    return run


def materialised(x: Tensor, patterns: Tensor) -> Tensor:
    """The energies of all scores at once, as one would write them."""
    scores = x @ patterns.T - 0.5 * patterns.square().sum(1)
    return 0.5 * x.square().sum(1) - torch.logsumexp(BETA * scores, 1) / BETA


def scipy_energy(x: Tensor, patterns: Tensor) -> object:
    """The same with SciPy's logsumexp."""
    from scipy.special import logsumexp

    scores = (x @ patterns.T - 0.5 * patterns.square().sum(1)).numpy()
    return 0.5 * x.square().sum(1).numpy() - logsumexp(BETA * scores, axis=1) / BETA


def speed(d: int, n: int, count: int, rounds: int) -> dict[str, float]:
    """Ratios to the product alone on the CPU."""
    x, patterns = data(n, count, d)
    own = torch.arange(n)
    candidates = {
        "torch.mm": product(x, patterns, torch.float32),
        "fast": lambda: energy(x, patterns, BETA, exclude=own, precision="fast"),
        "float32 (best re-scored)": lambda: energy(x, patterns, BETA, exclude=own, precision="float32"),
        "energy + retrieval + gradient": lambda: energy_and_retrieval(x, patterns, BETA, precision="fast"),
        "materialised": lambda: materialised(x, patterns),
        "scipy logsumexp": lambda: scipy_energy(x, patterns),
    }
    return paired(candidates, "torch.mm", rounds, "cpu")


def error(d: int, n: int, count: int) -> dict[str, float]:
    """Largest |E - E float64| over beta 1..1e5, leave-one-out included."""
    result = {}
    for kind in ("centred", "offset", "duplicates"):
        x, patterns = data(n, count, d, kind)
        own = torch.cat([torch.arange(n // 2), torch.full((n - n // 2,), -1)])
        worst = {"fast": 0.0, "float32": 0.0}
        for beta in (1.0, 10.0, 100.0, 1e3, 1e4, 1e5):
            exact = energy(x, patterns, beta, exclude=own, precision="float64")
            for precision in worst:
                found = energy(x, patterns, beta, exclude=own, precision=precision)
                worst[precision] = max(worst[precision], float((found - exact).abs().max()))
        result |= {f"{kind}, {precision}": value for precision, value in worst.items()}
    return result


def peak(d: int, n: int, count: int) -> float:
    """Megabytes by which this process grows at most during one call (Linux)."""
    x, patterns = torch.rand(n, d), torch.rand(count, d)
    energy(x[:8], patterns[:64], BETA, precision="float32")  # libraries allocate once
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
    before = resident()["VmHWM"]
    energy(x, patterns, BETA, exclude=torch.arange(n) % count, precision="float32")
    return (resident()["VmHWM"] - before) / 1024


def resident() -> dict[str, int]:
    """Kilobytes of this process by kind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}


def memory(d: int, n: int, count: int) -> dict[str, float]:
    """Peak extra megabytes at N and at 8 N."""

    def in_a_process(size: int, onednn: str) -> float:
        command = [sys.executable, __file__, "--peak", str(d), str(n), str(size)]
        environment = os.environ | {onednn.SWITCH: onednn}
        return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)

    shape = TileShape.of(torch.empty(n, d))
    tiles = 4 * (shape.columns * d + shape.rows * shape.columns) / 2**20
    result = {
        f"{name}, {product}": in_a_process(size, switch)
        for product, switch in (("BLAS", "0"), ("oneDNN", "1"))
        for name, size in (("N", count), ("8 N", 8 * count))
    }
    return result | {"two tiles and their scores": 2 * tiles, "the queries": 4 * n * d / 2**20}


def on_rank(rank: int, d: int, n: int, count: int, rounds: int, port: int) -> None:
    """Two ranks with half of the patterns each: time of a pass with the gather over that of the same pass alone."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    x, patterns = data(n, count, d)
    own = patterns[rank * count // 2 : (rank + 1) * count // 2]
    alone, together = PatternTiles(own), PatternTiles(own, group=dist.group.WORLD)
    len(together)  # counting over the ranks is done once, at the first use
    times: dict[str, list[float]] = {"alone": [], "gather": []}
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        energy(x, alone, BETA, precision="float32")
        middle = time.perf_counter()
        dist.barrier()
        gathering = time.perf_counter()
        sums = Sums(torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))
        gather(sums, dist.group.WORLD)
        times["gather"].append(time.perf_counter() - gathering)
        times["alone"].append(middle - start)
    energy(x, together, BETA, precision="float32")
    if rank == 0:
        print(json.dumps({name: median(values) for name, values in times.items()}))
    dist.destroy_process_group()


def ranks(d: int, n: int, count: int, rounds: int) -> dict[str, float]:
    """Share of the gather in a pass over two gloo ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--rank"]
    numbers = [str(value) for value in (d, n, count, rounds, port)]
    other = subprocess.Popen([*command, "1", *numbers], stdout=subprocess.DEVNULL)
    first = subprocess.run([*command, "0", *numbers], check=True, capture_output=True, text=True)
    other.wait()
    seconds = json.loads(first.stdout)
    return {"gather / local pass": seconds["gather"] / seconds["alone"], "gather, seconds": seconds["gather"]}


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print one table: a line for each measurement, a column for each case."""
    print(f"\n{title}", flush=True)
    width = max(len(name) for values in rows.values() for name in values)
    print(" " * width, *(f"{case:>12}" for case in rows))
    for name in next(iter(rows.values())):
        print(f"{name:{width}}", *(f"{values[name]:12.3g}" for values in rows.values()), flush=True)


def main() -> None:
    """Measure, print and write."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # its own processes find the package from a checkout, too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the number of patterns")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--peak", type=int, nargs=3, metavar=("D", "N_QUERIES", "N"), help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(peak(*options.peak))
        return
    if options.rank:
        on_rank(*options.rank)
        return
    results: dict[str, dict[str, dict[str, float]]] = {}
    hardware = f"{platform.machine()}, one thread, torch {torch.__version__}"
    print(hardware)
    for title, cases in cpu_tables(options.scale, options.rounds).items():
        results[title] = {case: measure() for case, measure in cases.items()}
        show(title, results[title])
    if options.json:
        options.json.write_text(json.dumps({"hardware": hardware, "beta": BETA, "results": results}, indent=1))


Tables = dict[str, dict[str, Callable[[], dict[str, float]]]]


def cpu_tables(scale: float, rounds: int) -> Tables:
    """What is measured on the CPU."""
    sizes = {
        d: max(1000, int(count * scale)) for d, count in CPU_SIZES.items()
    }  # at least the queries, half of which are patterns
    return {
        "Largest error against float64, beta 1 to 1e5": {
            f"d={d}": partial(error, d, 200, 4000) for d in (64, 784, 3072)
        },
        "Peak extra memory, MB": {
            f"d={d}": partial(memory, d, 1000, max(4096, 2**22 // d)) for d in sizes if d <= 3072
        },
        "Two gloo ranks": {"d=784": partial(ranks, 784, 1000, sizes[784], rounds)},
        "Time over torch.mm on the same tiles": {
            f"d={d}": partial(speed, d, 1000, n, rounds) for d, n in sizes.items()
        },
        "The same with few queries under 20,000 patterns": {
            f"d={d}, n={n}": partial(speed, d, n, max(1000, int(20_000 * scale)), 2 * rounds + 1)
            for d in (784, 3072)
            for n in (256, 512)
        },
    }


if __name__ == "__main__":
    main()
