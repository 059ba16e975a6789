from itertools import pairwise

import numpy as np
import pytest
import torch

from hopfield_replay.theory import Rotation, Setting, cluster_and_outlier, measure_replay_gain, reproduce_replay_gain
from tests.theory import reference


@pytest.fixture(scope="module")
def result():
    return reproduce_replay_gain(draws=2000, seed=3)


def family(result, eps, name):
    (row,) = (f for f in result.families if f.name == name and f.change == f"rotation eps={eps}")
    return row


@pytest.mark.heavy
def test_net_gains_meet_the_reference(result):
    # the reference means are of 2000 rotations, too: the difference has sqrt(2) times the error of one
    names = ("outlier itself", "cluster itself", "within cluster", "outlier -> cluster", "cluster -> outlier")
    for eps, means in (
        (0.05, (0.015837, 0.013154, 0.00024719, 1.4588e-5, 1.1882e-5)),
        (0.02, (0.0024321, 0.0020374, 3.6560e-5, 2.1557e-6, 1.7239e-6)),
    ):
        for name, mean in zip(names, means, strict=True):
            net = family(result, eps, name).net
            assert abs(net.mean - mean) < 3 * np.sqrt(2) * net.error


@pytest.mark.heavy
def test_identity_and_first_order(result):
    assert result.largest_error < 1e-12
    for f in result.families:
        if f.change == "rotation eps=0.02":
            assert f.first_order.mean == pytest.approx(f.net.mean, rel=0.03)


@pytest.mark.heavy
def test_order_and_totals(result):
    steps = [s for s in result.steps if s.change == "rotation eps=0.05"]
    assert [s.higher for s in steps] == ["outlier itself", "cluster itself", "within cluster", "outlier -> cluster"]
    assert all(s.difference.direction == 1 for s in steps)
    assert 0.4 < dict(result.order_shares)["rotation eps=0.05"] < 0.75  # on average, far from always
    cluster, outlier = (t for t in result.totals if t.change == "rotation eps=0.05")
    assert (cluster.source, outlier.source) == ("cluster", "outlier")
    assert outlier.raw_over_first.direction == -1  # over all targets the cluster gives more
    assert abs(outlier.net_over_first.mean) < 0.05 * outlier.net.mean  # and the net is a near tie


@pytest.mark.parametrize(("n", "c", "d", "beta", "mass"), [(3, 0.5, 7, 6.0, 2.5), (2, 0.1, 5, 9.0, 0.3)])
def test_against_concatenated_sets_in_a_loop(n, c, d, beta, mass):
    change = Rotation(0.3)
    found = measure_replay_gain(cluster_and_outlier(n, c, d), beta, [change], mass=mass, draws=4, seed=5, checked=1)
    stored = reference.patterns(n, c, d)
    points = np.stack([reference.fixed_point(x, stored, beta) for x in stored])
    raw, net, first = (np.zeros((4, n + 1, n + 1)) for _ in range(3))
    for i, v in enumerate(change.matrices(d, 4, torch.Generator().manual_seed(5)).numpy()):
        new = stored @ v.T
        for k, x in enumerate(points):
            for r, source in enumerate(stored):
                weights = np.append(np.ones(n + 1), mass)
                gain = [
                    reference.energy(x, base, beta) - reference.energy(x, np.vstack([base, source]), beta, weights)
                    for base in (new, stored)
                ]
                raw[i, k, r], net[i, k, r] = gain[0], gain[0] - gain[1]
                q = mass * reference.softmax(beta * stored @ x)[r]
                rise = reference.energy(x, new, beta) - reference.energy(x, stored, beta)
                first[i, k, r] = q / (1 + q) * rise
    kinds = {
        "outlier itself": [(n, n)],
        "cluster itself": [(k, k) for k in range(n)],
        "within cluster": [(k, r) for k in range(n) for r in range(n) if k != r],
        "outlier -> cluster": [(k, n) for k in range(n)],
        "cluster -> outlier": [(n, r) for r in range(n)],
    }
    assert {f.name for f in found.families} == set(kinds)
    for f in found.families:
        k, r = zip(*kinds[f.name], strict=True)
        for estimate, values in ((f.raw, raw), (f.net, net), (f.first_order, first)):
            draws = values[:, k, r].mean(1)
            assert estimate.mean == pytest.approx(draws.mean(), abs=1e-10)
            assert estimate.error == pytest.approx(draws.std(ddof=1) / 2, abs=1e-10)
    outlier = found.totals[1]
    assert outlier.raw.mean == pytest.approx(raw[:, :, n].sum(1).mean(), abs=1e-10)
    surplus = net[:, :, n].sum(1) - net[:, :, :n].sum(1).mean(1)
    assert outlier.net_over_first.mean == pytest.approx(surplus.mean(), abs=1e-10)
    order = sorted(kinds, key=lambda name: -net[:, *zip(*kinds[name], strict=True)].mean())
    assert [found.steps[0].higher, *(s.lower for s in found.steps)] == order
    by_draw = [net[:, *zip(*kinds[name], strict=True)].mean(1) for name in order]
    obeyed = np.all([a > b for a, b in pairwise(by_draw)], axis=0)
    assert found.order_shares[0][1] == pytest.approx(obeyed.mean())


@pytest.mark.heavy
def test_result_is_plain_and_drawn(result):
    assert result.to_dict()["families"][0]["net"]["count"] == 2000
    assert "Largest error of the identity" in result.table()
    assert "single rotations obey the whole order" in result.verdict()
    assert len(result.findings()) == 9
    itself = family(result, 0.05, "outlier itself")
    share = f"{1 - itself.net.mean / itself.raw.mean:.0%} is what a duplicate gives without any rotation"
    assert any("eps=0.05: of the raw gain of outlier itself" in one and share in one for one in result.findings())
    figure = pytest.importorskip("matplotlib.figure").Figure
    assert isinstance(result.figure(), figure)


def test_refuses():
    one = Setting("one", torch.eye(3), torch.zeros(3, dtype=torch.long), ("patterns",))
    with pytest.raises(ValueError, match="regroup it with by_energy"):
        measure_replay_gain(one, 1.0, [Rotation(0.1)])
    with pytest.raises(ValueError, match="need draws >= 2"):
        measure_replay_gain(cluster_and_outlier(), 1.0, [Rotation(0.1)], draws=1)
    with pytest.raises(ValueError, match="and 0 changes"):
        reproduce_replay_gain(eps=())
