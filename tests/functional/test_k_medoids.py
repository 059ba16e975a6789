"""k-means medoids against scikit-learn's k-means and against what they must be."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from hopfield_replay.functional import _points, k_means_medoids, k_medoids
from hopfield_replay.functional.rows import Rows


def blobs(seed, sizes=(40, 25, 10, 5), d=3):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), d)) * 20
    return np.concatenate([c + rng.normal(size=(n, d)) for c, n in zip(centres, sizes, strict=True)]), rng


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_of_separate_clusters_they_are_those_of_scikit_learn(seed, weighted):
    x, rng = blobs(seed)
    masses = rng.integers(1, 6, len(x)).astype(float) if weighted else np.ones(len(x))
    peer = KMeans(4, n_init=20, random_state=0).fit(x, sample_weight=masses)
    order = np.argsort([-masses[peer.labels_ == c].sum() for c in range(4)], kind="stable")
    expected = [int(np.argmin(((x - peer.cluster_centers_[c]) ** 2).sum(1))) for c in order]
    found = k_means_medoids(
        torch.from_numpy(x), 4, torch.from_numpy(rng.uniform(size=len(x))), masses=torch.from_numpy(masses)
    )
    assert found.tolist() == expected


def test_many_clusters_leave_little_more_error_than_the_best_of_a_peer():
    x, rng = blobs(5, sizes=(100, 100))
    found = k_means_medoids(torch.from_numpy(x), 20, torch.from_numpy(rng.uniform(size=200)))
    assert len(set(found.tolist())) == 20
    left = ((x[:, None] - x[found.numpy()][None]) ** 2).sum(-1).min(1).sum()
    peer = KMeans(20, n_init=20, random_state=0).fit(x)
    medoids = x[[int(np.argmin(((x - c) ** 2).sum(1))) for c in peer.cluster_centers_]]
    best = ((x[:, None] - medoids[None]) ** 2).sum(-1).min(1).sum()
    drawn = [((x[:, None] - x[rng.permutation(200)[:20]][None]) ** 2).sum(-1).min(1).sum() for _ in range(20)]
    assert best <= left * 1.001
    assert left < 1.15 * best < 0.75 * np.mean(drawn)


def test_identical_samples_give_distinct_ones_and_all_may_be_asked_for():
    uniforms = torch.linspace(0.1, 0.9, 5)
    assert len(k_means_medoids(torch.ones(5, 2), 3, uniforms).unique()) == 3
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert sorted(k_means_medoids(x, 5, uniforms).tolist()) == [0, 1, 2, 3, 4]
    masses = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    assert k_means_medoids(x, 1, uniforms, masses=masses).tolist() == [2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must"),
        ({"k": 6}, ValueError, "number of vectors"),
        ({"masses": -torch.ones(5)}, ValueError, "masses must be finite and not negative"),
        ({"uniforms": torch.full((5,), torch.nan)}, ValueError, "uniforms"),
        ({"uniforms": torch.rand(4)}, ValueError, "one length"),
        ({"steps": -1}, ValueError, "steps must"),
        ({"starts": 0}, ValueError, "starts must"),
        ({"vectors": torch.ones(5, 2, dtype=torch.int64)}, TypeError, "vectors"),
    ],
)
def test_bad_arguments(arguments, error, message):
    given = {"vectors": torch.randn(5, 2), "k": 2, "uniforms": torch.rand(5), **arguments}
    with pytest.raises(error, match=message):
        k_means_medoids(given.pop("vectors"), given.pop("k"), given.pop("uniforms"), **given)


@pytest.mark.parametrize("nearest", [1, 8])
@pytest.mark.parametrize("alike", [1, 40])
def test_of_vectors_in_pieces_they_are_the_same(alike, nearest, monkeypatch):
    """Also where centres fall together, so that others have taken what is nearest to one."""
    x, rng = blobs(3)
    x = torch.from_numpy(np.repeat(x[::alike], alike, axis=0)[:80]).float()
    draws, masses = torch.from_numpy(rng.uniform(size=80)), torch.from_numpy(rng.integers(1, 5, 80)).double()
    expected = k_means_medoids(x, 12, draws, masses=masses)
    assert len(expected.unique()) == 12
    monkeypatch.setattr(k_medoids, "_NEAREST", nearest)
    monkeypatch.setattr(_points, "_HELD", 0)
    monkeypatch.setattr(_points, "_PIECE", 21)  # seven vectors
    assert torch.equal(k_means_medoids(x, 12, draws, masses=masses), expected)
    assert torch.equal(k_means_medoids(Rows(x[:33], x[33:]), 12, draws, masses=masses), expected)


def test_medoids_are_those_of_a_literal_search():
    rng = np.random.default_rng(1)
    x, centres = rng.normal(size=(60, 4)), rng.normal(size=(9, 4)) * 0.1  # several want the same
    taken = []
    for centre in centres:
        squares = ((x - centre) ** 2).sum(1)
        squares[taken] = np.inf
        taken.append(int(squares.argmin()))
    points = _points.Points(torch.from_numpy(x), 9)
    assert k_medoids._medoids(points, torch.from_numpy(centres)) == taken
