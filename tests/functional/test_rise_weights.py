"""Predicted rises and the weights by them: against numpy, against a derivative, against the best draws."""

import math

import numpy as np
import pytest
import torch

from hopfield_replay.functional import predicted_rises, rise_weights

INF = math.inf


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("own", "after", "expected"),
    [
        ([1.0, 2.0, 3.0], [4.0, 1.0, 3.0], [3.0, 0.0, 0.0]),  # what falls does not count
        ([1.0, 2.0, 0.0], [4.0, INF, 1.0], [3.0, 3.0, 1.0]),  # beyond reach: as the largest
        ([1.0, INF, 0.0], [4.0, 9.0, 1.0], [3.0, 2.0, 1.0]),  # alone in its task: as the mean
        ([1.0, INF, 0.0], [4.0, INF, 1.0], [3.0, 2.0, 1.0]),
        ([1.0, 2.0], [INF, INF], [1.0, 1.0]),  # all alike
        ([1.0, 2.0], [0.0, INF], [0.0, 1.0]),
        ([INF], [3.0], [0.0]),
        ([INF, INF], [INF, INF], [0.0, 0.0]),
        ([-5.0], [-2.0], [3.0]),  # dot form
        ([], [], []),
    ],
)
def test_rises_are_finite_and_not_negative(own, after, expected):
    found = predicted_rises(tensor(*own), tensor(*after))
    assert found.dtype == torch.float64
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("own", "after", "message"),
    [
        (tensor(1.0), tensor(1.0, 2.0), r"one energy for each sample, got \(1,\) and \(2,\)"),
        (torch.zeros(2, 2), torch.zeros(2, 2), r"must be \(n,\)"),
        (tensor(0.0, math.nan), tensor(1.0, 2.0), r"own holds NaN or minus infinity for samples \[1\]"),
        (tensor(0.0, 0.0), tensor(1.0, -INF), r"after holds NaN or minus infinity for samples \[1\]"),
    ],
)
def test_energies_that_are_none(own, after, message):
    with pytest.raises(ValueError, match=message):
        predicted_rises(own, after)


@pytest.mark.parametrize("temper", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("floor", [0.0, 1.0, 3.0])
def test_a_floor_and_the_rise_in_parts_of_its_group_s_mean(temper, floor):
    rng = np.random.default_rng(0)
    rises, masses, groups = rng.exponential(size=30), rng.integers(1, 9, 30).astype(float), rng.integers(0, 3, 30) * 7
    expected = np.empty(30)
    for group in (0, 7, 14):
        mine = groups == group
        powers = rises[mine] ** temper
        expected[mine] = (floor + powers / np.average(powers, weights=masses[mine])) / (floor + 1)
    found = rise_weights(
        torch.from_numpy(rises),
        masses=torch.from_numpy(masses),
        groups=torch.from_numpy(groups),
        temper=temper,
        floor=floor,
    ).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for group in (0, 7, 14):
        mine = groups == group
        assert np.average(found[mine], weights=masses[mine]) == pytest.approx(1.0)


def test_a_group_that_does_not_rise_counts_evenly_and_huge_rises_do_not_overflow():
    found = rise_weights(tensor(0.0, 0.0, 1e300, 0.0), groups=torch.tensor([0, 0, 1, 1]), temper=2.0)
    assert found.tolist() == [1.0, 1.0, 1.5, 0.5]
    assert rise_weights(tensor(0.0, 3.0), masses=tensor(2.0, 0.0)).tolist() == [1.0, 1.0]  # who rises stands for none
    assert rise_weights(tensor()).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rises": tensor(1.0, -2.0)}, ValueError, r"finite and not negative, got \[-2.0\] for samples \[1\]"),
        ({"rises": tensor(1.0, INF)}, ValueError, r"got \[inf\]"),
        ({"rises": tensor(math.nan)}, ValueError, r"got \[nan\]"),
        ({"rises": torch.zeros(2, 1)}, ValueError, r"rises must be \(n,\)"),
        ({"rises": tensor(1.0), "masses": tensor(1.0, 2.0)}, ValueError, r"masses must have shape \(1,\)"),
        ({"rises": tensor(1.0), "masses": tensor(-1.0)}, ValueError, "masses must be finite and not negative"),
        ({"rises": tensor(1.0), "groups": torch.zeros(2)}, ValueError, r"groups must be \(1,\)"),
        ({"rises": tensor(1.0), "temper": -1.0}, ValueError, "temper must be finite and not negative, got -1.0"),
        ({"rises": tensor(1.0), "floor": INF}, ValueError, "floor must be finite and not negative, got inf"),
        ({"rises": tensor(1.0), "temper": "1"}, TypeError, "temper must be a number, got str"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        rise_weights(**arguments)


def test_they_are_the_slope_of_a_risk_of_mean_and_mean_square():
    """What a little protection is worth: by differences of the risk itself."""
    rng = np.random.default_rng(1)
    rises, protection = rng.exponential(size=50) * 3, rng.exponential(size=50)

    def risk(left):
        return np.mean(left) + np.mean(left**2) / (2 * np.mean(rises))

    step = 1e-6
    slope = (risk(rises + step * protection) - risk(rises - step * protection)) / (2 * step)
    weights = rise_weights(torch.from_numpy(rises)).numpy()
    assert slope == pytest.approx(2 * np.mean(weights * protection), rel=1e-8)  # their mean is 1, that of the slope 2


def best_draws(affinities, weights, steps=20000):
    """The concave problem by exponentiated gradients, which know of no fixed point."""
    shares = np.full(affinities.shape[1], 1 / affinities.shape[1])
    for step in range(steps):
        gradient = (weights[:, None] * affinities / (1 + affinities @ shares)[:, None]).sum(0)
        shares = shares * np.exp(0.5 / np.sqrt(1 + step) * gradient / gradient.max())
        shares /= shares.sum()
    return shares


def test_the_best_draws_are_the_weights_that_each_kept_sample_stands_for():
    """Where each old sample is protected by one kept sample, and much: three clusters, which rise differently."""
    rng = np.random.default_rng(2)
    sizes, rise = np.array([30, 10, 20]), np.array([0.1, 6.0, 2.0])
    cluster = np.repeat(np.arange(3), sizes)
    rises = rise[cluster] * rng.uniform(0.5, 1.5, 60)
    affinities = np.where(cluster[:, None] == np.arange(3), 1e5, 1e-9) * rng.uniform(0.5, 1.5, (60, 3))
    weights = rise_weights(torch.from_numpy(rises)).numpy()
    expected = np.array([weights[cluster == c].sum() for c in range(3)]) / weights.sum()
    np.testing.assert_allclose(best_draws(affinities, weights), expected, atol=2e-4)
    assert abs(expected - sizes / 60).max() > 0.1  # and those are not their numbers
