"""Dots are the probes of earlier tasks, lines the points given; the rank correlation is that of scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.tracker.test_table import probe

pytest.importorskip("matplotlib")

from hopfield_replay.figures import energy_against_forgetting, forgetting_over_tasks
from tests.figures.readable import check_readable


def test_dots_are_the_probes_of_earlier_tasks():
    record = {"task": 2, "probes": [probe(0, 9, 0), probe(1, 8, 1), probe(2, 7, 2)]}
    figure = energy_against_forgetting(record)
    check_readable(figure)
    for axis, name in zip(figure.axes, ("start", "rise"), strict=True):
        assert "squared units" in axis.get_xlabel()
        assert len(axis.collections) == 2
        for dots, entry in zip(axis.collections, record["probes"], strict=False):
            x = entry["energy_start"] if name == "start" else entry["energy"] - entry["energy_start"]
            y = (entry["error"] - entry["error_start"]).mean(1)
            np.testing.assert_allclose(dots.get_offsets(), torch.stack([x, y], 1).numpy())
            rho = spearmanr(x.numpy(), y.numpy()).statistic
            assert dots.get_label() == f"task {entry['task']}: Spearman {rho:+.2f} (n = {len(x)})"


@pytest.mark.heavy
def test_many_tasks_share_colours_and_correlations():
    record = {"task": 19, "probes": [probe(task, 6, task) for task in range(20)]}
    figure = energy_against_forgetting(record)
    check_readable(figure)
    for axis in figure.axes:
        assert len(axis.collections) == 7
        assert sum(len(dots.get_offsets()) for dots in axis.collections) == 19 * 6
    pooled = [entry for entry in record["probes"] if 3 <= entry["task"] <= 5]
    x = torch.cat([entry["energy_start"] for entry in pooled]).numpy()
    y = torch.cat([(entry["error"] - entry["error_start"]).mean(1) for entry in pooled]).numpy()
    name = f"tasks 3-5: Spearman {spearmanr(x, y).statistic:+.2f} (n = 18)"
    assert figure.axes[0].collections[1].get_label() == name
    assert figure.axes[0].collections[-1].get_label().startswith("task 18: ")


@pytest.mark.heavy
@pytest.mark.parametrize("panel", ["energy", "rise"])
def test_one_panel_for_a_card_of_a_dashboard(panel):
    record = {"task": 8, "probes": [probe(task, 6, task) for task in range(9)]}
    both, one = energy_against_forgetting(record), energy_against_forgetting(record, panel=panel)
    check_readable(one, narrow=True)
    (axis,) = one.axes
    for dots, same in zip(axis.collections, both.axes[panel == "rise"].collections, strict=True):
        np.testing.assert_allclose(dots.get_offsets(), same.get_offsets())
        assert dots.get_label() == same.get_label()
    curves = {f"task {i}": [(2, 0.1 * i), (3, 0.2)] for i in range(9)}
    check_readable(forgetting_over_tasks(curves, "intrinsic\n(energy, squared units)", narrow=True), narrow=True)


def test_single_probes_are_drawn(tmp_path):
    figure = energy_against_forgetting({"task": 1, "probes": [probe(0, 1, 0), probe(1, 1, 1)]})
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_nothing_to_show():
    assert energy_against_forgetting({"task": 0, "probes": [probe(0, 4, 0)]}) is None
    assert energy_against_forgetting({"task": 1, "probes": [probe(0, 4, 0, errors=False)]}) is None


def test_a_line_for_each_run():
    curves = {f"policy number {i}": [(2, 0.1 * i), (3, 0.3 - 0.01 * i), (4, 0.2)] for i in range(10)}
    figure = forgetting_over_tasks(curves)
    check_readable(figure)
    (axis,) = figure.axes
    for line, (name, points) in zip(axis.lines, curves.items(), strict=False):
        assert line.get_label() == name
        np.testing.assert_allclose(line.get_xydata(), points)
    looks = [(line.get_color(), line.get_marker()) for line in axis.lines[:10]]
    assert len(set(looks)) == 10
    assert axis.get_xlabel() == "after task"
    assert list(axis.get_xticks()) == [2, 3, 4]
