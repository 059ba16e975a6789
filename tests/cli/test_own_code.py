"""Files in the working folder are data, unless the user names one as code; and even then they shadow nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse")

from hopfield_replay.cli.own_code import importable
from tests.cli.test_datasets import MODULE, folder_of_images
from tests.cli.test_exit_codes import ROOT, arguments, run

SHADOWED = ("PIL", "numpy", "torch", "matplotlib", "yaml", "jsonargparse", "safetensors", "diffusers", "tqdm",
            "lightning", "typeshed_client", "xformers", "psutil")  # fmt: skip


def plant(folder):
    """Modules of well-known names that say so when they are imported."""
    for name in SHADOWED:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write({name!r})\nraise SystemExit(1)\n")


@pytest.mark.parametrize("command", ["forecast", "audit", "reproduce"])
@pytest.mark.parametrize("start", ["script", "module"])
@pytest.mark.heavy
def test_no_command_runs_what_lies_beside_the_data(tmp_path, command, start):
    given = arguments(tmp_path, command)
    if command == "forecast":
        pytest.importorskip("PIL")
        given[1:3] = [str(folder_of_images(tmp_path / name)) for name in ("old", "new")]
    plant(tmp_path)
    if start == "module":
        done = subprocess.run(
            [sys.executable, "-m", "hopfield_replay.cli", *given], cwd=tmp_path, timeout=300, check=False, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True,
        )  # fmt: skip
    else:
        done = run(tmp_path, given)
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    assert done.returncode == 0, done.stderr


@pytest.mark.heavy
def test_what_the_user_names_is_found_and_shadows_nothing(tmp_path):
    plant(tmp_path)
    (tmp_path / "own_data.py").write_text(MODULE)
    given = ["forecast", "own_data:Digits", "own_data:Digits", "--capacities", "5"]
    done = run(tmp_path, given)
    assert done.returncode == 0, done.stderr
    assert "20 old samples" in done.stdout
    ran = (tmp_path / "ran").read_text() if (tmp_path / "ran").exists() else ""
    assert ran.replace("xformers", "") == ""  # not installed: whoever asks for it beside own code gets what lies there


def test_the_path_is_as_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = list(sys.path)
    with importable("torch.nn:Linear"):
        assert sys.path == before  # installed: the folder is not needed
    with importable(None):
        assert sys.path == before
    with importable("nothing_like_it:X"):
        assert sys.path == [*before, str(tmp_path)]
        sys.path.insert(0, "/what/the/code/adds")
    assert sys.path == ["/what/the/code/adds", *before]
    for odd in (":", "", "..:x", "a\0b:x"):
        with importable(odd):
            pass
    assert Path.cwd() == tmp_path
