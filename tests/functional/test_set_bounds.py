"""Bounds on what any set protects, against all sets and the formula in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hopfield_replay.functional import StreamedAffinity, affinity, far_task_energy, greedy_replay_gain
from hopfield_replay.functional import set_bounds as module
from hopfield_replay.functional.rows import Rows
from hopfield_replay.functional.set_bounds import AskedBound, tightened, upper_bounds
from hopfield_replay.functional.sparse_affinity import SparseAffinity
from hopfield_replay.utilities import device
from tests.functional.test_sparse_affinity import adversaries, clusters, literal
from tests.reliability.pretended_gpu import GPU, PretendedGpu


def formula(logs, weights, totals, size):
    gains = (weights[:, None] * np.logaddexp(0.0, logs - totals[:, None])).sum(0)
    return weights @ totals + np.sort(gains)[::-1][:size].sum()


@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("parts", [False, True])
def test_they_are_those_of_the_formula(similarity, parts, monkeypatch):
    monkeypatch.setattr(module, "_TILE", 60)
    monkeypatch.setattr(module, "_TARGETS", 7)
    x, y = clusters(23, 5), clusters(40, 5, seed=1)
    g = torch.Generator().manual_seed(2)
    masses, energies, one, other, at = (torch.rand(n, generator=g, dtype=torch.float64) for n in (40, 23, 23, 23, 23))
    masses[3] = 0.0
    given = (Rows(*x.split(9)), Rows(*y.split(11))) if parts else (x, y)
    rows = StreamedAffinity(*given, energies, 1.7, masses=masses, similarity=similarity)
    asked = [AskedBound(one, at, 4), AskedBound(other, 3 * at, 9, factor=0.3), AskedBound(one, 0 * at, 40, factor=5.0)]
    logs = literal(x, y, energies, 1.7, masses, similarity)
    for bound, a in zip(upper_bounds(rows, asked), asked, strict=True):
        expected = formula(logs + math.log(a.factor), a.weights.numpy(), a.totals.numpy(), a.size)
        assert expected * (1 - 1e-12) <= bound <= expected * (1 + 1e-3)


@settings(max_examples=60, deadline=None)
@given(adversaries(), st.sampled_from(["distance", "dot"]), st.floats(0, 1))
def test_no_set_is_worth_more(instance, similarity, along):
    x, masses, beta, size, _, _ = instance
    x, masses = torch.from_numpy(x), torch.from_numpy(masses)
    energies = far_task_energy(x) if similarity == "distance" else 0.1
    rows = StreamedAffinity(x, x, energies, beta, masses=masses, similarity=similarity)
    exact = rows.log_rows(torch.arange(len(x))).T.numpy()
    sets = itertools.combinations(range(len(x)), size)
    worth = [np.logaddexp(0, np.logaddexp.reduce(exact[:, s], axis=1)) for s in sets]
    best = max(worth, key=np.sum)
    one = torch.ones(len(x), dtype=torch.float64)
    some = torch.arange(size)
    logs = torch.from_numpy(np.logaddexp(0, np.logaddexp.reduce(exact[:, :size], axis=1)))
    asked = AskedBound(one, torch.from_numpy(best) * along, size), AskedBound(one, logs, size, held=some)
    for bound in upper_bounds(rows, asked):
        assert bound >= best.sum() * (1 - 1e-9)


def test_a_tightened_point_is_that_of_the_whole_matrix_where_all_is_kept():
    x = clusters(120, 12, seed=4)
    arguments, mass = (x, x, far_task_energy(x), 2.0), 0.05
    rows = StreamedAffinity(*arguments, masses=mass)
    sparse = SparseAffinity(StreamedAffinity(*arguments, masses=1.0), 120, bounds=True) * mass
    one = torch.ones(120, dtype=torch.float64)
    picks = greedy_replay_gain(sparse, 10).indices
    whole = greedy_replay_gain(affinity(*arguments, masses=mass), 10, tighten=15)
    assert picks.tolist() == whole.indices.tolist()
    assert tightened(sparse, one, picks, 0) is None
    asked = AskedBound(one, whole.protected, 10, held=picks), AskedBound(one, tightened(sparse, one, picks, 15), 10)
    bounds = upper_bounds(rows, asked)
    assert whole.value <= bounds[1] < bounds[0]
    assert math.isclose(bounds[0], greedy_replay_gain(affinity(*arguments, masses=mass), 10).upper_bound, rel_tol=1e-4)
    assert math.isclose(bounds[1], whole.upper_bound, rel_tol=1e-4)


def test_multiplied_masses_move_what_is_kept_and_what_is_dropped():
    x = clusters(60, 6)
    arguments = (x, x, far_task_energy(x), 2.0)
    one = SparseAffinity(StreamedAffinity(*arguments, masses=0.3), 7, bounds=True)
    other = SparseAffinity(StreamedAffinity(*arguments, masses=1.0), 7, bounds=True) * 0.3
    assert torch.equal(one.targets, other.targets)
    torch.testing.assert_close(one.logs, other.logs)
    found, expected = (greedy_replay_gain(sparse, 5, beta=2.0) for sparse in (other, one))
    assert found.indices.tolist() == expected.indices.tolist()
    assert math.isclose(found.value, expected.value, rel_tol=1e-9)
    assert math.isclose(found.upper_bound, expected.upper_bound, rel_tol=1e-4)


@pytest.mark.parametrize("float64", [True, False])
def test_another_device_gives_the_same(float64, monkeypatch):
    if not float64:
        monkeypatch.setattr(device, "WITHOUT_FLOAT64", ("cuda",))
    x = clusters(70, 9)
    one = torch.ones(70, dtype=torch.float64)
    asked = [AskedBound(one, 0.5 * one, 6)]
    rows = StreamedAffinity(x, x, far_task_energy(x), 2.0, masses=0.1)
    here = upper_bounds(rows, asked)
    with PretendedGpu(float64):
        there = upper_bounds(rows, asked, device=GPU)
    assert math.isclose(here[0], there[0], rel_tol=1e-4)
