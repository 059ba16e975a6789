"""The palette is told apart with every kind of colour vision; the checks of readability do find what is wrong."""

import sys
from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from hopfield_replay.figures import new_figure
from hopfield_replay.utilities.drawing import COLOURS, HATCHES, LINES, MARKERS, spans_decades
from tests.figures.readable import check_readable

# Machado, Oliveira, Fernandes (2009), full severity, on linear RGB
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, deficiency):
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = xyz / [0.9505, 1.0, 1.089]
    f = np.where(f > (6 / 29) ** 3, np.cbrt(f), f / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_any_two_colours_differ_for_every_eye(deficiency):
    for one, two in combinations(COLOURS, 2):
        difference = np.linalg.norm(lab(one, deficiency) - lab(two, deficiency))
        assert difference > 10, (one, two, difference)  # 2.3 is a just noticeable difference


def test_markers_lines_and_hatches_differ_where_colours_cannot():
    assert len(COLOURS) == len(set(MARKERS)) == len(set(map(str, LINES))) == len(set(HATCHES)) == 8


def test_eight_hundred_pixels_and_no_global_state(tmp_path):
    from matplotlib.image import imread

    figure = new_figure(3.0)
    assert figure.canvas.manager is None  # no window, none of pyplot's list of figures
    figure.savefig(tmp_path / "it.png")
    assert imread(tmp_path / "it.png").shape[:2] == (300, 800)


def test_without_matplotlib_the_message_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "hopfield-replay\[tensorboard\]"'):
        new_figure(1.0)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "spoil",
    [
        lambda axis: axis.set_title("far too long a title " * 9),
        lambda axis: axis.set_xlabel("small", fontsize=6),
        lambda axis: (axis.plot([0, 1], label="a"), axis.legend()),
        lambda axis: axis.set_xticks([0.5, 0.501], ["one", "two"]),
    ],
)
def test_what_cannot_be_read_is_found(spoil):
    figure = new_figure(3.0)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1])
    axis.set_xlabel("of this unit")
    check_readable(figure)
    spoil(axis)
    with pytest.raises(AssertionError):
        check_readable(figure)


def test_log_axes_where_positive_values_span_over_two_decades():
    assert spans_decades([1e-3, float("nan"), 1.0])
    assert not spans_decades([])
    assert not spans_decades([-1.0, 1e6])
