import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hopfield_replay.functional import (
    Rows,
    _points,
    facility_location,
    herding,
    k_center,
    knn_distance,
    neighbours,
    ordering,
)


@st.composite
def clouds(draw):
    """Small sets of vectors; on a coarse grid there are duplicates and exact ties."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, d = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    points = rng.normal(size=(n, d))
    if draw(st.booleans()):
        points = np.round(points)
    return points + draw(st.sampled_from([0.0, 64.0])), draw(st.integers(1, n))


def distance(a, b):
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def check_picks(order, score, count, k, slack):
    """Every pick has the largest score given those before it; of scores equal up to the slack any is right."""
    picks = []
    for pick in order.tolist():
        scores = {i: score(picks, i) for i in range(count) if i not in picks}
        assert scores[pick] >= max(scores.values()) - slack
        picks.append(pick)
    assert len(picks) == k


@pytest.mark.heavy
@settings(max_examples=80, deadline=None)
@given(clouds())
def test_k_center_is_the_literal_loop(cloud):
    points, k = cloud
    order = k_center(torch.from_numpy(points), k, start=0)

    def score(picks, i):
        return min((distance(points[i], points[p]) for p in picks), default=-i)  # the first pick is given

    check_picks(order, score, len(points), k, 1e-12)
    order = order.tolist()
    radius = max(min(distance(x, points[p]) for p in order) for x in points)
    best = min(
        max(min(distance(x, points[p]) for p in s) for x in points)
        for s in itertools.combinations(range(len(points)), min(k, 3))
    )
    if k <= 3:
        assert radius <= 2 * best + 1e-9


def test_k_center_starts_near_the_mean_and_breaks_ties_by_index():
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [0.1, 0.0], [0.1, 0.0]])
    assert k_center(square, 6).tolist() == [4, 2, 3, 0, 1, 5]


@pytest.mark.heavy
@settings(max_examples=80, deadline=None)
@given(clouds())
def test_facility_location_is_naive_greedy_on_the_summed_distance(cloud):
    points, k = cloud

    def score(picks, i):
        return -math.fsum(min(distance(x, points[p]) for p in [*picks, i]) for x in points)

    check_picks(facility_location(torch.from_numpy(points), k), score, len(points), k, 1e-5)


def test_facility_location_without_kept_distances_is_the_same(monkeypatch):
    points = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    kept = facility_location(points, 30)
    monkeypatch.setattr(ordering, "_KEPT_ELEMENTS", 0)
    monkeypatch.setattr(ordering, "_CHUNK_ELEMENTS", 300)
    assert facility_location(points, 30).tolist() == kept.tolist()


@settings(max_examples=80, deadline=None)
@given(clouds())
def test_herding_is_the_literal_loop(cloud):
    points, k = cloud
    mean = points.mean(0)

    def score(picks, i):
        t = len(picks) + 1
        return -((t * distance(mean, points[[*picks, i]].sum(0) / t)) ** 2)

    check_picks(herding(torch.from_numpy(points), k), score, len(points), k, 1e-9)


def test_herding_of_unit_vectors_is_wellings():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x /= x.norm(dim=1, keepdim=True)
    w, picks = x.mean(0), []
    for _ in range(15):
        scores = x @ w
        scores[picks] = -torch.inf
        picks.append(int(scores.argmax()))
        w = w + x.mean(0) - x[picks[-1]]
    assert herding(x, 15).tolist() == picks


@settings(max_examples=60, deadline=None)
@given(clouds(), st.integers(1, 100))
def test_neighbour_distance_is_the_sorted_distance(cloud, which):
    points, _ = cloud
    k = 1 + which % (len(points) - 1) if len(points) > 2 else 1
    expected = [sorted(distance(x, y) for j, y in enumerate(points) if j != i)[k - 1] for i, x in enumerate(points)]
    got = knn_distance(torch.from_numpy(points), torch.from_numpy(points), k, exclude=torch.arange(len(points)))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_neighbour_distance_does_not_depend_on_the_chunks(monkeypatch):
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    whole = knn_distance(points, points, 3)
    monkeypatch.setattr(neighbours, "_TILE_ELEMENTS", 130)
    torch.testing.assert_close(knn_distance(points, points, 3), whole)
    assert (knn_distance(points, points, 1) == 0).all()  # a sample's own copy


@pytest.mark.parametrize("order", [k_center, facility_location, herding])
@pytest.mark.parametrize(
    ("vectors", "k", "error"),
    [
        (torch.zeros(3, 2), 4, ValueError),
        (torch.zeros(3, 2), 0, ValueError),
        (torch.zeros(0, 2), 1, ValueError),
        (torch.zeros(3, 2), 1.0, TypeError),
        (torch.zeros(3), 1, ValueError),
        (torch.full((3, 2), float("nan")), 1, ValueError),
        (torch.zeros(3, 2, dtype=torch.int64), 1, TypeError),
    ],
)
def test_bad_input_is_refused(order, vectors, k, error):
    with pytest.raises(error, match=r"k must|vectors"):
        order(vectors, k)


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match="start"):
        k_center(torch.zeros(3, 2), 1, start=3)
    with pytest.raises(ValueError, match="neighbours"):
        knn_distance(torch.zeros(3, 2), torch.zeros(3, 2), 3, exclude=torch.arange(3))


@pytest.mark.parametrize("order", [k_center, facility_location, herding])
def test_of_equal_vectors_the_lowest_index_comes_first(order):
    distinct = torch.randn(7, 300, generator=torch.Generator().manual_seed(0))
    doubled = torch.cat([distinct, distinct])
    picks = order(doubled, 14).tolist()
    assert sorted(picks) == list(range(14))
    assert all(picks.index(i) < picks.index(i + 7) for i in range(7))


@pytest.mark.parametrize("order", [k_center, herding])
@pytest.mark.parametrize("held", [0, 1 << 25])
def test_orders_of_vectors_in_parts(order, held, monkeypatch):
    """Read a piece at a time for each pick: the same picks, also among duplicates."""
    points = torch.randn(120, 5, generator=torch.Generator().manual_seed(0))
    points[60:90] = points[:30]
    expected = order(points, 25)
    monkeypatch.setattr(_points, "_HELD", held)
    monkeypatch.setattr(_points, "_PIECE", 35)
    assert torch.equal(order(Rows(*points.split([50, 70])), 25), expected)
    assert torch.equal(order(points, 25), expected)
    with pytest.raises((ValueError, TypeError), match="k must"):
        order(Rows(points), 121)


def clustered(n, d=12):
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(20, d, generator=generator)
    return centres[torch.randint(20, (n,), generator=generator)] + torch.randn(n, d, generator=generator)


@pytest.mark.parametrize("k", [1, 5, 9])
def test_facility_location_by_all_near_distances_is_that_by_all_distances(k, monkeypatch):
    points = clustered(90)
    points[50:55] = points[:5]
    expected = facility_location(points, k)
    monkeypatch.setattr(ordering, "_KEPT_ELEMENTS", 0)
    monkeypatch.setattr(ordering, "_LISTED", 90)
    assert torch.equal(facility_location(points, k), expected)
    assert torch.equal(facility_location(Rows(points[:30], points[30:]), k), expected)


@pytest.mark.parametrize("entries", [1 << 24, 40 * 900])
def test_facility_location_by_the_nearest_distances_is_as_good(entries, monkeypatch):
    points = clustered(900)

    def cost(picks):
        return float(torch.cdist(points, points[picks]).amin(1).mean())

    whole = cost(facility_location(points, 30))
    monkeypatch.setattr(ordering, "_KEPT_ELEMENTS", 0)
    monkeypatch.setattr(ordering, "_ENTRIES", entries)
    chosen = facility_location(points, 30)
    assert len(chosen.unique()) == 30
    chance = cost(torch.randperm(900, generator=torch.Generator().manual_seed(1))[:30])
    assert chance - cost(chosen) > 0.97 * (chance - whole)
