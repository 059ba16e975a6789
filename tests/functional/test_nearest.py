"""The nearest of many patterns, a piece at a time, against a literal search in numpy."""

import numpy as np
import pytest
import torch

from hopfield_replay.functional import _nearest, knn_distance, neighbours
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


def test_rows_of_another_space():
    with pytest.raises(ValueError, match="same dimension"):
        knn_distance(torch.zeros(2, 3), Rows(torch.zeros(5, 4)), 1)
    with pytest.raises(ValueError, match="k = 6"):
        knn_distance(torch.zeros(2, 4), Rows(torch.zeros(5, 4)), 6)
