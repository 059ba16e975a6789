"""Seconds of ``import hopfield_replay`` against ``import torch``, each in a new interpreter.

Prints the median ratio over paired rounds (one of each, in turn), and exits with 1 if it is above the limit.
"""

import argparse
import statistics
import subprocess
import sys
import time

BASELINE = "import torch"
MEASURED = {
    "import hopfield_replay": True,  # held to the limit
    "import hopfield_replay; hopfield_replay.EnergyReplayBuffer": False,  # told only
    "import hopfield_replay; hopfield_replay.ForgettingMonitor": False,
}


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, default=1.3, help="largest accepted ratio of the bare import")
    options = parser.parse_args()
    times: dict[str, list[float]] = {code: [] for code in (BASELINE, *MEASURED)}
    for code in times:
        seconds(code)  # files come into the cache
    for _ in range(options.rounds):
        for code, taken in times.items():
            taken.append(seconds(code))
    print(f"baseline {BASELINE!r}: median {statistics.median(times[BASELINE]):.2f} s over {options.rounds} rounds")
    failed = False
    for code, limited in MEASURED.items():
        ratios = [a / b for a, b in zip(times[code], times[BASELINE], strict=True)]
        ratio = statistics.median(ratios)
        failed |= limited and ratio > options.limit
        print(f"{ratio:6.2f} x ({min(ratios):.2f} to {max(ratios):.2f})  {code}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
