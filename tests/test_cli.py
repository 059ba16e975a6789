"""The command hopfield-replay, run in this process and once as a program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("jsonargparse")

from hopfield_replay import forecast
from hopfield_replay.cli import main
from tests.test_datasets import MODULE, folder_of_images

ROOT = Path(__file__).parents[1]


def clouds(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(30, 2)).astype(np.float32) + shift for shift in (0.0, 2.0))


def files(folder):
    old, new = clouds()
    np.savez(folder / "old.npz", images=old, labels=np.arange(30) % 2)
    save_file({"x": torch.from_numpy(new)}, folder / "new.safetensors")
    return str(folder / "old.npz"), str(folder / "new.safetensors")


def test_forecast_prints_and_writes_what_the_function_finds(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    old, new = files(tmp_path)
    out = tmp_path / "out" / "here"
    main(["forecast", old, new, "--capacities", "[3, 6]", "--beta", "0.5", "--replay_ratio", "0.3", "--seed", "4",
          "--output_dir", str(out)])  # fmt: skip
    found = forecast(*map(torch.from_numpy, clouds()), labels=torch.arange(30) % 2, capacities=(3, 6), beta=0.5,
                     replay_ratio=0.3, seed=4)  # fmt: skip
    printed = capsys.readouterr().out
    assert found.table() in printed
    assert f"Wrote {out}/forecast.json and forecast.png" in printed
    assert json.loads((out / "forecast.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    assert (out / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_forecast_of_folders_of_images_with_the_default_sizes(tmp_path, capsys):
    old = folder_of_images(tmp_path / "old", classes=("a", "b"))
    new = folder_of_images(tmp_path / "new", count=3)
    main(["forecast", str(old), str(new), "--capacities", "[2, 4]"])
    assert "6 old samples" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old"]  # nothing is written unless asked for


def test_as_a_program_with_a_datamodule_of_the_present_folder(tmp_path):
    (tmp_path / "own_data.py").write_text(MODULE)
    script = "from hopfield_replay.cli import main; main()"  # as the console script does: no present folder in sys.path
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "forecast", "own_data:Digits", "own_data:Digits", "--capacities", "[5]"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "20 old samples" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv", "missing.csv"], "'missing.csv' is not a folder, a .npz or .safetensors file"),
        (["missing.npz", "missing.npz"], "missing.npz cannot be read as .npz"),
        (["nowhere:Data", "nowhere:Data"], "'nowhere:Data' cannot be imported"),
        (["OLD", "NEW", "--capacities", "[50]"], "capacities must rise from at least 1"),
        (["OLD", "NEW", "--beta", "-1", "--capacities", "[5]"], "beta (inverse temperature) must be positive"),
        (["OLD", "NEW", "--replay_ratio", "1", "--capacities", "[5]"], "must lie strictly between 0 and 1"),
    ],
)
def test_errors_are_one_line_and_status_1(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    paths = dict(zip(("OLD", "NEW"), files(tmp_path), strict=True))
    with pytest.raises(SystemExit) as stop:
        main(["forecast", *(paths.get(argument, argument) for argument in arguments)])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("hopfield-replay: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["forecast"], ["forecast", "a", "b", "--sede", "1"], ["reproduce", "fame"]])
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: hopfield-replay" in capsys.readouterr().err


def test_reproduce_rise(capsys):
    main(["reproduce", "rise", "--draws", "8", "--eps", "[0.02]"])
    printed = capsys.readouterr().out
    assert "outlier" in printed
    assert len(printed.splitlines()) > 3
