import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from hopfield_replay.figures import rises_and_protection
from tests.figures.readable import check_readable


def test_rises_and_curves():
    rises = torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=90))
    sizes = (20, 50, 100, 200, 500)
    curves = {f"a_long_name_{i}": [i + 1.0, i + 2.0, i + 2.5, i + 2.7, i + 2.8] for i in range(8)}
    figure = rises_and_protection(rises, sizes, curves, 100)
    check_readable(figure)
    left, right = figure.axes
    np.testing.assert_allclose([bar.get_height() for bar in left.patches], np.histogram(rises.numpy(), bins=40)[0])
    for line, (name, values) in zip(right.lines, curves.items(), strict=False):
        assert line.get_label() == name
        np.testing.assert_allclose(line.get_xydata(), np.stack([sizes, values], 1))
    assert right.lines[-1].get_label() == "recommended: 100"
    assert right.get_xscale() == "log"
    assert len({(line.get_color(), line.get_marker()) for line in right.lines}) == 9


def test_one_size():
    figure = rises_and_protection(torch.ones(4), (3,), {"random": [0.2]})
    check_readable(figure)
    assert figure.axes[1].get_xscale() == "linear"
