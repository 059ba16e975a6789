"""How long the examples take, and how long each is silent: measured, and written into examples/README.md.

python -m tests.benchmarks.durations                       # the claims, without running anything
python -m tests.benchmarks.durations review_digits tutorial  # runs these, and compares
python -m tests.benchmarks.durations --write review_digits   # and writes what was measured
python -m tests.benchmarks.durations --data-dir data/ ddpm_cifar10_splits  # where a command says DIR

A time is the CPU time of one core (``OMP_NUM_THREADS=1``), which other work on the machine lengthens less than the time
on the clock. Every result goes to a folder that is removed again.
"""

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hopfield_replay.utilities.files import write_text
from hopfield_replay.utilities.tables import text_table

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "examples" / "README.md"
_ROW = re.compile(
    r"^(\| \[(\w+)\.(?:py|ipynb)\].*\| `(?:python|jupyter notebook) (examples/\w+\.\w+[^`]*)` \| )(.*?)( \|)$", re.M
)
_CELLS = """
import json, sys
names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), names)
"""


def claims(text: str) -> dict[str, tuple[str, str]]:
    """Command and claimed time of each example, by its name.

    Args:
        text: of the index.

    Example:
        >>> claims("| [a.py](a.py) | what | `python examples/a.py --fast` | 1 min 5 s |")
        {'a': ('examples/a.py --fast', '1 min 5 s')}
    """
    return {name: (command, claimed) for _, name, command, claimed, _ in _ROW.findall(text)}


def in_place(command: str, data: Path | None) -> str:
    """A command with the folder of data in place of DIR.

    Example:
        >>> in_place("examples/a.py --data-dir DIR --data DIRAC", Path("/data"))
        'examples/a.py --data-dir /data --data DIRAC'
    """
    return " ".join(str(data and data.resolve()) if word == "DIR" else word for word in command.split())


def seconds_of(claimed: str) -> float | None:
    """Seconds that a claim is about; None if it is no single time.

    Example:
        >>> seconds_of("1 min 5 s*"), seconds_of("74 s"), seconds_of("2 min"), seconds_of("4 core hours")
        (65.0, 74.0, 120.0, None)
    """
    found = re.fullmatch(r"(?:(\d+) min)? ?(?:(\d+) s)?\*?", claimed)
    return None if found is None or not any(found.groups()) else 60.0 * int(found[1] or 0) + int(found[2] or 0)


def as_claim(seconds: float) -> str:
    """Seconds as the index says them.

    Example:
        >>> as_claim(12.4), as_claim(65.2), as_claim(120.0)
        ('12 s', '1 min 5 s', '2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    return " ".join([f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest or not minutes))


def written(text: str, measured: dict[str, float]) -> str:
    """The index with the times that were measured, and a star where other work kept the machine busy meanwhile.

    Example:
        >>> written("| [a.py](a.py) | what | `python examples/a.py` | 9 min |", {"a": 65.0}).replace("*", "")
        '| [a.py](a.py) | what | `python examples/a.py` | 1 min 5 s |'
    """
    busy = "*" * bool(os.getloadavg()[2] > (os.cpu_count() or 1))
    times = {name: as_claim(seconds) + busy for name, seconds in measured.items()}
    return _ROW.sub(lambda row: f"{row[1]}{times.get(row[2], row[4])}{row[5]}", text)


def measure(command: str) -> tuple[float, float, float, float]:
    """CPU seconds of a command, seconds on the clock, the longest time without a sign of life, and peak memory (GiB).

    Of a notebook its cells are run, one after the other.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    started = last = time.monotonic()
    silence = 0.0
    with tempfile.TemporaryDirectory() as folder:
        script, *options = shlex.split(command)
        how = ["-c", _CELLS] if script.endswith(".ipynb") else []
        process = subprocess.Popen(
            [sys.executable, *how, str(ROOT / script), *options],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        said = b""
        while part := os.read(process.stdout.fileno(), 1 << 16):
            now = time.monotonic()
            silence, last, said = max(silence, now - last), now, (said + part)[-2000:]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}:\n{said.decode(errors='replace')}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
    return cpu, time.monotonic() - started, max(silence, time.monotonic() - last), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", nargs="*", help="names of the examples to run; without any the claims are shown")
    parser.add_argument("--write", action="store_true", help="write what was measured into examples/README.md")
    parser.add_argument("--data-dir", type=Path, help="what stands for DIR in a command: MNIST and CIFAR-10")
    options = parser.parse_args()
    known = claims(INDEX.read_text())
    if unknown := [name for name in options.examples if name not in known]:
        parser.error(f"no examples {unknown}; there are {', '.join(known)}")
    rows = []
    for name, (command, claimed) in known.items():
        cells = [name, claimed, "", "", "", "", ""]
        if name in options.examples:
            if "DIR" in command.split() and options.data_dir is None:
                parser.error(f"{name} needs --data-dir: its command is {command}")
            cpu, wall, silence, peak = measure(in_place(command, options.data_dir))
            said = seconds_of(claimed)
            ratio = "" if said is None else f"{cpu / said:.2f}"
            cells = [name, claimed, f"{cpu:.0f}", ratio, f"{wall:.0f}", f"{silence:.0f}", f"{peak:.2f}"]
            print(f"{name}: {cpu:.0f} CPU seconds", file=sys.stderr, flush=True)
            if options.write:  # one by one: what was measured is kept, whatever becomes of the next
                write_text(INDEX, written(INDEX.read_text(), {name: cpu}))
        rows.append(cells)
    headers = ("example", "claimed", "CPU s", "measured / claimed", "clock s", "longest silence s", "peak GiB")
    print(text_table(headers, rows))


if __name__ == "__main__":
    main()
