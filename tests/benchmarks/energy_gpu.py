"""The energy engine on a GPU: speed as a multiple of cuBLAS's float32 torch.mm in the same run, memory and errors.

``python -m tests.benchmarks.energy_gpu --json out.json``: 16,384 queries under N patterns of d numbers; a ratio of 2 is
an energy that takes half the time of the float32 product alone. The JSON is written after every size.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hopfield_replay.functional import effective_patterns, energy, energy_and_retrieval
from hopfield_replay.functional._engine import split
from tests.benchmarks.energy import BETA, data, paired, product, show

SIZES = {64: 2_000_000, 1024: 1_000_000, 3072: 500_000, 16384: 100_000}
KINDS = ("centred", "offset", "duplicates")
BETAS = (1.0, 30.0, 1e3, 1e5)
ASKED = 128  # queries that are also computed in float64


def speed(d: int, n: int, count: int, rounds: int, device: str) -> dict[str, float]:
    """Time of torch.mm alone over that of each candidate, and the memory that one call takes beside what it returns."""
    x, patterns = data(n, count, d, device=device)
    own = torch.arange(n, device=device)
    candidates: dict[str, Callable[[], object]] = {"mm": product(x, patterns, torch.float32)}
    for precision in ("auto", "fast", "float32") + (("tf32", "bfloat16") if device == "cuda" else ()):
        candidates[precision] = lambda precision=precision: energy(x, patterns, BETA, exclude=own, precision=precision)
    candidates["energy + retrieval + gradient"] = lambda: energy_and_retrieval(x, patterns, BETA)
    candidates["effective patterns"] = lambda: effective_patterns(x, patterns, BETA, exclude=own)
    torch.set_float32_matmul_precision("highest")
    start = time.perf_counter()
    candidates["auto"]()
    result = {"auto, first call, seconds": time.perf_counter() - start}
    if device == "cuda":
        for name in ("auto", "fast", "float32"):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            candidates[name]()
            result[f"{name}, peak extra MB"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    ratios = paired(candidates, "mm", rounds, device)
    seconds = ratios.pop("mm, seconds")
    result |= {f"{name}, times the speed of mm": 1 / ratio for name, ratio in ratios.items()}
    result["mm, TFLOP/s"] = 2 * n * count * d / seconds / 1e12
    return result


def errors(d: int, count: int, device: str) -> dict[str, float]:
    """Largest error against float64, by kind of data and precision."""
    result = {}
    for kind in KINDS:
        x, patterns = data(ASKED, count, d, kind, device)
        own = torch.arange(ASKED, device=device)
        own[ASKED // 4 :] = -1  # a quarter are asked under themselves, too
        for precision in ("auto", "fast"):
            worst = 0.0
            for beta in BETAS:
                exact = energy(x, patterns, beta, exclude=own, precision="float64")
                found = energy(x, patterns, beta, exclude=own, precision=precision)
                worst = max(worst, float((found - exact).abs().max()))
            result[f"{precision}, {kind}: error"] = worst
    return result


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--dimensions", nargs="+", type=int, choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the numbers of queries and patterns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(hardware, "torch", torch.__version__, flush=True)
    results: dict[str, dict[str, float]] = {}
    for d in options.dimensions:
        n, count = max(256, int(16384 * options.scale)), max(512, int(SIZES[d] * options.scale))
        found = speed(d, n, count, options.rounds, options.device)
        found |= errors(d, min(count, 100_000 * 1024 // d), options.device)
        results[f"d={d}"] = found
        show(f"n={n}, N={count}", {f"d={d}": found})
        chosen = {str(key[1:]): str(config) for key, config in split._chosen.items()}
        if options.json:
            whole = {"hardware": hardware, "torch": torch.__version__, "beta": BETA, "kernels": chosen}
            options.json.write_text(json.dumps(whole | {"results": results}, indent=1))
    print("kernels:", *chosen.items(), sep="\n")


if __name__ == "__main__":
    main()
