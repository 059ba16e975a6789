import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch

from hopfield_replay.functional import energy, fixed_points, responsibilities
from hopfield_replay.theory import (
    Replacement,
    Rotation,
    Setting,
    cluster_and_outlier,
    measure_rise,
    mixed_density,
    reproduce_rise,
)
from tests.theory import reference


@pytest.fixture(scope="module")
def result():
    return reproduce_rise(draws=2000, seed=7)


def find(rows, **wanted):
    (row,) = (r for r in rows if all(getattr(r, k) == v for k, v in wanted.items()))
    return row


@pytest.mark.heavy
def test_deterministic_values_of_the_tractable_setting(result):
    patterns = cluster_and_outlier().patterns
    settled = fixed_points(patterns, patterns, 8.0, similarity="dot", tol=1e-13)
    p = responsibilities(settled, patterns, 8.0, similarity="dot")
    for group, place, value in (
        ("cluster", "pattern", -0.507403564),
        ("outlier", "pattern", -0.500502184),
        ("cluster", "fixed point", -0.509232209),
        ("outlier", "fixed point", -0.500514009),
    ):
        row = find(result.rises, group=group, place=place, change="rotation eps=0.02")
        assert row.energy == pytest.approx(value, abs=1e-8)
    assert settled[[0, 12]].norm(dim=1).tolist() == pytest.approx([0.939859861, 0.995801176], abs=1e-8)
    assert [p[0, 0].item(), p[12, 12].item()] == pytest.approx([0.905678887, 0.995797592], abs=1e-8)
    assert [p[0, 1].item(), p[0, 12].item(), p[12, 0].item()] == pytest.approx(
        [0.008529297, 0.000498846, 0.000350201], abs=1e-8
    )
    for x, largest in ((0, 0.484205590), (12, 0.047008668)):
        centred = patterns - settled[x]
        covariance = (centred.T * p[x]) @ centred
        assert 8 * torch.linalg.eigvalsh(covariance)[-1].item() == pytest.approx(largest, abs=1e-8)
    for group, a in (("outlier", 24.277992), ("cluster", 21.346731)):
        row = find(result.rises, group=group, place="fixed point", change="rotation eps=0.02")
        assert row.expected == pytest.approx(0.02**2 * 0.5 * a, abs=1e-8)


@pytest.mark.heavy
def test_mean_rises_meet_the_high_precision_reference(result):
    for eps, outlier, cluster in ((0.02, 0.00484704, 0.0042583), (0.05, 0.0300114, 0.026244)):
        for group, mean, error in (("outlier", outlier, 2.2e-5), ("cluster", cluster, 9.6e-6)):
            row = find(result.rises, change=f"rotation eps={eps}", place="fixed point", group=group)
            assert abs(row.rise.mean - mean) < 3 * row.rise.error
            assert row.rise.error == pytest.approx(error * (eps / 0.02) ** 2, rel=0.1)


@pytest.mark.heavy
def test_expectation_is_met_at_small_angles(result):
    for row in result.rises:
        if row.change == "rotation eps=0.02":
            assert abs(row.rise.mean - row.expected) < 3 * row.rise.error + 0.01 * row.expected
        if not row.change.startswith("rotation"):
            assert row.expected is None


@pytest.mark.heavy
def test_order_holds_on_average_but_not_in_every_draw(result):
    for eps in (0.02, 0.05):
        order = find(result.orders, change=f"rotation eps={eps}", place="fixed point")
        assert (order.high, order.low) == ("outlier", "cluster")
        assert order.difference.direction == 1
        assert 0.66 < order.share < 0.74
    assert "holds on average" in result.verdict()


@pytest.mark.parametrize(("n", "c", "d", "beta", "eps"), [(4, 0.6, 20, 11.0, 0.1), (2, 0.2, 6, 5.0, 0.4)])
@pytest.mark.parametrize("similarity", ["dot", "distance"])
def test_against_a_loop_over_rotations(n, c, d, beta, eps, similarity):
    change = Rotation(eps, 0.8)
    found = measure_rise(cluster_and_outlier(n, c, d), beta, [change], draws=6, seed=3, similarity=similarity)
    stored = reference.patterns(n, c, d)  # unit norm: the two forms differ by a constant
    rotations = change.matrices(d, 6, torch.Generator().manual_seed(3)).numpy()
    for place in ("pattern", "fixed point"):
        points = stored if place == "pattern" else np.stack([reference.fixed_point(x, stored, beta) for x in stored])
        before = np.array([reference.energy(x, stored, beta) for x in points])
        after = np.array([[reference.energy(x, stored @ v.T, beta) for x in points] for v in rotations])
        rise = after - before
        for group, mean in (("cluster", rise[:, :n].mean(1)), ("outlier", rise[:, n])):
            row = find(found.rises, place=place, group=group)
            assert row.rise.mean == pytest.approx(mean.mean(), abs=1e-9)
            assert row.rise.error == pytest.approx(mean.std(ddof=1) / np.sqrt(6), abs=1e-9)
        row = find(found.rises, place=place, group="outlier")
        assert row.expected == pytest.approx(eps**2 * 0.8 * reference.expected(points[n], stored, beta), rel=1e-7)
        order = find(found.orders, place=place)
        difference = rise[:, n] - rise[:, :n].mean(1)
        assert order.difference.mean == pytest.approx(difference.mean(), abs=1e-9)
        assert order.share == pytest.approx((difference > 0).mean())


