import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hopfield_replay.functional import StreamedAffinity, affinity, far_task_energy, greedy_replay_gain
from hopfield_replay.functional import _affinity_search as search
from hopfield_replay.functional import _projection as projection_module
from hopfield_replay.functional import sparse_affinity as module
from hopfield_replay.functional.rows import Rows
from hopfield_replay.functional.sparse_affinity import SparseAffinity
from hopfield_replay.utilities import device
from tests.reliability.pretended_gpu import GPU, PretendedGpu


def clusters(n, d, spread=0.3, seed=0, kinds=6):
    """Vectors around a few centres, with most of their variance in a few directions."""
    g = torch.Generator().manual_seed(seed)
    scale = 1 / torch.arange(1, d + 1)
    centres = 2 * torch.randn(kinds, d, generator=g) * scale
    return centres[torch.randint(kinds, (n,), generator=g)] + spread * torch.randn(n, d, generator=g) * scale.sqrt()


def literal(x, candidates, energies, beta, masses, similarity):
    """Log affinities (n, C) in float64 from their definition, pair by pair."""
    x, y = x.double().numpy(), candidates.double().numpy()
    energies = np.broadcast_to(np.asarray(energies, dtype=np.float64), len(x))
    masses = np.broadcast_to(np.asarray(masses, dtype=np.float64), len(y))
    found = np.empty((len(x), len(y)))
    for i, j in itertools.product(range(len(x)), range(len(y))):
        score = -((x[i] - y[j]) ** 2).sum() / 2 if similarity == "distance" else x[i] @ y[j] - x[i] @ x[i] / 2
        with np.errstate(divide="ignore"):
            found[i, j] = np.log(masses[j]) + beta * (score + energies[i])
    return found


def dense(sparse, fill=-np.inf):
    """What is kept, as a matrix (n, C)."""
    n, count = sparse.shape
    found = np.full((n, count), fill)
    candidate = torch.arange(count).repeat_interleave(sparse.starts.diff())
    found[sparse.targets.numpy(), candidate.numpy()] = sparse.logs.numpy()
    return found, candidate


