"""Neighbours, sparse affinities and a memory's score on a GPU, in multiples of float32 torch.mm in the same run.

``python -m tests.benchmarks.search_gpu --json out.json``. "parts" are split products on tensor cores, what is taken by
itself; "float32" is what is done where these do not run. 2 is a search that takes half the time of the float32 product
alone. The JSON is written after every row.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hopfield_replay.functional import PatternTiles, SparseAffinity, StreamedAffinity, far_task_energy, knn_distance
from hopfield_replay.functional._engine import split
from hopfield_replay.guidance.mixture import SampleMixture
from tests.benchmarks.energy import BETA, data, paired, product, show

NEIGHBOURS = {64: 2_000_000, 1024: 1_000_000, 3072: 500_000}
AFFINITIES = {64: 50_000, 784: 50_000, 3072: 50_000}
MEMORY = {784: 1_000_000, 3072: 1_000_000}
QUERIES, NOISY, K, KEEP = 16384, 256, 10, 64


@contextmanager
def without_parts(device: torch.device) -> Iterator[None]:
    """Within it the kernel counts as one that does not run."""
    split._broken.add(device)
    try:
        yield
    finally:
        split._broken.discard(device)


def both(search: Callable[[], object], device: torch.device) -> dict[str, Callable[[], object]]:
    """The search by parts and in float32."""

    def in_float32() -> object:
        with without_parts(device):
            return search()

    return {"parts": search, "float32": in_float32}


def measured(
    searches: dict[str, Callable[[], object]], x: Tensor, patterns: Tensor, rounds: int, device: str
) -> dict[str, float]:
    """Time of torch.mm alone over that of each search, and the memory that one takes beside what it returns."""
    result = {}
    if device == "cuda":
        for name, search in searches.items():
            search()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            search()
            result[f"{name}, peak extra MB"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    ratios = paired({"mm": product(x, patterns, torch.float32), **searches}, "mm", rounds, device)
    result["mm, seconds"] = ratios.pop("mm, seconds")
    return result | {f"{name}, times the speed of mm": 1 / ratio for name, ratio in ratios.items()}


def neighbours(d: int, scale: float, rounds: int, device: str) -> dict[str, float]:
    """Distances to the 10th of N patterns; the largest difference between both ways, relative to the distance."""
    x, patterns = data(max(256, int(QUERIES * scale)), max(1024, int(NEIGHBOURS[d] * scale)), d, device=device)
    searches = both(lambda: knn_distance(x, patterns, K), x.device)
    found, other = (search() for search in searches.values())
    assert isinstance(found, Tensor)
    assert isinstance(other, Tensor)
    result = measured(searches, x, patterns, rounds, device)
    return result | {"largest difference": float(((found - other).abs() / other.clamp(min=1e-9)).max())}


def affinities(d: int, scale: float, rounds: int, device: str) -> dict[str, float]:
    """The 64 largest affinities of each of N samples to the others, with bounds on the rest."""
    _, x = data(1, max(2048, int(AFFINITIES[d] * scale)), d, device=device)
    rows = StreamedAffinity(x, x, far_task_energy(x), BETA, masses=1.0 / len(x))
    own = torch.arange(len(x))
    searches = both(lambda: SparseAffinity(rows, KEEP, own=own, error=0.0, bounds=True), x.device)
    found, other = (search() for search in searches.values())
    assert isinstance(found, SparseAffinity)
    assert isinstance(other, SparseAffinity)
    result = measured(searches, x, x, rounds, device)
    totals = [sparse.log_totals() for sparse in (found, other)]
    result["largest difference of the log of what is kept"] = float((totals[0] - totals[1]).abs().max())
    for name, sparse in (("parts", found), ("float32", other)):
        assert sparse.dropped is not None
        result[f"{name}, largest excess of a bound"] = float(sparse.dropped.excess.max())
    return result


def score(d: int, scale: float, rounds: int, device: str) -> dict[str, float]:
    """The responsibility and the clean estimate of 256 noisy samples under N stored ones, as MemoryGuidance asks."""
    x, patterns = data(NOISY, max(2048, int(MEMORY[d] * scale)), d, device=device)
    current = patterns[: len(patterns) // 100]
    mixture = SampleMixture(PatternTiles(patterns), PatternTiles(current), probes=0)
    searches = both(partial(mixture.share, x, 1.0, 0.3, 0.5), x.device)
    return measured(searches, x, patterns, rounds, device)


ROWS = {
    **{f"neighbours, d={d}": partial(neighbours, d) for d in NEIGHBOURS},
    **{f"affinities, d={d}": partial(affinities, d) for d in AFFINITIES},
    **{f"memory's score, d={d}": partial(score, d) for d in MEMORY},
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the numbers of queries and patterns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(hardware, "torch", torch.__version__, flush=True)
    results: dict[str, dict[str, float]] = {}
    for name in options.rows:
        results[name] = ROWS[name](options.scale, options.rounds, options.device)
        show(name, {name: results[name]})
        if options.json:
            whole = {"hardware": hardware, "torch": torch.__version__, "beta": BETA, "results": results}
            options.json.write_text(json.dumps(whole, indent=1))


if __name__ == "__main__":
    main()
