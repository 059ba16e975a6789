"""Speed, memory and error of the energy engine against named baselines, all measured in this run.

Ratios are medians over paired rounds: in each round every candidate runs once after the other, and is divided by the
baseline of the same round. `python tests/benchmarks/energy.py --json out.json`; `--device cuda` for a GPU.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from hopfield_replay.functional import energy, energy_and_retrieval
from hopfield_replay.functional._scores import TileShape

BETA = 10.0


def data(n: int, count: int, d: int, kind: str = "centred", device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Clustered patterns with mean |xi - c|^2 of 64, as unscaled digits have; half of the queries are patterns."""
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
    """Median over the rounds of each candidate's time over the baseline's; the baseline's own median in seconds."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
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
                torch.mm(block, tile.T, out=buffer[: len(block) * len(tile)].view(len(block), len(tile)))

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
            for exclude in (own, None):
                exact = energy(x, patterns, beta, exclude=exclude, precision="float64")
                for precision in worst:
                    found = energy(x, patterns, beta, exclude=exclude, precision=precision)
                    worst[precision] = max(worst[precision], float((found - exact).abs().max()))
        result |= {f"{kind}, {precision}": value for precision, value in worst.items()}
    return result


def peak(d: int, n: int, count: int) -> float:
    """Megabytes by which the process grows during one call; only meaningful in a process of its own."""
    x, patterns = torch.rand(n, d), torch.rand(count, d)
    energy(x[:8], patterns[:64], BETA, precision="float32")  # libraries allocate once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    energy(x, patterns, BETA, exclude=torch.arange(n), precision="float32")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory(d: int, n: int, count: int) -> dict[str, float]:
    """Peak extra megabytes at N and at 8 N."""

    def in_a_process(size: int) -> float:
        command = [sys.executable, __file__, "--peak", str(d), str(n), str(size)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    shape = TileShape.of(torch.empty(n, d, device="meta").to_empty(device="cpu"))
    tiles = 4 * (shape.columns * d + shape.rows * shape.columns) / 2**20
    return {"N": in_a_process(count), "8 N": in_a_process(8 * count), "a tile and its scores": tiles}
