"""What replay policies protect on MNIST 0-4 -> 5-9, and how fast greedy selection is.

Run from the repository root: ``python -m tests.benchmarks.selection [policies|speed|streamed]``. Ratios compare with a
baseline measured in the same run: greedy selection for the policies, plain greedy on the same matrix for the speed.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hopfield_replay import functional as F

DATA = Path(__file__).parents[2] / "../shared/data"


def mnist_tasks(folder: Path, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors in [0, 1] of digits 0-4 and of digits 5-9, and the labels of the former."""
    raw = folder / "MNIST/raw"
    images = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 784)
    labels = np.frombuffer((raw / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    old, new = (np.flatnonzero(mask)[:count] for mask in (labels < 5, labels >= 5))
    return (
        torch.from_numpy(images[old].astype(np.float32) / 255),
        torch.from_numpy(images[new].astype(np.float32) / 255),
        torch.from_numpy(labels[old].astype(np.int64)),
    )


def calibrated_beta(patterns: Tensor, n_eff: float) -> float:
    """Beta at which the median leave-one-out number of effective patterns is n_eff (on up to 1000 patterns)."""
    sample = patterns[:: max(1, len(patterns) // 1000)]
    own = torch.arange(len(sample))
    low, high = 1e-4, 1e4
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        crowded = F.effective_patterns(sample, sample, middle, exclude=own).median() > n_eff
        low, high = (middle, high) if crowded else (low, middle)
    return low


def seconds(function: Callable[[], object]) -> tuple[float, object]:
    """Wall seconds of one call, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def policies(options: argparse.Namespace) -> None:
    """Protected energy and seconds of every policy, against greedy's."""
    count, k = options.count or 2000, options.k or 100
    old, new, labels = mnist_tasks(options.data, count)
    beta = calibrated_beta(old, options.n_eff)
    own = torch.arange(count)
    before = F.energy(old, old, beta, exclude=own)
    after = F.energy(old, new, beta)
    mass = F.replay_mass(k, options.replay_share)
    known = F.affinity(old, old, after, beta, masses=mass)
    far = F.affinity(old, old, F.far_task_energy(old), beta, masses=mass)
    rise = after - before
    tails = {"rise": rise.topk(count // 10).indices, "energy": before.topk(count // 10).indices}

    generator = torch.Generator().manual_seed(options.seed)
    draws = 10

    def uniforms() -> Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64)

    def greedy(matrix: Tensor, **settings: object) -> Tensor:
        return F.greedy_replay_gain(matrix, k, beta=beta, risk=rise, **settings).indices  # type: ignore[arg-type]

    arms: dict[str, Callable[[], Tensor]] = {
        "greedy_gain, next task known": lambda: greedy(known),
        "greedy_gain, next task unknown": lambda: greedy(far),
        "greedy_gain, known, half tail": lambda: greedy(known, tail_weight=0.5),
        "greedy_gain, known, tail only": lambda: greedy(known, tail_weight=1.0),
        "greedy_gain, known, class quotas": lambda: greedy(known, groups=labels),
        "top single gain": lambda: known.log1p().sum(0).topk(k).indices,
        "facility_location": lambda: F.facility_location(old, k),
        "herding": lambda: F.herding(old, k),
        "k_center": lambda: F.k_center(old, k),
        "high_energy": lambda: before.topk(k).indices,
        "low_energy": lambda: before.topk(k, largest=False).indices,
        "nearest_neighbour (10th, largest)": lambda: F.knn_distance(old, old, 10, exclude=own).topk(k).indices,
    }
    random_arms: dict[str, Callable[[], Tensor]] = {
        f"random (mean of {draws})": lambda: F.proportional(torch.ones(count), k, uniforms()),
        f"proportional to energy (mean of {draws})": lambda: F.proportional(before - before.min(), k, uniforms()),
    }
    took, certified = seconds(lambda: F.greedy_replay_gain(known, k, beta=beta))
    took_tight, tight = seconds(lambda: F.greedy_replay_gain(known, k, beta=beta, tighten=30))
    assert isinstance(certified, F.Selection)
    assert isinstance(tight, F.Selection)
    print(f"MNIST 0-4 -> 5-9, {count} images each, k = {k}, beta = {beta:.4g} (median n_eff {options.n_eff})")
    print(f"certificate of greedy_gain, known: value {certified.value:.1f}")
    print(
        f"  sum of remaining gains: optimum <= {certified.upper_bound:.1f}, reached >= {certified.guaranteed_share:.3f}"
    )
    print(f"  and 30 dual steps:      optimum <= {tight.upper_bound:.1f}, reached >= {tight.guaranteed_share:.3f}")
    print(f"  seconds: {took:.3f} and {took_tight:.3f}\n")
    print(
        f"{'policy':42} {'total':>8} {'of greedy':>9} {'tail rise':>9} {'tail en.':>9} {'seconds':>8} {'classes':>20}"
    )
    reference = 0.0
    for name, arm in (arms | random_arms).items():
        rounds = draws if name in random_arms else 1
        elapsed, totals, parts, classes = 0.0, 0.0, dict.fromkeys(tails, 0.0), torch.zeros(5)
        for _ in range(rounds):
            one, indices = seconds(arm)
            assert isinstance(indices, Tensor)
            protected = F.protected_energy(known, indices, beta=beta)
            elapsed += one / rounds
            totals += float(protected.sum()) / rounds
            for tail, members in tails.items():
                parts[tail] += float(protected[members].sum()) / rounds
            classes += torch.bincount(labels[indices], minlength=5) / rounds
        reference = reference or totals
        if totals > tight.upper_bound:
            raise RuntimeError(f"{name} protects {totals}, more than the certified optimum {tight.upper_bound}.")
        print(
            f"{name:42} {totals:8.1f} {totals / reference:9.3f} {parts['rise']:9.1f} {parts['energy']:9.1f} "
            f"{elapsed:8.3f} {' '.join(f'{c:3.0f}' for c in classes.tolist()):>20}"
        )


def plain_greedy_step(matrix: Tensor, covered: Tensor) -> int:
    """One step of greedy that evaluates every candidate, in blocks."""
    gains = [(block / (1 + covered)[:, None]).log1p().sum(0) for block in matrix.split(256, 1)]
    return int(torch.cat(gains).argmax())


def speed(options: argparse.Namespace) -> None:
    """Seconds of lazy greedy on a 10k x 10k matrix, against plain greedy on the same one."""
    count, k = options.count or 10_000, options.k or 500
    old, new, _ = mnist_tasks(options.data, count)
    beta = calibrated_beta(old, options.n_eff)
    after = F.energy(old, new, beta)
    print(f"MNIST, {count} targets x {count} candidates, k = {k}, beta = {beta:.4g}, one thread")
    for dtype in (torch.float32, torch.float64):
        matrix = F.affinity(old, old, after, beta, masses=F.replay_mass(k, options.replay_share), dtype=dtype)
        for layout in ("candidate by candidate", "target by target"):
            runs = []
            for _ in range(3):
                cpu = time.process_time()
                wall, _ = seconds(lambda matrix=matrix: F.greedy_replay_gain(matrix, k))
                runs.append((wall, time.process_time() - cpu))
            step, _ = seconds(lambda matrix=matrix: plain_greedy_step(matrix, torch.ones(count, dtype=matrix.dtype)))
            wall, cpu = sorted(runs)[1]
            print(
                f"{dtype}, {layout:22}: {wall:5.2f} s ({cpu:.2f} s of CPU time), plain greedy {step * k:.0f} s "
                f"(one step x k), ratio {step * k / wall:.0f}"
            )
            matrix = matrix.contiguous()


def streamed(options: argparse.Namespace) -> None:
    """Seconds of the streamed selection, whose memory does not grow with targets x candidates, against the matrix."""
    count, k = options.count or 10_000, options.k or 100
    old, new, _ = mnist_tasks(options.data, count)
    targets = old[:: max(1, count // 2000)]
    beta = calibrated_beta(old, options.n_eff)
    after = F.energy(targets, new, beta)
    settings = {"beta": beta, "masses": F.replay_mass(k, options.replay_share)}
    rows = F.StreamedAffinity(targets, old, after, **settings)  # type: ignore[arg-type]
    whole, one = seconds(lambda: F.greedy_replay_gain(F.affinity(targets, old, after, **settings), k))  # type: ignore[arg-type]
    parts, other = seconds(lambda: F.greedy_replay_gain(rows, k))
    assert isinstance(one, F.Selection)
    assert isinstance(other, F.Selection)
    same = one.indices.tolist() == other.indices.tolist()
    print(
        f"{len(targets)} targets x {count} candidates, k = {k}: matrix {whole:.1f} s, streamed {parts:.1f} s, {same = }"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=["policies", "speed", "streamed"], default="policies")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds MNIST/raw")
    parser.add_argument("--count", type=int, help="images of each task")
    parser.add_argument("--k", type=int, help="samples kept")
    parser.add_argument("--n-eff", type=float, default=5.0, help="median effective patterns that beta is calibrated to")
    parser.add_argument("--replay-share", type=float, default=0.5, help="share of replayed samples in a batch")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"policies": policies, "speed": speed, "streamed": streamed}[options.part](options)


if __name__ == "__main__":
    main()
