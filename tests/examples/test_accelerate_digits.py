"""The loop without Lightning: interrupted at any step and started again, it ends as one that was not."""

import sys

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("diffusers")

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import accelerate_digits as example

SHORT = ["--tasks", "2", "--epochs", "2", "--capacity", "6", "--batch-size", "64"]


def run(monkeypatch, capsys, folder, *arguments, stop_at=None):
    """What the example prints; ``stop_at`` steps, if that is given, are all that it gets to."""
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a new process
    left = [stop_at]

    class Stops(example.EMAModel):
        def step(self, parameters):
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            super().step(parameters)

    with monkeypatch.context() as patch:
        patch.setattr(example, "EMAModel", Stops)
        patch.setattr(sys, "argv", ["accelerate_digits.py", *SHORT, "--output-dir", str(folder), *arguments])
        if stop_at is None:
            example.main()
        else:
            with pytest.raises(KeyboardInterrupt):
                example.main()
    return capsys.readouterr().out


def weights(folder):
    return load_file(folder / (folder / "newest.txt").read_text() / "model.safetensors")


@pytest.mark.heavy
def test_interrupted_runs_end_as_whole_ones(tmp_path, monkeypatch, capsys):
    def said(folder):
        return run(monkeypatch, capsys, folder).replace(str(folder), "RUN")

    whole = said(tmp_path / "whole")
    assert "worst after task 1: task 0" in whole
    steps = 4  # of an epoch
    for stop_at in (steps + 2, 2 * steps + 1):  # within the second epoch of the first task, and of the second
        run(monkeypatch, capsys, tmp_path / "cut", stop_at=stop_at)
    assert said(tmp_path / "cut") == whole
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "cut")[name], value, rtol=0, atol=0)
    assert said(tmp_path / "cut") == whole  # nothing is left to do


@pytest.mark.heavy
def test_without_replay(tmp_path, monkeypatch, capsys):
    assert "worst after task 1: task 0" in run(monkeypatch, capsys, tmp_path, "--policy", "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "nonsense"], "unknown policies"),
        (["--policy", "random+weight"], "no arm of a study"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--tasks", "1"], "--tasks must be at least 2, got 1"),
    ],
)
def test_wrong_options(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["accelerate_digits.py", "--output-dir", str(tmp_path), *arguments])
    with pytest.raises(SystemExit):
        example.main()
    assert said in capsys.readouterr().err


def test_a_folder_of_another_configuration(tmp_path, monkeypatch, capsys):
    AcceleratorState._reset_state(reset_partial_state=True)
    (tmp_path / "run.json").write_text('{"policy": "random"}')
    monkeypatch.setattr(sys, "argv", ["accelerate_digits.py", "--output-dir", str(tmp_path)])
    with pytest.raises(SystemExit):
        example.main()
    assert "another configuration: policy was random, now greedy_gain" in capsys.readouterr().err
