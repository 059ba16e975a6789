import copy

import pytest
import torch

from hopfield_replay.theory import HopfieldBoltzmann, Rotation, cluster_and_outlier, reproduce_boltzmann
from hopfield_replay.theory.boltzmann_replay import run_regime

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def result():
    return reproduce_boltzmann(hidden=(40, 40), beta=(9.0, 12.0), steps=700, more_steps=100, seeds=10)


def test_outlier_rises_more_where_the_cluster_is_one_fixed_point(result):
    regime = result.regimes[0]
    assert (regime.outlier_merged, regime.cluster_merged) == (0.0, 1.0)
    for rise in regime.rises:
        assert rise.difference.direction == 1
        assert rise.share > 0.9


def test_no_difference_where_every_pattern_is_stored(result):
    regime = result.regimes[1]
    assert (regime.outlier_merged, regime.cluster_merged) == (0.0, 0.0)
    for rise in regime.rises:
        assert abs(rise.difference.mean) < 4 * rise.difference.error


def test_replay_protects_what_it_replays(result):
    for regime in result.regimes:
        for gain in regime.gains:
            assert gain.own.direction == 1
            assert gain.own.mean > gain.others.mean
            assert gain.everyone.mean == pytest.approx((gain.own.mean + 12 * gain.others.mean) / 13)
        assert regime.gains[-1].own_over_random.mean == 0


def test_against_machines_trained_one_by_one():
    patterns = cluster_and_outlier(3, 0.4, 6).patterns
    turned = patterns @ Rotation(0.2).matrices(6, 2, torch.Generator().manual_seed(0)).mT
    found = run_regime(5, 6.0, patterns, turned, steps=60, more_steps=20, seed=4)
    start = HopfieldBoltzmann(5, 6, 6.0, batch=(2,), seed=4).weight.detach()
    rises, gains = [], []
    for s in range(2):
        old = HopfieldBoltzmann(5, 6, 6.0)
        with torch.no_grad():
            old.weight.copy_(start[s])
        old.train_on(patterns, steps=60)
        before = old.negative_log_likelihood(patterns).detach() / 6.0
        chosen = before.argmax()
        plain, replayed = copy.deepcopy(old), copy.deepcopy(old)
        plain.train_on(turned[s], steps=20)
        replayed.train_on(torch.cat([turned[s], patterns[chosen][None]]), steps=20)
        rise, with_replay = (m.negative_log_likelihood(patterns).detach() / 6.0 - before for m in (plain, replayed))
        rises.append((rise[3] - rise[:3].mean()).item())
        gains.append((rise - with_replay)[chosen].item())
    assert found.rises[0].difference.mean == pytest.approx(sum(rises) / 2, abs=1e-9)
    assert found.gains[0].replayed == "highest"
    assert found.gains[0].own.mean == pytest.approx(sum(gains) / 2, abs=1e-9)


def test_result_is_plain_and_drawn(result):
    assert result.to_dict()["regimes"][0]["gains"][2]["replayed"] == "random"
    assert "| 40     | 9.0  |" in result.table() or "| 40     | 9    |" in result.table()
    assert (
        "at the patterns in 1 of 2 regimes (40 hidden at beta 9), at fixed points of its own in 1" in result.verdict()
    )
    figure = pytest.importorskip("matplotlib.figure").Figure
    assert isinstance(result.figure(), figure)


def test_refuses():
    with pytest.raises(ValueError, match="pairwise, got 2 and 1"):
        reproduce_boltzmann(hidden=(3, 4), beta=(1.0,))
    with pytest.raises(ValueError, match="seeds must be >= 2"):
        reproduce_boltzmann(seeds=1)
