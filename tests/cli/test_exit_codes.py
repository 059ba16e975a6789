"""Every way to fail has the exit code that --help says it has: 1 is only ever "forgot too much", 0 only "passed"."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("jsonargparse")

from PIL import Image

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource
from hopfield_replay.cli import main
from hopfield_replay.denoisers import CallableDenoiser

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]


class Small(torch.nn.Module):
    """Predicts noise with one linear layer."""

    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)
        self.denoiser = CallableDenoiser(lambda x, t: self.layer(x), torch.linspace(0.99, 0.01, 20))


def arguments(folder, command):
    """A command that works."""
    np.savez(folder / "old.npz", x=np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32))
    np.savez(folder / "new.npz", x=np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32) + 1)
    torch.manual_seed(0)
    torch.save({"state_dict": Small(2).state_dict(), "hyper_parameters": {"width": 2}}, folder / "a.ckpt")
    pictures = np.random.default_rng(2).integers(0, 255, size=(8, 8, 8, 3), dtype=np.uint8)
    (folder / "pictures").mkdir(exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / "pictures" / f"{number}.png")
    buffer = EnergyReplayBuffer(3, "random")
    buffer.update(torch.rand(5, 1, 8, 8), torch.rand(5, 64), ids=torch.arange(5), task=0)
    buffer.save(folder / "kept.safetensors")
    tracker = ForgettingTracker()
    for centre in (0.0, 9.0):
        tracker.end_task(TaskSource([centre + torch.arange(16.0).view(8, 2)]))
    torch.save(tracker.state_dict(), folder / "history.pt")
    return {
        "forecast": ["forecast", f"{folder}/old.npz", f"{folder}/new.npz", "--capacities", "5", "--output-dir",
                     f"{folder}/out"],
        "audit": ["audit", "--model", "tests.cli.test_exit_codes:Small",
                  "--before", f"{folder}/a.ckpt", "--after", f"{folder}/a.ckpt",
                  "--data", f"{folder}/old.npz", "--device", "cpu", "--output-dir", f"{folder}/out", "--fail-above",
                  "0.1"],
        "reproduce": ["reproduce", "rise", "--draws", "4", "--eps", "[0.02]"],
        "select": ["select", f"{folder}/pictures", "--keep", "3", "--output-dir", f"{folder}/out", "--export", "json",
                   "--output", f"{folder}/handed"],
        "buffer": ["buffer", f"{folder}/kept.safetensors", "--output-dir", f"{folder}/out"],
        "report": ["report", f"{folder}/history.pt", "--output-dir", f"{folder}/out"],
    }[command]  # fmt: skip


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


FAILURES = {  # what goes wrong, and the code it must give
    "ValueError": (ValueError("bad"), 2),
    "OSError": (OSError(28, "No space left on device"), 2),
    "BrokenPipeError": (BrokenPipeError(32, "Broken pipe"), 2),
    "PermissionError": (PermissionError(13, "Permission denied"), 2),
    "ImportError": (ImportError("no torch"), 2),
    "MemoryError": (MemoryError(), 2),
    "host memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), 2),
    "device memory": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), 2),
    "UnicodeEncodeError": (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), 2),
    "exit with 0": (SystemExit(0), 2),
    "exit with 1": (SystemExit(1), 2),
    "exit with text": (SystemExit("bye"), 2),
    "RuntimeError": (RuntimeError("a bug"), 3),
    "KeyError": (KeyError("a bug"), 3),
    "ZeroDivisionError": (ZeroDivisionError("a bug"), 3),
    "AssertionError": (AssertionError(), 3),
    "RecursionError": (RecursionError("a bug"), 3),
    "GeneratorExit": (GeneratorExit(), 3),
    "unprintable": (Unprintable(), 3),
    "KeyboardInterrupt": (KeyboardInterrupt(), 130),
}
SOME = ("OSError", "host memory", "exit with 1", "ZeroDivisionError", "KeyboardInterrupt")
STAGES = {
    "forecast": {
        "import": "hopfield_replay.cli.parser.parse",
        "read": "hopfield_replay.cli.datasets.load_data",
        "compute": "hopfield_replay.analysis.forecasting.forecast",
        "draw": "hopfield_replay.analysis.forecasting.Forecast.figure",
        "write": "hopfield_replay.cli.output.write_text",
        "print": "hopfield_replay.cli.forecast.say",
    },
    "audit": {
        "import": "hopfield_replay.cli.parser.parse",
        "read the first model": "hopfield_replay.checkpoints.load_version",
        "read the model": "hopfield_replay.checkpoints.load_versions",
        "read": "hopfield_replay.cli.datasets.load_data",
        "compute": "hopfield_replay.analysis.audit",
        "draw": "hopfield_replay.analysis.AuditReport.figures",
        "write": "hopfield_replay.cli.output.write_figure",
        "print": "hopfield_replay.cli.audit.say",
    },
    "reproduce": {
        "import": "hopfield_replay.cli.parser.parse",
        "compute": "hopfield_replay.theory.reproduce_rise",
        "print": "hopfield_replay.cli.reproduce.say",
    },
    "select": {
        "import": "hopfield_replay.cli.parser.parse",
        "read": "hopfield_replay.analysis.read_collection",
        "compute": "hopfield_replay.analysis.select",
        "draw": "hopfield_replay.analysis.SelectionReport.figure",
        "write": "hopfield_replay.cli.output.write_text",
        "hand over": "hopfield_replay.analysis.exports.export",
        "print": "hopfield_replay.cli.selecting.say",
    },
    "buffer": {
        "import": "hopfield_replay.cli.parser.parse",
        "read": "hopfield_replay.checkpoints.BufferFile",
        "compute": "hopfield_replay.buffer.verify",
        "draw": "hopfield_replay.figures.contact_sheet",
        "write": "hopfield_replay.cli.output.write_text",
        "print": "hopfield_replay.cli.buffer_file.say",
    },
    "report": {
        "import": "hopfield_replay.cli.parser.parse",
        "read": "hopfield_replay.analysis.run_file.run_from_file",
        "compute": "hopfield_replay.analysis.RunReport.table",
        "write": "hopfield_replay.analysis.RunReport.write",
        "print": "hopfield_replay.cli.report.say",
    },
}


@pytest.mark.parametrize(("command", "stage"), [(command, stage) for command in STAGES for stage in STAGES[command]])
def test_the_code_of_every_failure_at_every_stage(tmp_path, monkeypatch, capsys, command, stage):
    if stage in ("draw", "write"):
        pytest.importorskip("matplotlib")
    given = arguments(tmp_path, command)
    for name, (error, code) in FAILURES.items():
        if stage not in ("import", "read", "compute") and name not in SOME:
            continue
        if stage == "import" and isinstance(error, SystemExit):
            continue  # that is how argparse ends

        def fail(*_, error=error, **__):
            raise error

        shutil.rmtree(tmp_path / "handed", ignore_errors=True)  # images are handed over before anything is printed
        with monkeypatch.context() as patched:
            if (command, stage) == ("reproduce", "compute"):  # its signature makes the options
                patched.setattr("hopfield_replay.cli.reproduce.run", fail)
            else:
                patched.setattr(STAGES[command][stage], fail)
            assert main(given) == code, name
        said = capsys.readouterr().err.rstrip("\n").split("\n")
        assert said[-1].startswith("hopfield-replay: "), name
        assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("command", STAGES)
def test_a_command_that_works_gives_0(tmp_path, capsys, command):
    assert main(arguments(tmp_path, command)) == 0
    assert capsys.readouterr().err == ""


def run(folder, given, code="import sys; from hopfield_replay.cli import main; sys.exit(main())", **settings):
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *given], cwd=folder, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        **{"capture_output": True, "text": True, **settings},
    )  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("both", [False, True])
def test_an_output_that_cannot_be_written_is_no_verdict(tmp_path, both):
    given = arguments(tmp_path, "forecast")
    with open("/dev/full", "w") as full:
        done = run(tmp_path, given, capture_output=False, stdout=full, stderr=full if both else subprocess.PIPE)
    assert done.returncode == 2
    if not both:
        assert done.stderr == "hopfield-replay: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("command", ["forecast", "audit", "select"])
def test_what_was_found_is_written_although_nobody_listens_any_more(tmp_path, command):
    reading, writing = os.pipe()
    os.close(reading)  # as that of | head, once it has enough
    with os.fdopen(writing, "w") as pipe:
        done = run(tmp_path, arguments(tmp_path, command), capture_output=False, stdout=pipe, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert "Broken pipe" in done.stderr
    assert (tmp_path / "out" / f"{command}.json").is_file()
    assert (tmp_path / "handed" / "replay.json").is_file() == (command == "select")


def test_closed_standard_streams(tmp_path):
    closing = "import os, sys; os.close(1); os.close(2); from hopfield_replay.cli import main; sys.exit(main())"
    assert run(tmp_path, arguments(tmp_path, "forecast"), closing).returncode == 2


EXITS = {
    "exits with 1": "import sys; sys.exit(1)",
    "exits with 0": "raise SystemExit",
    "divides by zero": "1 / 0",
    "has a syntax error": "def",
    "needs what is not there": "import nothing_of_that_name",
    "runs out of stack": "def f(): f()\nf()",
}


@pytest.mark.parametrize("kind", EXITS)
def test_a_model_or_datamodule_that_fails_when_it_is_imported_is_bad_input(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"own_{kind.replace(' ', '_')}"
    (tmp_path / f"{name}.py").write_text(EXITS[kind])
    given = arguments(tmp_path, "audit")
    given[given.index("--model") + 1] = f"{name}:Model"
    assert main(given) == 2
    assert f"The model '{name}:Model' cannot be imported" in capsys.readouterr().err
    assert main(["forecast", f"{name}:Data", f"{name}:Data"]) == 2
    assert f"'{name}:Data' cannot be imported" in capsys.readouterr().err


def test_a_model_that_exits_when_it_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_exits.py").write_text(
        "import sys, torch\nclass Model(torch.nn.Module):\n    def __init__(self, width): sys.exit(1)\n"
        "class Data:\n    def train_dataloader(self): sys.exit(0)\n"
    )
    given = arguments(tmp_path, "audit")
    given[given.index("--model") + 1] = "own_exits:Model"
    assert main(given) == 2
    assert "Model cannot be made with the arguments ['width'] (SystemExit: 1)" in capsys.readouterr().err
    assert main(["forecast", "own_exits:Data", "own_exits:Data"]) == 2
    assert "'own_exits:Data' has no data" in capsys.readouterr().err
