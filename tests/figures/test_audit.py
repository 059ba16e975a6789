"""What is drawn of an audit is the samples' errors and the quantiles of each class, by numpy."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from hopfield_replay.figures import error_change, rises_by_group
from tests.figures.readable import check_readable

RNG = np.random.default_rng(0)


def test_rises_and_errors():
    old, new = torch.from_numpy(RNG.uniform(0.1, 0.2, 70)), torch.from_numpy(RNG.uniform(0.1, 0.4, 70))
    figure = error_change(old, new)
    check_readable(figure)
    left, right = figure.axes
    rises = (new - old).numpy()
    counts, edges = np.histogram(rises, bins=40)
    np.testing.assert_allclose([bar.get_height() for bar in left.patches], counts)
    np.testing.assert_allclose([bar.get_x() for bar in left.patches], edges[:-1])
    assert left.get_legend_handles_labels()[1] == [f"mean {rises.mean():+.3g}"]
    assert left.get_ylabel() == "samples (of 70)"
    np.testing.assert_allclose(right.collections[0].get_offsets(), np.stack([old, new], 1))
    assert right.get_xscale() == "linear"


@pytest.mark.heavy
def test_errors_over_decades_are_drawn_on_log_axes():
    old = torch.logspace(-4, 0, 9, dtype=torch.float64)
    figure = error_change(old, old * 1.5)
    check_readable(figure)
    right = figure.axes[1]
    assert (right.get_xscale(), right.get_yscale()) == ("log", "log")
    x, y = right.lines[0].get_xydata().T
    np.testing.assert_allclose(x, y)  # the line of equal errors
    (both,) = error_change(torch.ones(1), torch.ones(1)).axes[1].collections
    assert both.get_offsets().tolist() == [[1.0, 1.0]]


def test_groups_are_ordered_by_their_mean_rise():
    rises, groups = torch.from_numpy(RNG.normal(size=400)), torch.from_numpy(RNG.integers(0, 4, 400))
    rises += torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)[groups]
    figure = rises_by_group(rises, groups, "task")
    check_readable(figure)
    (axis,) = figure.axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert [label.split(" (")[0] for label in labels] == ["task 1", "task 3", "task 0", "task 2"]
    boxes = [patch.get_path().vertices[:, 0] for patch in axis.patches]
    for box, group in zip(boxes, (1, 3, 0, 2), strict=True):
        mine = rises.numpy()[groups.numpy() == group]
        np.testing.assert_allclose([box.min(), box.max()], np.quantile(mine, [0.25, 0.75]))


def test_of_many_groups_the_most_and_the_least_forgotten():
    groups = torch.arange(300) % 100
    figure = rises_by_group(groups.double() + torch.randn(300) / 100, groups)
    check_readable(figure)
    labels = [label.get_text().split(" (")[0] for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"class {i}" for i in [*range(10), *range(90, 100)]]
