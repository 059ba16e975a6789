"""The figure shows every earlier probe once; the rank correlation is that of scipy."""

import sys

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.test_table import probe

pytest.importorskip("matplotlib")

from hopfield_replay.figures import energy_against_forgetting


def test_dots_are_the_probes_of_earlier_tasks():
    record = {"task": 2, "probes": [probe(0, 9, 0), probe(1, 8, 1), probe(2, 7, 2)]}
    figure = energy_against_forgetting(record)
    for axis, name in zip(figure.axes, ("start", "rise"), strict=True):
        assert len(axis.collections) == 2
        for dots, entry in zip(axis.collections, record["probes"], strict=False):
            x = entry["energy_start"] if name == "start" else entry["energy"] - entry["energy_start"]
            y = (entry["error"] - entry["error_start"]).mean(1)
            np.testing.assert_allclose(dots.get_offsets(), torch.stack([x, y], 1).numpy())
            rho = spearmanr(x.numpy(), y.numpy()).statistic
            assert dots.get_label() == f"task {entry['task']}: Spearman {rho:+.2f}"


def test_single_probes_are_drawn(tmp_path):
    figure = energy_against_forgetting({"task": 1, "probes": [probe(0, 1, 0), probe(1, 1, 1)]})
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_nothing_to_show():
    assert energy_against_forgetting({"task": 0, "probes": [probe(0, 4, 0)]}) is None
    assert energy_against_forgetting({"task": 1, "probes": [probe(0, 4, 0, errors=False)]}) is None


def test_without_matplotlib_the_message_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "hopfield-replay\[tensorboard\]"'):
        energy_against_forgetting({"task": 1, "probes": [probe(0, 4, 0), probe(1, 4, 1)]})
