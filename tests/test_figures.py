"""The figure shows every earlier probe once; the rank correlation is that of scipy."""

import importlib
import math
import sys

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.test_table import probe

pytest.importorskip("matplotlib")

from hopfield_replay.figures import energy_against_forgetting, spearman


@pytest.mark.parametrize("seed", range(4))
def test_spearman_with_ties(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, size=30).astype(float), rng.normal(size=30)
    assert math.isclose(spearman(torch.from_numpy(a), torch.from_numpy(b)), spearmanr(a, b).statistic, abs_tol=1e-12)
    c = rng.integers(0, 3, size=30).astype(float)
    assert math.isclose(spearman(torch.from_numpy(a), torch.from_numpy(c)), spearmanr(a, c).statistic, abs_tol=1e-12)


def test_spearman_of_a_constant_or_of_one_number():
    assert math.isnan(spearman(torch.ones(4), torch.arange(4.0)))
    assert math.isnan(spearman(torch.ones(1), torch.ones(1)))


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
    monkeypatch.delitem(sys.modules, "hopfield_replay.figures")
    with pytest.raises(ImportError, match=r'pip install "hopfield-replay\[tensorboard\]"'):
        importlib.import_module("hopfield_replay.figures")
