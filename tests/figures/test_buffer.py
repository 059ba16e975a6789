import numpy as np
import pytest

pytest.importorskip("matplotlib")

from hopfield_replay.figures import buffer_turnover, protected_energy_curve
from tests.figures.readable import check_readable


@pytest.mark.parametrize("narrow", [False, True])
def test_bars_of_what_stayed_came_and_went(narrow):
    counts = {0: (3, 0, 7), 1: (5, 0, 2), 4: (0, 9, 0)}
    figure = buffer_turnover(counts, narrow=narrow)
    check_readable(figure, narrow=narrow)
    (axis,) = figure.axes
    stayed, new, dropped = ([(bar.get_y(), bar.get_height()) for bar in bars] for bars in axis.containers)
    assert stayed == [(0, 3), (0, 5), (0, 0)]
    assert new == [(3, 0), (5, 0), (0, 9)]
    assert dropped == [(0, -7), (0, -2), (0, 0)]
    assert axis.get_legend_handles_labels()[1] == ["stayed (8)", "new (9)", "dropped (9)"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "4"]


@pytest.mark.heavy
def test_many_tasks_keep_their_labels_apart():
    check_readable(buffer_turnover(dict.fromkeys(range(100), (5, 1, 1)), narrow=True), narrow=True)


@pytest.mark.heavy
@pytest.mark.parametrize(("narrow", "last"), [(False, 40), (True, 1), (True, 500), (True, 20000)])
def test_curves_of_protection(narrow, last):
    sizes = sorted({1, (last + 1) // 2, last})
    kept, best = [float(i + 1) for i in range(len(sizes))], [i + 1.5 for i in range(len(sizes))]
    figure = protected_energy_curve(sizes, kept, best, 7.0, narrow=narrow)
    check_readable(figure, narrow=narrow)
    one, two, bound = figure.axes[0].lines
    np.testing.assert_allclose(one.get_xydata(), np.stack([sizes, kept], 1))
    np.testing.assert_allclose(two.get_xydata(), np.stack([sizes, best], 1))
    np.testing.assert_allclose(bound.get_xydata(), [[last, 7.0]])
    assert figure.axes[0].get_xticks()[-1] == last


def test_of_a_large_buffer_only_its_own_curve():
    assert len(protected_energy_curve([1, 9], [1.0, 2.0]).axes[0].lines) == 1
