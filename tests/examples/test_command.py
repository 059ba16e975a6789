"""Help and Ctrl-C of the examples."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse")

from helpers.command import INTERRUPTED, Parser, answer_help, run_main

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def interrupted():
    raise KeyboardInterrupt


def cleared_up():
    try:
        interrupted()
    except KeyboardInterrupt:
        sys.exit(1)  # as Lightning does


def elsewhere():
    sys.exit(INTERRUPTED)  # as fit_tasks does


@pytest.mark.parametrize("main", [interrupted, cleared_up, elsewhere])
def test_ctrl_c_is_one_sentence_and_code_130(main, capsys):
    with pytest.raises(SystemExit) as end:
        run_main(main)
    assert (end.value.code, capsys.readouterr().err) == (130, "Interrupted.\n")


@pytest.mark.parametrize(
    ("main", "code"), [(lambda: None, 0), (lambda: sys.exit(2), 2), (lambda: sys.exit("no"), "no")]
)
def test_other_ends_are_left_alone(main, code):
    with pytest.raises(SystemExit) as end:
        run_main(main)
    assert end.value.code == code


def make_parser():
    parser = Parser("One line.\n\n    as it   was written")
    parser.add_argument("--size", type=int, choices=[1, 2], default=1, help="of it")
    parser.add_argument("--names", nargs="+", default=["a", "b"], help="of all")
    return parser


def test_help_is_as_it_was_written(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["example.py", "--help"])
    answer_help("imported", make_parser)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as end:
        answer_help("__main__", make_parser)
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "\n    as it   was written\n" in said
    assert "of it (default: 1)" in said
    assert "of all (default: a b)" in said
    assert "<" not in said


@pytest.mark.heavy
@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_help_of_an_example_comes_before_what_takes_seconds(path):
    script = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(path.parent)!r}); sys.argv = [{path.name!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(path)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print(end.code or 0, sorted({'torch', 'lightning', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert f"python examples/{path.name}" in done.stdout
    assert not re.search(r"<(function|class)", done.stdout)


@pytest.mark.heavy
@pytest.mark.parametrize("options", [["--data", "digits"]])
def test_ctrl_c_ends_an_example_wherever_it_is(options, tmp_path):
    script = ROOT / "examples" / "ddpm_mnist_splits.py"
    for marker in (None, "none"):  # while it is imported, and while it trains
        process = subprocess.Popen(
            [sys.executable, str(script), *options, "--output-dir", str(tmp_path / "runs")],
            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if marker is None:
            time.sleep(3)
        else:
            deadline = time.monotonic() + 120
            while not (tmp_path / "runs" / marker).exists() and time.monotonic() < deadline:
                time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert errors.splitlines()[-1] == "Interrupted."


@pytest.mark.heavy
def test_ctrl_c_ends_the_tutorial_between_its_cells():
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "examples" / "tutorial.py")],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline().startswith("beta")
    process.send_signal(signal.SIGINT)  # the forecast is next
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "Interrupted."
