import numpy as np
import pytest
import scipy.stats
import torch

from hopfield_replay.theory import Estimate


@pytest.mark.parametrize(("count", "level"), [(6, 0.95), (20, 0.9), (20, 0.95), (24, 0.99), (2000, 0.95)])
def test_interval_is_students(count, level):
    draws = np.random.default_rng(0).normal(3.0, 2.0, count)
    estimate = Estimate.of(torch.from_numpy(draws))
    low, high = scipy.stats.t.interval(level, count - 1, draws.mean(), scipy.stats.sem(draws))
    assert estimate.mean == pytest.approx(draws.mean(), rel=1e-12)
    assert estimate.error == pytest.approx(scipy.stats.sem(draws), rel=1e-12)
    found = estimate.interval(level)
    assert sum(found) / 2 == pytest.approx((low + high) / 2)
    assert found[1] - found[0] == pytest.approx(high - low, rel=2e-3)


def test_direction():
    assert [Estimate(m, 1.0, 50).direction for m in (-5.0, 1.0, 5.0)] == [-1, 0, 1]
    assert Estimate(1e-15, 1e-17, 50).direction == 0  # the same sign in every draw, but nothing but rounding


def test_one_draw_has_no_error():
    assert Estimate.of(torch.tensor([2.0])) == Estimate(2.0, 0.0, 1)


@pytest.mark.parametrize("draws", [torch.zeros(0), torch.zeros(2, 2)])
def test_refuses_what_is_no_sample(draws):
    with pytest.raises(ValueError, match="draws must be a vector"):
        Estimate.of(draws)