@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("keep", [1, 3, 40])
@pytest.mark.parametrize("strips", [1, 8])
def test_the_largest_of_each_target_are_kept(similarity, keep, strips, monkeypatch):
    monkeypatch.setattr(search, "_STRIPS", strips)
    monkeypatch.setattr(search, "_TILE", 300)
    monkeypatch.setattr(module, "_ENTRIES", 50)
    x, y = clusters(23, 5), clusters(100, 5, seed=1)
    masses = torch.rand(100, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    energies = torch.randn(23, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = StreamedAffinity(x, y, energies, 1.7, masses=masses, similarity=similarity)
    sparse = SparseAffinity(rows, keep, bounds=True)
    expected = literal(x, y, energies, 1.7, masses, similarity)
    order = np.argsort(-expected, axis=1)
    found, _ = dense(sparse)
    for row, best, values in zip(found, order, expected, strict=True):
        kept = np.flatnonzero(row > -np.inf)
        assert set(kept) == set(best[:keep])
        np.testing.assert_allclose(row[kept], values[kept], atol=2e-5)
        rest = values[best[keep:]]
        assert np.log(np.exp(rest).sum()) >= -50  # the bound below means something
    assert sparse.targets.dtype == torch.int32
    rest = np.sort(expected, axis=1)[:, :-keep]
    assert (sparse.dropped.largest.numpy() >= rest[:, -1] - 1e-12).all()
    assert (sparse.dropped.total.numpy() >= np.log(np.exp(rest).sum(1)) - 1e-12).all()
    np.testing.assert_allclose(sparse.dropped.total.numpy(), np.log(np.exp(rest).sum(1)), atol=1e-2)
    np.testing.assert_allclose(sparse.log_totals().numpy(), np.log(np.exp(found).sum(1)), atol=1e-5)


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_where_all_are_kept_the_choice_is_that_of_the_matrix(similarity):
    x = clusters(120, 12, seed=4)
    arguments = (x, x, far_task_energy(x), 2.0)
    options = {"masses": 0.05, "similarity": similarity}
    weights = torch.rand(120, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    groups = torch.arange(120) % 3
    sparse = SparseAffinity(StreamedAffinity(*arguments, **options), 120, own=torch.arange(120), bounds=True)
    for more in ({}, {"weights": weights}, {"tail_weight": 0.5}, {"groups": groups}):
        one = greedy_replay_gain(sparse, 20, beta=2.0, **more)
        other = greedy_replay_gain(affinity(*arguments, **options), 20, beta=2.0, **more)
        assert one.indices.tolist() == other.indices.tolist()
        for name in ("value", "mean", "tail"):
            assert math.isclose(getattr(one, name), getattr(other, name), rel_tol=1e-9)
        torch.testing.assert_close(one.gains, other.gains, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.protected, other.protected, rtol=1e-9, atol=1e-12)
        assert other.value <= one.upper_bound
        assert one.upper_bound <= other.upper_bound * 1.001  # rounding, and no more


@st.composite
def adversaries(draw):
    """Vectors that a projection on few directions tells badly apart, duplicates, far outliers, extreme masses."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, d = draw(st.integers(8, 14)), draw(st.integers(4, 12))
    x = rng.normal(size=(n, d)) * rng.choice([1e-2, 1.0, 30.0], size=(1, d))
    kind = draw(st.sampled_from(["plain", "duplicates", "outlier", "shifted", "opposite"]))
    if kind == "duplicates":
        x[n // 2 :] = x[: n - n // 2]
    elif kind == "outlier":
        x[0] *= 100
    elif kind == "shifted":
        x += 300
    elif kind == "opposite":
        x[1::2] = -x[: 2 * (n // 2) : 2]
    masses = np.exp(rng.normal(0, draw(st.sampled_from([0.0, 3.0])), n))
    beta = draw(st.sampled_from([1e-3, 0.1, 2.0])) / x.var()
    return x.astype(np.float32), masses, beta, draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 3))


@settings(max_examples=80, deadline=None)
@given(adversaries(), st.sampled_from(["distance", "dot"]), st.booleans())
def test_no_set_is_worth_more_than_the_bound(instance, similarity, known):
    x, masses, beta, k, keep, width = instance
    x, masses = torch.from_numpy(x), torch.from_numpy(masses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EXACT", 0)
        patch.setattr(projection_module, "_WIDTHS", (width,))
        energies = far_task_energy(x) if similarity == "distance" else 0.1
        rows = StreamedAffinity(x, x, energies, beta, masses=masses, similarity=similarity)
        sparse = SparseAffinity(rows, keep, own=torch.arange(len(x)) if known else None, error=1e9, bounds=True)
    exact = rows.log_rows(torch.arange(len(x))).T.numpy()
    found, candidate = dense(sparse)
    inside = found > -np.inf
    bound = sparse.logs.double() + sparse.dropped.excess.double()
    assert (bound.numpy() >= exact[sparse.targets.numpy(), candidate.numpy()] - 1e-9).all()
    rest = np.where(inside, -np.inf, exact)
    assert (sparse.dropped.largest.numpy() >= rest.max(1) - 1e-9).all()
    with np.errstate(divide="ignore"):
        assert (sparse.dropped.total.numpy() >= np.logaddexp.reduce(rest, axis=1) - 1e-9).all()
    chosen = greedy_replay_gain(sparse, k, beta=beta)
    sets = itertools.combinations(range(len(x)), k)
    worth = {s: np.logaddexp(0, np.logaddexp.reduce(exact[:, s], axis=1)).sum() / beta for s in sets}
    assert chosen.upper_bound >= max(worth.values()) * (1 - 1e-9)
    assert math.isclose(chosen.value, worth[tuple(sorted(chosen.indices.tolist()))], rel_tol=1e-9, abs_tol=1e-12)


def test_a_projection_is_as_wide_as_its_error_needs():
    x = clusters(600, 300, spread=1.0)
    beta, centre = 20.0, x.double().mean(0)
    widths = {}
    for error in (3.0, 0.3, 0.01):
        found = projection_module.fitted(x, centre, beta, error)
        projected, rest, squares = found.apply(x)
        exact = (x - centre.float()) @ (x - centre.float()).T
        assert bool(((projected @ projected.T - exact).abs() <= rest[:, None] * rest + 1e-4).all())
        torch.testing.assert_close(squares, (x.double() - centre).square().sum(1), rtol=1e-5, atol=1e-9)
        widths[error] = projected.shape[1]
        near = (exact - 0.5 * exact.diag()).topk(16, 1).indices
        off = (beta * (projected @ projected.T - exact)).fill_diagonal_(0).gather(1, near)
        assert float(off.square().mean().sqrt()) <= 1.5 * error
    assert widths[3.0] < widths[0.01]
    noise = torch.randn(600, 300, generator=torch.Generator().manual_seed(0))
    assert projection_module.fitted(noise, centre * 0, 1.0, 0.3).directions is None  # no directions are enough
    assert projection_module.fitted(x, centre, beta, 0).directions is None


@pytest.mark.parametrize("keep", [32, 64])
def test_projected_and_shortened_affinities_choose_as_well(keep, monkeypatch):
    """Judged on samples that were never seen: at least 97 % of what the whole matrix gains over random ones."""
    x, unseen = clusters(1500, 200, kinds=60).split([1000, 500])
    k, beta = 60, 4.0
    far, mass = far_task_energy(x), 1 / 60
    monkeypatch.setattr(module, "_EXACT", 0)
    rows = StreamedAffinity(x, x, far, beta, masses=mass)

    def worth(chosen):
        return float(affinity(unseen, x[chosen], far, beta, masses=mass).sum(1).log1p().mean())

    whole = worth(greedy_replay_gain(affinity(x, x, far, beta, masses=mass), k).indices)
    g = torch.Generator().manual_seed(0)
    chance = np.mean([worth(torch.randperm(1000, generator=g)[:k]) for _ in range(20)])
    found = worth(greedy_replay_gain(SparseAffinity(rows, keep, own=torch.arange(1000)), k).indices)
    assert found - chance >= 0.97 * (whole - chance)


def test_rows_in_parts_are_as_good_as_a_tensor():
    x = clusters(90, 7)
    for similarity in ("distance", "dot"):
        options = {"masses": 0.1, "similarity": similarity}
        whole = StreamedAffinity(x, x, 1.5, 2.0, **options)
        parts = StreamedAffinity(Rows(*x.split(20)), Rows(*x.split(31)), 1.5, 2.0, **options)
        index = torch.tensor([3, 80, 41])
        torch.testing.assert_close(parts.log_rows(index), whole.log_rows(index))
        torch.testing.assert_close(parts.log_totals(), whole.log_totals())
        torch.testing.assert_close(parts.log_sums(index), whole.log_rows(index).logsumexp(0))
        torch.testing.assert_close(whole.log_sums(index), whole.log_rows(index).logsumexp(0))
        one, other = SparseAffinity(parts, 9), SparseAffinity(whole, 9)
        assert torch.equal(one.targets, other.targets)
        torch.testing.assert_close(one.logs, other.logs)
    assert math.isclose(far_task_energy(Rows(*x.split(20))), far_task_energy(x), rel_tol=1e-12)


@pytest.mark.parametrize("float64", [True, False])
def test_products_on_another_device_give_the_same(float64, monkeypatch):
    if not float64:
        monkeypatch.setattr(device, "WITHOUT_FLOAT64", ("cuda",))
    x = clusters(70, 9)
    rows = StreamedAffinity(x, x, far_task_energy(x), 2.0, masses=0.1)
    here = SparseAffinity(rows, 8, own=torch.arange(70), bounds=True)
    with PretendedGpu(float64):
        there = SparseAffinity(rows, 8, own=torch.arange(70), bounds=True, device=GPU)
    assert torch.equal(here.targets, there.targets)
    torch.testing.assert_close(here.logs, there.logs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(here.dropped.total, there.dropped.total, rtol=1e-3, atol=1e-3)
    one, other = greedy_replay_gain(here, 10), greedy_replay_gain(there, 10)
    assert one.indices.tolist() == other.indices.tolist()
    assert other.upper_bound >= one.value


def test_without_bounds_there_is_no_certificate():
    x = clusters(50, 4)
    rows = StreamedAffinity(x, x, far_task_energy(x), 2.0, masses=0.1)
    found = greedy_replay_gain(SparseAffinity(rows, 5), 6)
    assert found.upper_bound == math.inf
    assert found.guaranteed_share == 0.0


def test_bad_input_is_named():
    x = clusters(10, 3)
    rows = StreamedAffinity(x, x, 1.0, 2.0, masses=0.1)
    with pytest.raises(ValueError, match="keep must be a whole number >= 1, got 0"):
        SparseAffinity(rows, 0)
    with pytest.raises(ValueError, match="error must be a number of nats >= 0, got -1"):
        SparseAffinity(rows, 2, error=-1.0)
    with pytest.raises(TypeError, match="a StreamedAffinity or a SparseAffinity, got list"):
        greedy_replay_gain([[1.0]], 1)
