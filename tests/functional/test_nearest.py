"""The nearest of many patterns, a piece at a time, against a literal search in numpy."""

import numpy as np
import pytest
import torch

from hopfield_replay.functional import _nearest, knn_distance, neighbours
from hopfield_replay.functional._engine import scores
from hopfield_replay.functional.rows import Rows


def literal(x, patterns, k, exclude=None):
    found = []
    for i, query in enumerate(x):
        squares = ((patterns - query) ** 2).sum(1)
        if exclude is not None and exclude[i] >= 0:
            squares[exclude[i]] = np.inf
        found.append(np.sort(squares)[k - 1] ** 0.5)
    return np.array(found)


@pytest.mark.parametrize("d", [1, 3, 200])
@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("far", [0.0, 100.0])
def test_the_distance_to_the_kth_neighbour_of_rows(d, k, far):
    patterns = (np.random.default_rng(d).normal(size=(300, d)) + far).astype(np.float32)
    patterns[7] = patterns[250]  # a copy
    rows = Rows(*torch.from_numpy(patterns).split(110))
    asked = np.arange(0, 300, 7)
    exclude = np.where(asked % 2 == 0, asked, -1)
    wide = patterns.astype(np.float64)
    expected = literal(wide[asked], wide, k, exclude)
    found = knn_distance(torch.from_numpy(patterns[asked]), rows, k, exclude=torch.from_numpy(exclude))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=0)
    own = torch.arange(300)
    np.testing.assert_allclose(
        knn_distance(rows, rows, k, exclude=own), literal(wide, wide, k, own.numpy()), rtol=1e-9, atol=0
    )
    np.testing.assert_allclose(
        knn_distance(torch.from_numpy(patterns[asked]), rows, k), literal(wide[asked], wide, k), rtol=1e-9, atol=0
    )


def test_pieces_are_as_small_as_need_be(monkeypatch):
    patterns = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    expected = knn_distance(patterns, patterns, 4, exclude=torch.arange(200))
    monkeypatch.setattr(neighbours, "_HELD", 0)
    monkeypatch.setattr(_nearest, "_BLOCK", 120)
    monkeypatch.setattr(_nearest, "_DIFFERENCES", 300)
    torch.testing.assert_close(knn_distance(patterns, patterns, 4, exclude=torch.arange(200)), expected)


def test_neighbours_that_float32_cannot_tell_apart_are_told_in_float64():
    """Around a query lie more patterns at nearly one distance than are looked for; one of them is nearer."""
    generator = torch.Generator().manual_seed(0)
    away = torch.nn.functional.normalize(torch.randn(4000, 64, generator=generator).double(), dim=1)
    near = 1000.0 + away * (1.0 + 1e-6 * torch.rand(4000, 1, generator=generator).double())
    patterns = torch.cat([near, torch.full((100, 64), -900.0).double()]).float()
    query = torch.full((1, 64), 1000.0)
    search = _nearest.Nearest(query, patterns, 1, None)
    assert not bool(search._look(torch.arange(1), torch.float32)[1])
    expected = literal(query.double().numpy(), patterns.double().numpy(), 1)
    np.testing.assert_allclose(search.distances(), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-24, 1e25])
def test_numbers_whose_squares_float32_does_not_hold(size):
    patterns = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0)) * size
    expected = literal(patterns[:20].double().numpy(), patterns.double().numpy(), 4)
    np.testing.assert_allclose(knn_distance(patterns[:20], Rows(patterns), 4), expected, rtol=1e-6)


def test_rows_of_another_space():
    with pytest.raises(ValueError, match="same dimension"):
        knn_distance(torch.zeros(2, 3), Rows(torch.zeros(5, 4)), 1)
    with pytest.raises(ValueError, match="k = 6"):
        knn_distance(torch.zeros(2, 4), Rows(torch.zeros(5, 4)), 6)