def test_distance_form_expects_right_with_unequal_norms():
    # checked by second differences of the energy along each generator of the rotations, instead of the formula
    stored = np.random.default_rng(0).normal(size=(5, 4))
    x, beta, step = 0.9 * stored[1] + 0.1, 2.0, 1e-4

    def energy_of(point):
        return -np.log(sum(np.exp(-beta * np.sum((point - xi) ** 2) / 2) for xi in stored)) / beta

    curvature = 0.0
    for i in range(4):
        for j in range(i):
            turn = np.zeros((4, 4))
            turn[i, j], turn[j, i] = step, -step
            ends = [energy_of(scipy.linalg.expm(sign * turn) @ x) for sign in (1, -1)]
            curvature += (ends[0] + ends[1] - 2 * energy_of(x)) / step**2
    point, patterns = torch.from_numpy(x)[None], torch.from_numpy(stored)
    found = Rotation(0.3, 0.7).expected_rise(point, patterns, beta, "distance")
    assert found.item() == pytest.approx(0.3**2 * 0.7 * curvature / 2, rel=1e-6)


def test_replacement_rises_by_what_is_lost():
    # everything replaced: the rise is the mean energy under random directions, group by group
    setting = cluster_and_outlier(3, 0.4, 12)
    found = measure_rise(setting, 5.0, [Replacement(1.0)], draws=3, seed=1)
    generator = torch.Generator().manual_seed(1)
    x = setting.patterns
    lost = [energy(x, Replacement(1.0).apply(x, generator).patterns, 5.0, similarity="dot") for _ in range(3)]
    rise = torch.stack(lost) - energy(x, x, 5.0, similarity="dot")
    assert find(found.rises, place="pattern", group="outlier").rise.mean == pytest.approx(rise[:, 3].mean().item())


def test_patterns_from_a_file(tmp_path):
    np.save(tmp_path / "mine.npy", 3 * mixed_density().patterns.numpy())
    found = reproduce_rise(beta=20.0, draws=10, patterns=str(tmp_path / "mine.npy"))
    assert found.setting == "mine.npy"
    assert {o.high for o in found.orders} == {"high energy"}


@pytest.mark.heavy
def test_result_is_plain_and_drawn(result):
    data = result.to_dict()
    assert data["rises"][0]["rise"]["count"] == 2000
    assert result.table().count("| rotation eps=0.05") == 6
    assert len(result.findings()) == len(result.orders)
    figure = pytest.importorskip("matplotlib.figure").Figure
    assert isinstance(result.figure(), figure)


def test_refuses():
    one = Setting("one", torch.eye(3), torch.zeros(3, dtype=torch.long), ("patterns",))
    with pytest.raises(ValueError, match="regroup it with by_energy"):
        measure_rise(one, 1.0, [Rotation(0.1)])
    with pytest.raises(ValueError, match="draws must be >= 2, got 1"):
        measure_rise(cluster_and_outlier(), 1.0, [Rotation(0.1)], draws=1)


def test_merged_fixed_points_are_no_reversal():
    found = measure_rise(cluster_and_outlier(), 1.0, [Rotation(0.05)], draws=50)
    assert [o.merged for o in found.orders] == [False, True]  # the patterns differ, their fixed points do not
    assert found.orders[0].difference.direction == -1  # at the patterns a small beta does reverse
    assert found.orders[1].difference.direction == 0
    orthogonal = measure_rise(cluster_and_outlier(3, 0.0, 8), 4.0, [Rotation(0.05)], draws=5)
    assert all(o.merged for o in orthogonal.orders)  # equal energies
    assert "all merged" in orthogonal.verdict()
    assert "merged in 1;" in found.verdict()
    assert "have merged or have equal energies" in found.findings()[1]


@pytest.mark.heavy
def test_names_load_lazily():
    code = (
        "import sys, hopfield_replay.theory as t; assert 'torch' not in sys.modules; t.reproduce_rise(draws=2); "
        "assert 'reproduce_all' in dir(t); assert 'matplotlib' not in sys.modules; assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
