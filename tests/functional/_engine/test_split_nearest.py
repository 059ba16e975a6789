"""Nearest patterns by strips of split products, emulated with a tensor core's rounding, against numpy in float64."""

import math
import warnings

import numpy as np
import pytest
import torch

from hopfield_replay.functional import PatternTiles, _nearest, knn_distance
from hopfield_replay.functional._engine import split, split_nearest, split_scores
from hopfield_replay.functional._engine.split_nearest import nearest
from hopfield_replay.functional.many import nearest_of
from hopfield_replay.functional.rows import Rows
from tests.functional._engine.emulated import emulated, tensor_core  # noqa: F401


def literal(x, patterns, k, exclude=None):
    """The k smallest distances (n, k), query by query."""
    x, patterns, found = x.double().numpy(), patterns.double().numpy(), []
    for i, query in enumerate(x):
        squares = ((patterns - query) ** 2).sum(1)
        if exclude is not None and exclude[i] >= 0:
            squares[exclude[i]] = np.inf
        found.append(np.sort(squares)[:k] ** 0.5)
    return np.array(found)


def problem(kind, n, count, d):
    """Queries of which half are patterns, patterns, and which pattern a query is."""
    generator = torch.Generator().manual_seed(d)
    patterns = torch.randn(count, d, generator=generator)
    if kind == "copies":
        patterns = patterns[torch.randint(max(1, count // 5), (count,), generator=generator)]
    if kind == "sorted":
        patterns = patterns[patterns[:, 0].argsort()]
    if kind == "far":
        patterns = patterns * 1e-2 + 30.0
    index = torch.arange(n) * 5 % count
    x = patterns[index] + torch.where(torch.arange(n) % 2 == 0, 0.0, 1e-2)[:, None]
    exclude = torch.where(torch.arange(n) % 3 == 0, index, -1)
    return x, patterns, exclude


@pytest.fixture
def looks(emulated, monkeypatch):  # noqa: F811
    """How many queries each way of looking was asked about; all of them are first asked on the emulated GPU."""
    asked = []
    for name in ("_by_parts", "_finely", "_exactly"):
        every = getattr(_nearest.Nearest, name)

        def noted(self, which, name=name, every=every):
            asked.append((name, len(which)))
            return every(self, which)

        monkeypatch.setattr(_nearest.Nearest, name, noted)
    monkeypatch.setattr(_nearest, "_MANY", 0)
    return asked


@pytest.mark.parametrize("kind", ["noise", "copies", "sorted", "far"])
@pytest.mark.parametrize(("n", "count", "d", "k"), [(1, 1, 1, 1), (9, 40, 3, 3), (33, 1500, 17, 10), (8, 900, 530, 2)])
def test_distances_to_the_nearest(kind, n, count, d, k, looks):
    x, patterns, exclude = problem(kind, n, count, d)
    if count == 1:
        exclude = None
    np.testing.assert_allclose(nearest_of(x, patterns, k, exclude=exclude), literal(x, patterns, k, exclude), rtol=1e-9)
    found = knn_distance(x, patterns, k, exclude=exclude)
    np.testing.assert_allclose(found, literal(x, patterns, k, exclude)[:, -1], rtol=1e-9)
    assert looks[0] == ("_by_parts", n)
    if kind == "noise":
        assert len(looks) == 2  # once for each of both, and none is in doubt


def test_in_blocks_tiles_and_parts(looks, monkeypatch):
    x, patterns, exclude = problem("sorted", 50, 700, 9)
    plan = classmethod(lambda cls, x, terms, mean, tiles=None: cls(16, 128))
    monkeypatch.setattr(split_scores.Plan, "of", plan)
    monkeypatch.setattr(split_nearest, "_HELD", 7 * 32 * 16)
    monkeypatch.setattr(_nearest, "_ASKED", 20 * 512)
    rows = Rows(patterns[:300], patterns[300:301], patterns[301:])
    for stored in (patterns, rows):
        found = knn_distance(x, stored, 10, exclude=exclude)
        np.testing.assert_allclose(found, literal(x, patterns, 10, exclude)[:, -1], rtol=1e-9)


def test_what_rounding_could_hide_is_told_in_float64(looks):
    """More patterns than are kept lie at nearly one distance in strips of their own, and one of them is nearer."""
    generator = torch.Generator().manual_seed(0)
    away = torch.nn.functional.normalize(torch.randn(2000, 64, generator=generator).double(), dim=1)
    patterns = (1000.0 + away * (1.0 + 1e-6 * torch.rand(2000, 1, generator=generator).double())).float()
    patterns = torch.cat([patterns, torch.full((50, 64), -900.0)])
    query = torch.full((1, 64), 1000.0)
    _, sure = nearest(query, patterns.mean(0), PatternTiles(patterns), 1, 23, None)
    assert not bool(sure)
    np.testing.assert_allclose(knn_distance(query, patterns, 1), literal(query, patterns, 1)[:, 0], rtol=1e-12)
    assert looks == [("_by_parts", 1), ("_exactly", 1)]


@pytest.mark.parametrize("size", [1e-24, 1e18, 1e25])
def test_numbers_whose_squares_float32_does_not_hold(size, looks):
    x, patterns, exclude = problem("noise", 20, 1000, 5)
    x, patterns = x * size, patterns * size
    expected = literal(x, patterns, 4, exclude)
    np.testing.assert_allclose(knn_distance(x, patterns, 4, exclude=exclude)[:, None], expected[:, -1:], rtol=1e-6)


@pytest.mark.parametrize("terms", [4, 6])
@pytest.mark.parametrize("d", [8, 200, 1024])
def test_no_product_is_off_by_more_than_the_bound(terms, d, emulated):  # noqa: F811
    """Also where all coordinates have one sign, so that what is cut off adds up."""
    relative, absolute = split_scores.largest_error(terms, d)
    for make in (torch.randn, torch.rand):
        x, y = (make(40, d, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        halves = [split.split(points, torch.zeros(d), terms).parts for points in (x, y)]
        found = split.strips(*halves, torch.zeros(40), 1.0, None, terms, 1, scores=True).scores.double()
        off = (found - x.double() @ y.double().T).abs() / (x.double().norm(dim=1)[:, None] * y.double().norm(dim=1))
        assert off.max() < relative
        assert absolute < 1e-30


def test_a_kernel_that_does_not_run_is_done_without(monkeypatch):
    def broken(*_, **__):
        raise split.KernelError("no such machine")

    monkeypatch.setattr(split, "_broken", set())
    monkeypatch.setattr(split, "available", lambda device: device not in split._broken)
    monkeypatch.setattr(split, "split", broken)
    monkeypatch.setattr(_nearest, "_MANY", 0)
    x, patterns, exclude = problem("noise", 20, 300, 5)
    with pytest.warns(UserWarning, match=r"do not run on cpu \(no such machine\)"):
        found = knn_distance(x, patterns, 4, exclude=exclude)
    np.testing.assert_allclose(found, literal(x, patterns, 4, exclude)[:, -1], rtol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["noise", "copies", "sorted", "far"])
@pytest.mark.parametrize(("n", "count", "d", "k"), [(1, 1, 1, 1), (300, 5001, 64, 10), (130, 2000, 1000, 3)])
def test_on_a_gpu(kind, n, count, d, k, monkeypatch):
    monkeypatch.setattr(_nearest, "_MANY", 0)
    x, patterns, exclude = problem(kind, n, count, d)
    exclude = None if count == 1 else exclude
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kernel that does not run says so
        found = knn_distance(x.cuda(), patterns.cuda(), k, exclude=None if exclude is None else exclude.cuda())
    np.testing.assert_allclose(found.cpu(), literal(x, patterns, k, exclude)[:, -1], rtol=1e-9)


def test_fewer_than_are_asked_for(looks):
    found = nearest_of(torch.zeros(1, 2), torch.eye(2), 2, exclude=torch.tensor([0]))
    assert found.tolist() == [[1.0, math.inf]]
