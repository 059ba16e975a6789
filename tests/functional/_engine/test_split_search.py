"""Sparse affinities out of split products, emulated with a tensor core's rounding, against their definition."""

import math
import warnings

import numpy as np
import pytest
import torch

from hopfield_replay.functional import (
    SparseAffinity,
    StreamedAffinity,
    _split_search,
    affinity,
    far_task_energy,
    greedy_replay_gain,
    sparse_affinity,
)
from hopfield_replay.functional._engine import split
from hopfield_replay.functional.rows import Rows
from tests.functional._engine.emulated import emulated, tensor_core  # noqa: F401
from tests.functional.test_sparse_affinity import clusters, dense, literal


@pytest.fixture
def searched(emulated, monkeypatch):  # noqa: F811
    """Every search is by parts, a few targets at a time; the list of those that were made."""
    made = []
    monkeypatch.setattr(sparse_affinity, "_EXACT", 0)
    monkeypatch.setattr(_split_search, "_TILE", 4096)
    every = _split_search.SplitSearch.__init__

    def noted(self, *arguments):
        made.append(self)
        every(self, *arguments)

    monkeypatch.setattr(_split_search.SplitSearch, "__init__", noted)
    return made


def check(sparse, expected, keep, atol, loose=2e-2):
    """The largest are kept, and what is not is bounded, tightly."""
    found, candidate = dense(sparse)
    inside = np.zeros(found.shape, dtype=bool)
    inside[sparse.targets.numpy(), candidate.numpy()] = True
    assert (inside.sum(1) == min(keep, expected.shape[1])).all()
    finite = inside & (expected > -np.inf)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=0, atol=atol)
    assert (found[inside & ~finite] == -np.inf).all()
    bound = np.full(found.shape, np.inf)
    bound[sparse.targets.numpy(), candidate.numpy()] = sparse.logs.double() + sparse.dropped.excess.double()
    assert (bound >= expected - 1e-12).all()
    rest = np.where(inside, -np.inf, expected)
    least = np.where(inside, expected, np.inf).min(1)
    assert (rest.max(1) <= least + atol).all()
    largest, total = sparse.dropped.largest.numpy(), sparse.dropped.total.numpy()
    with np.errstate(divide="ignore"):
        whole = np.logaddexp.reduce(rest, axis=1)
    assert (largest >= rest.max(1)).all()
    assert (total >= whole).all()
    some = whole > -np.inf
    np.testing.assert_allclose(largest[some], rest.max(1)[some], atol=loose)
    np.testing.assert_allclose(total[some], whole[some], atol=loose)
    assert (total[~some] == -np.inf).all()


