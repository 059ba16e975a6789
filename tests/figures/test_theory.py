"""Bars and marks stand at the given means, their whiskers at the given intervals."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.colors import to_hex

from hopfield_replay.figures import (
    energy_rises,
    learned_rises_and_gains,
    protected_by_policy,
    replay_gains,
    where_the_rule_holds,
)
from tests.figures.readable import check_readable

pytestmark = pytest.mark.heavy

PLACES = ("pattern", "fixed point")


def estimate(mean, low=None, high=None):
    ends = (mean - 0.1 * abs(mean) if low is None else low, mean + 0.2 * abs(mean) if high is None else high)
    return SimpleNamespace(mean=mean, interval=lambda: ends)


def whiskers(container):
    """Ends of the error bars of one errorbar or bar container, (n, 2), along the axis they lie on."""
    segments = np.array(container.lines[2][0].get_segments())
    along = int(np.ptp(segments[0][:, 1]) > np.ptp(segments[0][:, 0]))
    return segments[:, :, along]


@pytest.mark.parametrize("changes", [2, 4, 5])
def test_rises(changes):
    rises = {
        (f"rotation eps={c}", group, place): estimate(1.0 + c + 0.1 * g + 0.01 * p, 0.5, 9.0)
        for c in range(changes)
        for g, group in enumerate(("cluster", "outlier"))
        for p, place in enumerate(PLACES)
    }
    expected = {("rotation eps=0", "outlier", "fixed point"): 1.5}
    figure = energy_rises(rises, expected, "setting, beta=8.0, dot form, 200 draws")
    check_readable(figure)
    drawn = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in drawn] == [f"rotation eps={c}" for c in range(changes)]
    for c, axis in enumerate(drawn):
        for g, bars in enumerate(b for b in axis.containers if hasattr(b, "patches")):
            np.testing.assert_allclose([b.get_height() for b in bars], [1.0 + c + 0.1 * g + 0.01 * p for p in (0, 1)])
            np.testing.assert_allclose(whiskers(bars.errorbar), [[0.5, 9.0]] * 2)
    bar = drawn[0].containers[-1].patches[1]
    (line,) = drawn[0].collections[-1].get_segments()
    np.testing.assert_allclose(line, [[bar.get_x(), 1.5], [bar.get_x() + bar.get_width(), 1.5]])


def test_learned():
    regimes = [f"{h} hidden,\nbeta=12" for h in (8, 40, 41, 42, 43)]
    rises = {r: {(g, p): estimate(1.0) for g in ("cluster", "outlier") for p in PLACES} for r in regimes}
    gains = {
        r: {
            (who, which): estimate(value)
            for which in ("highest", "lowest", "random")
            for who, value in (("at itself", 2.0), ("mean over all", -0.5))
        }
        for r in regimes
    }
    figure = learned_rises_and_gains(rises, gains, "Boltzmann machine, cluster and outlier, eps=0.05, 24 seeds")
    check_readable(figure)
    heights = [bar.get_height() for axis in figure.axes for bar in axis.patches]
    np.testing.assert_allclose(heights, [1.0] * 20 + ([2.0] * 3 + [-0.5] * 3) * 5)
    assert [label.get_text() for label in figure.axes[5].get_xticklabels()] == ["highest", "lowest", "random"]


@pytest.mark.parametrize("positive", [True, False])
def test_gains(positive):
    families = ["outlier itself", "cluster itself", "within cluster", "outlier -> cluster", "cluster -> outlier"]
    gains = {
        f"rotation eps={c}": {
            name: {"raw": estimate(10.0**-i), "net": estimate(0.5 * 10.0**-i if positive else -0.1)}
            for i, name in enumerate(families)
        }
        for c in (0.05, 0.02)
    }
    figure = replay_gains(gains, "cluster and outlier, beta=8.0, 2000 rotations")
    check_readable(figure)
    for axis in figure.axes:
        assert axis.get_xscale() == ("log" if positive else "linear")
        np.testing.assert_allclose(axis.containers[0].lines[0].get_xydata()[:, 0], [10.0**-i for i in range(5)])
        np.testing.assert_allclose(whiskers(axis.containers[0])[2], [0.9e-2, 1.2e-2])
        assert axis.get_legend_handles_labels()[1] == ["raw", "net"]


def test_regions():
    betas, correlations = [1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 23.0, 32.0, 64.0], [0.1, 0.2, 0.5, 0.9]
    verdicts = ["holds", "equal", "merged", "reversed"]
    cells = [
        (place, n, c, beta, verdicts[(i + j + n + PLACES.index(place)) % 4])
        for place in PLACES
        for n in (2, 4, 12, 30)
        for i, c in enumerate(correlations)
        for j, beta in enumerate(betas)
    ]
    mixed = {place: {beta: estimate(beta / 70, 0.0, 1.0) for beta in (2.0, 8.0, 50.0)} for place in PLACES}
    figure = where_the_rule_holds(cells, mixed)
    check_readable(figure)
    colours = {"holds": "#009e73", "equal": "#e8e8e8", "merged": "#56b4e9", "reversed": "#d55e00"}
    for axis, (place, n) in zip(figure.axes, [(p, n) for p in PLACES for n in (2, 4, 12, 30)], strict=False):
        drawn = {}
        for area in axis.collections:
            if area.get_paths():
                box = area.get_paths()[0].get_extents()
                at = (correlations[round((box.y0 + box.y1) / 2)], betas[round((box.x0 + box.x1) / 2)])
                drawn[at] = to_hex(area.get_facecolor()[0])
        assert drawn == {(c, beta): colours[verdict] for p, m, c, beta, verdict in cells if (p, m) == (place, n)}
    for axis in figure.axes[8:]:
        np.testing.assert_allclose(axis.containers[0].lines[0].get_xydata()[:, 1], [2 / 70, 8 / 70, 50 / 70])
        np.testing.assert_allclose(whiskers(axis.containers[0]), [[0.0, 1.0]] * 3)


def test_policies():
    names = ["greedy for the mean, next task known", *(f"policy_{i}" for i in range(11))]
    settings = {
        f"setting {s} (n=12, c=0.35, d=50)\nrotation eps=0.05, 2 of 13": {
            name: {kind: estimate(0.1 * (i + 1) + k) for k, kind in enumerate(("mean over all", "the tail"))}
            for i, name in enumerate(names if s == 0 else reversed(names))
        }
        for s in range(3)
    }
    figure = protected_by_policy(settings)
    check_readable(figure)
    labels = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    assert labels == names
    for s, axis in enumerate(figure.axes):
        x, y = axis.containers[1].lines[0].get_xydata().T
        at = {names[round(height)]: value for value, height in zip(x, y, strict=True)}
        for i, name in enumerate(names if s == 0 else reversed(names)):
            assert at[name] == pytest.approx(0.1 * (i + 1) + 1)
