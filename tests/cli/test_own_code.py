"""Files in the working folder are data, unless the user names one as code; and even then they shadow nothing."""

import json
import os
import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("jsonargparse")

from hopfield_replay.cli import main
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


MODEL = """
import torch
from hopfield_replay.denoisers import CallableDenoiser

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.denoiser = CallableDenoiser(lambda x, t: self.layer(x), torch.linspace({first}, 0.01, 20))
"""


def test_an_audit_measures_again_when_the_models_code_has_changed(tmp_path, monkeypatch):
    """What is kept of an interrupted audit was found again after a mistake in the class was mended."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        torch.save({"state_dict": {"layer.weight": torch.randn(2, 2), "layer.bias": torch.zeros(2)}}, f"{name}.ckpt")
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32))
    command = ["audit", "--model", "own_model_that_changes:Own", "--before", "a.ckpt", "--after", "b.ckpt"]
    found = []
    for first, folder in ((0.99, "kept"), (0.6, "kept"), (0.6, "fresh")):
        Path("own_model_that_changes.py").write_text(MODEL.format(first=first))
        monkeypatch.delitem(sys.modules, "own_model_that_changes", raising=False)
        invalidate_caches()
        assert main([*command, "--data", "x.npz", "--device", "cpu", "--output-dir", folder, "--quiet"]) == 0
        found.append(json.loads(Path(folder, "audit.json").read_text())["errors_old"])
    assert found[0] != found[1] == found[2]
    journal = sorted(Path("kept", "measured").iterdir())
    assert main([*command, "--data", "x.npz", "--device", "cpu", "--output-dir", "kept", "--quiet"]) == 0
    assert sorted(Path("kept", "measured").iterdir()) == journal  # and only then