@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize(
    ("n", "count", "d", "keep"), [(1, 1, 1, 1), (23, 130, 5, 1), (9, 300, 70, 40), (5, 2100, 3, 7)]
)
def test_the_largest_of_each_target_are_kept(n, count, d, keep, similarity, searched):
    x, y = clusters(n, d), clusters(count, d, seed=1)
    y[count // 2 :] = y[: count - count // 2]  # copies
    masses = torch.rand(count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    masses[1::9] = 0.0
    energies = torch.randn(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = literal(x, y, energies, 1.7, masses, similarity)
    for targets, candidates in ((x, y), (Rows(x[: n // 2], x[n // 2 :]), Rows(y[:1], y[1:]))):
        rows = StreamedAffinity(targets, candidates, energies, 1.7, masses=masses, similarity=similarity)
        check(SparseAffinity(rows, keep, bounds=True), expected, keep, 3e-5)
        without = SparseAffinity(rows, keep)
        assert without.dropped is None
        torch.testing.assert_close(without.logs, SparseAffinity(rows, keep, bounds=True).logs)
    assert len(searched) == 6


@pytest.mark.parametrize("keep", [1, 4, 12, 130])
def test_few_have_mass(keep, searched):
    """Candidates without mass are kept where there are not enough others, each once."""
    x, y = clusters(6, 4), clusters(130, 4, seed=1)
    masses = torch.zeros(130, dtype=torch.float64)
    masses[[3, 11, 129]] = 1.0
    rows = StreamedAffinity(x, y, 0.0, 1.0, masses=masses)
    check(SparseAffinity(rows, keep, bounds=True), literal(x, y, 0.0, 1.0, masses, "distance"), keep, 3e-5)
    rows = StreamedAffinity(y, y, 0.0, 1.0, masses=masses)
    sparse = SparseAffinity(rows, keep, own=torch.arange(130), bounds=True)
    check(sparse, literal(y, y, 0.0, 1.0, masses, "distance"), keep, 3e-5)
    rows = StreamedAffinity(x, y, 0.0, 1.0, masses=0.0)
    check(SparseAffinity(rows, keep, bounds=True), np.full((6, 130), -np.inf), keep, 0.0)


@pytest.mark.parametrize("d", [6, 520])
def test_a_target_that_is_a_candidate(d, searched):
    """Its affinity to itself is exact, whatever the others' rounding; offset data, large beta."""
    x = clusters(150, d, seed=4) + 20.0
    own = torch.where(torch.arange(150) % 4 == 3, -1, torch.arange(150))
    masses = torch.full((150,), 0.3, dtype=torch.float64)
    masses[10:14] = 0.0
    beta = 50.0
    rows = StreamedAffinity(x, x, far_task_energy(x), beta, masses=masses)
    sparse = SparseAffinity(rows, 9, own=own, bounds=True)
    expected = literal(x, x, far_task_energy(x), beta, masses, "distance")
    check(sparse, expected, 9, beta * 2e-4, loose=0.2)
    found, _ = dense(sparse)
    itself = (own >= 0).numpy() & (masses > 0).numpy()
    np.testing.assert_allclose(np.diag(found)[itself], np.diag(expected)[itself], rtol=1e-6)


def test_choices_are_those_of_the_matrix(searched):
    x = clusters(120, 12, seed=4)
    arguments, options = (x, x, far_task_energy(x), 2.0), {"masses": 0.05}
    sparse = SparseAffinity(StreamedAffinity(*arguments, **options), 120, own=torch.arange(120), bounds=True)
    one = greedy_replay_gain(sparse, 20, beta=2.0)
    other = greedy_replay_gain(affinity(*arguments, **options), 20, beta=2.0)
    assert one.indices.tolist() == other.indices.tolist()
    assert math.isclose(one.value, other.value, rel_tol=1e-9)
    assert other.value <= one.upper_bound <= other.upper_bound * 1.001


def test_a_kernel_that_does_not_run_is_done_without(monkeypatch):
    def broken(*_, **__):
        raise split.KernelError("no such machine")

    monkeypatch.setattr(sparse_affinity, "_EXACT", 0)
    monkeypatch.setattr(split, "_broken", set())
    monkeypatch.setattr(split, "available", lambda device: device not in split._broken)
    monkeypatch.setattr(split, "split", broken)
    x = clusters(70, 9)
    rows = StreamedAffinity(x, x, 1.0, 2.0, masses=0.1)
    with pytest.warns(UserWarning, match=r"do not run on cpu \(no such machine\)"):
        found = SparseAffinity(rows, 8, error=0.0)
    assert torch.equal(found.logs, SparseAffinity(rows, 8, error=0.0).logs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize(("n", "count", "d", "keep"), [(1, 1, 1, 1), (150, 2100, 64, 20), (130, 1000, 800, 7)])
def test_on_a_gpu(n, count, d, keep, similarity, monkeypatch):
    monkeypatch.setattr(sparse_affinity, "_EXACT", 0)
    x, y = clusters(n, d), clusters(count, d, seed=1)
    y[count // 2 :] = y[: count - count // 2]
    masses = torch.rand(count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    masses[1::9] = 0.0
    rows = StreamedAffinity(x, y, 0.5, 1.7, masses=masses, similarity=similarity)
    exact = rows.log_rows(torch.arange(count)).T.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kernel that does not run says so
        check(SparseAffinity(rows, keep, bounds=True, device=torch.device("cuda", 0)), exact, keep, 1e-4)
