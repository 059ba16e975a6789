"""Everything that needs a GPU, for one that is lent for minutes.

``python tests/benchmarks/on_gpu.py --minutes 8 --output DIR`` runs the tests that need one, the engine's table, that of
neighbours, affinities and a memory's score, what a task boundary costs, a DDPM on two tasks of CIFAR-10, and the study
on MNIST at 28x28 with as many seeds as fit. Each part is a process of its own under a limit of its own; what it printed
and measured is written to DIR after every part, as results.json and results.md, so that a cut loses one part at most.
It works from a checkout, without installation and network. ``--device cpu --scale tiny`` runs it to its end.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DATA = [folder for base in (ROOT, *ROOT.parents) if (folder := base / "shared/data").exists()]
_SHOWN = 12_000  # last characters of a part's output that are kept in the results


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        name: of the part.
        command: what is run, from the root of the repository.
        share: of the time that is left when it begins, which it may take.
        files: that it writes, whose text belongs to the results.
    """

    name: str
    command: list[str]
    share: float
    files: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What became of a part."""

    name: str
    command: str
    seconds: float
    limit: float
    status: str
    output: str
    files: dict[str, str]


def gpu_tests(tiny: bool) -> list[str]:
    """Arguments of pytest: the files in which something needs a GPU, and in them the tests that do."""
    mark = "not torch.cuda.is_available()"
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if mark in path.read_text())
    chosen = [path for path in files if path.name == "test_fused.py"] if tiny else files
    return [str(path.relative_to(ROOT)) for path in chosen]


def parts(options: argparse.Namespace) -> list[Part]:
    """In the order of what is worth most."""
    tiny, device, out = options.scale == "tiny", options.device, options.output
    run = [sys.executable, "-m"]
    pytest = [*run, "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
    found = [Part("tests that need a GPU", [*pytest, "-k", "gpu", *gpu_tests(tiny)], 0.3)]
    sizes = (64,) if tiny else (1024, 3072, 64, 16384)
    for d in sizes:
        file = out / f"engine_{d}.json"
        command = [*run, "tests.benchmarks.energy_gpu", "--device", device, "--dimensions", str(d), "--json", str(file)]
        command += ["--scale", "0.005", "--rounds", "1"] if tiny else ["--rounds", "2"]
        found.append(Part(f"engine, d={d}", command, 0.3, [file]))
    search = [*run, "tests.benchmarks.search_gpu", "--device", device, "--json", str(out / "search.json")]
    few = ["--rows", "neighbours, d=64", "affinities, d=64", "memory's score, d=784", "--scale", "0.002"]
    search += [*few, "--rounds", "1"] if tiny else ["--rounds", "2"]
    found.append(Part("neighbours, affinities, memory's score", search, 0.3, [out / "search.json"]))
    rows = ["2k-random"] if tiny else ["4k-greedy", "50k-greedy", "50k-energy"]
    boundary = [*run, "tests.benchmarks.boundary", "--device", device, "--limit", "120", "--rows", *rows]
    found.append(Part("boundary", boundary, 0.35))
    script = [sys.executable, str(ROOT / "examples/ddpm_cifar10_splits.py"), "--tasks", "2"]
    script += [
        "--data-dir",
        str(options.data_dir / "cifar10"),
        "--output-dir",
        str(out / "cifar10"),
        "--policies",
        "none",
    ]
    if tiny:
        script += ["--epochs", "1", "--train", "64", "--capacity", "8"]
    else:
        script += ["greedy_gain", "--preset", "paper", "--epochs", "10", "--train", "2500", "--capacity", "200"]
    script += ["--accelerator", "gpu" if device == "cuda" else "cpu"]
    found.append(Part("DDPM on CIFAR-10", script, 0.5))
    study = [sys.executable, str(ROOT / "examples/energy_forgetting_study.py"), "--data-dir", str(options.data_dir)]
    study += ["--output-dir", str(out / "study")]
    if tiny:
        study += ["--data", "digits", "--epochs", "1", "--seeds", "0", "--policies", "none", "random"]
        study += ["--capacities", "20", "--generated", "40"]
    else:
        study += ["--data", "mnist28", "--jobs", "4", "--policies", "none", "random", "greedy_gain"]
        study += ["--capacities", "100", "--accelerator", "gpu" if device == "cuda" else "cpu"]
    found.append(Part("study", study, 1.0, [out / "study/study.json", out / "study/study.md"]))
    return found


def run(part: Part, limit: float, folder: Path) -> Result:
    """Run one part for ``limit`` seconds at most; its whole group of processes ends with it."""
    command = list(part.command)
    if part.name == "study":
        command += ["--minutes", f"{max(0.1, limit * 0.6 / 60):.2f}"]  # jobs that have begun are finished
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    log = folder / f"{part.name.replace(' ', '_').replace(',', '')}.log"
    start = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit)
            status = "done" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = f"stopped after {limit:.0f} s"
    written = {str(path.relative_to(folder)): path.read_text() for path in part.files if path.exists()}
    text = log.read_text(errors="replace")[-_SHOWN:]
    return Result(part.name, " ".join(command), time.monotonic() - start, limit, status, text, written)


def hardware(device: str) -> str:
    """What it ran on, asked in a process of its own: this one must not hold memory of the GPU."""
    name = "torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'"
    code = f"import torch; print(torch.__version__, {name})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return f"{device}; torch {done.stdout.strip()}; Python {platform.python_version()}; {os.cpu_count()} CPU cores"


def write(folder: Path, where: str, results: list[Result]) -> None:
    """Write what is known so far, the JSON at once or not at all."""
    draft = folder / "results.json.part"
    draft.write_text(json.dumps({"hardware": where, "parts": [asdict(one) for one in results]}, indent=1))
    draft.replace(folder / "results.json")
    lines = [f"# {where}", "", "| part | status | s | limit, s |", "|---|---|---|---|"]
    lines += [f"| {one.name} | {one.status} | {one.seconds:.0f} | {one.limit:.0f} |" for one in results]
    for one in results:
        lines += ["", f"## {one.name}", "", "```", one.command, "", one.output.rstrip(), "```"]
        lines += [line for name, text in one.files.items() if name.endswith(".md") for line in ("", text.rstrip())]
    (folder / "results.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Run the parts, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--scale", choices=["full", "tiny"], default="full")
    parser.add_argument(
        "--data-dir", type=Path, default=next(iter(_DATA), Path("data")), help="folder with MNIST and CIFAR-10"
    )
    options = parser.parse_args()
    if not options.minutes > 0:
        parser.error(f"--minutes must be positive, got {options.minutes}")
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    where, results = hardware(options.device), []
    for part in parts(options):
        left = end - time.monotonic()
        if left < 5:
            results.append(Result(part.name, " ".join(part.command), 0.0, 0.0, "no time left", "", {}))
        else:
            results.append(run(part, left * part.share, options.output))
        write(options.output, where, results)
        print(f"{part.name}: {results[-1].status}, {results[-1].seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