@pytest.mark.parametrize("few", [1, 32])
@pytest.mark.parametrize("kind", ["noise", "levels", "far", "copies", "double", "all alike"])
def test_the_nearest_one_is_that_of_a_literal_search(kind, few, monkeypatch):
    """Also where 8 bits cannot tell the patterns apart, and where more are alike than are compared."""
    monkeypatch.setattr(_nearest, "_FEW", few)
    rng = np.random.default_rng(0)
    queries, patterns = (rng.normal(size=(n, 600)) for n in (400, 60))
    if kind == "levels":
        queries, patterns = (np.round(x * 40 + 128).clip(0, 255) / 127.5 - 1 for x in (queries, patterns))
    if kind == "far":
        queries, patterns = queries * 1e-2 + 50, patterns * 1e-2 + 50
    if kind == "copies":
        patterns[40:] = patterns[:20]
        queries[:30] = patterns[10:40]
    if kind == "all alike":
        patterns[1:] = patterns[0]
    if kind != "double":
        queries, patterns = queries.astype(np.float32), patterns.astype(np.float32)
    squares = ((queries[:, None].astype(np.float64) - patterns[None].astype(np.float64)) ** 2).sum(2)
    found = _nearest.NearestOne(torch.from_numpy(patterns)).of(torch.from_numpy(queries)).numpy()
    worth = np.take_along_axis(squares, found[:, None], 1)[:, 0]
    if few == 32 and kind != "all alike":
        np.testing.assert_array_equal(found, squares.argmin(1))
    np.testing.assert_allclose(worth, squares.min(1), rtol=1e-5)


def test_products_of_8_bits_are_off_by_no_more_than_is_allowed_for():
    """Where the processor has no units for them the products are exact, and this holds all the more."""
    generator = torch.Generator().manual_seed(0)
    queries, patterns = (torch.randn(n, 2048, generator=generator) for n in (256, 512))
    search = _nearest.NearestOne(patterns)
    with scores.coarse_float32(torch.device("cpu")):
        coarse = queries @ search._near.T
    off = (coarse.double() - queries.double() @ search._near.double().T).abs()
    allowed = _nearest._COARSE * _nearest._SUM * queries.mul(search._reach).norm(dim=1)
    assert float((off / allowed[:, None]).max()) < 1.0
    rounded = queries.bfloat16().double() @ search._near.bfloat16().double().T  # what such units compute
    off = (rounded - queries.double() @ search._near.double().T).abs()
    assert 0.02 < float((off / allowed[:, None]).max()) < 1.0


def test_coarse_products_are_for_the_block_alone():
    setting = torch.get_float32_matmul_precision()
    a, b = (torch.randn(300, 300, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    before = a @ b
    with pytest.raises(RuntimeError, match="inside"), scores.coarse_float32(torch.device("cpu")):
        raise RuntimeError("inside")
    assert torch.equal(a @ b, before)
    assert torch.get_float32_matmul_precision() == setting


def test_neighbours_are_looked_for_coarsely_first(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(900, 400, generator=generator)
    patterns[600:] = patterns[:300] + 1e-4 * torch.randn(300, 400, generator=generator)
    expected = literal(patterns[::3].double().numpy(), patterns.double().numpy(), 5)
    looks, every = [], _nearest.Nearest._look

    def noted(self, which, dtype, *, coarse=False):
        found, sure = every(self, which, dtype, coarse=coarse)
        looks.append((dtype, coarse, len(which), int(sure.sum())))
        return found, sure

    monkeypatch.setattr(_nearest.Nearest, "_look", noted)
    monkeypatch.setattr(_nearest, "_MANY", 0)
    monkeypatch.setattr(neighbours, "_HELD", 0)
    np.testing.assert_allclose(knn_distance(patterns[::3], patterns, 5), expected, rtol=1e-12)
    assert looks[0][:3] == (torch.float32, True, 300)
    assert len(looks) == 1 or looks[1][:3] == (torch.float32, False, 300 - looks[0][3])
