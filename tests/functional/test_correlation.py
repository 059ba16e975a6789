import math

import numpy as np
import pytest
import torch

from hopfield_replay.functional.correlation import ranks, spearman, spearman_interval
from hopfield_replay.functional.neighbours import knn_distance, precision_recall

stats = pytest.importorskip("scipy.stats")


def data(n=60, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    x, y = z + rng.normal(size=n), z + 0.5 * rng.normal(size=n)
    if ties:
        x, y, z = (np.round(value) for value in (x, y, z))
    return [torch.tensor(value) for value in (x, y, z)]


@pytest.mark.parametrize("ties", [False, True])
def test_equals_scipy(ties):
    x, y, _ = data(ties=ties)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    np.testing.assert_array_equal(ranks(x), stats.rankdata(x))
    np.testing.assert_array_equal(ranks(torch.stack([x, y])), stats.rankdata(torch.stack([x, y]), axis=1))


@pytest.mark.parametrize("ties", [False, True])
def test_the_partial_correlation_is_that_of_the_residuals(ties):
    x, y, z = data(ties=ties)
    design = np.stack([np.ones(len(z)), stats.rankdata(z)], 1)
    residuals = []
    for values in (x, y):
        ranked = stats.rankdata(values)
        residuals.append(ranked - design @ np.linalg.lstsq(design, ranked, rcond=None)[0])
    expected = stats.pearsonr(*residuals).statistic
    assert spearman(x, y, control=z) == pytest.approx(expected, abs=1e-10)
    assert spearman(x, y, control=z.exp()) == pytest.approx(expected, abs=1e-10)


@pytest.mark.heavy
def test_the_interval_is_scipys_percentile_bootstrap():
    x, y, _ = data(80)
    reference = stats.bootstrap(
        (x.numpy(), y.numpy()), lambda a, b: stats.spearmanr(a, b).statistic, paired=True, vectorized=False,
        n_resamples=1500, method="percentile", rng=np.random.default_rng(1), confidence_level=0.9,
    ).confidence_interval  # fmt: skip
    got = spearman_interval(x, y, confidence=0.9, resamples=3000)
    assert (got.low, got.high) == pytest.approx((reference.low, reference.high), abs=0.03)
    assert got.estimate == spearman(x, y)
    assert (got.n, got.confidence) == (80, 0.9)


@pytest.mark.heavy
def test_the_interval_covers_the_truth_and_ignores_the_order():
    rho = 6 / math.pi * math.asin(0.5 / 2)  # Spearman's correlation of a normal pair with correlation 0.5
    covered = 0
    for seed in range(100):
        noise = torch.randn(2, 100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        got = spearman_interval(noise[0], 0.5 * noise[0] + math.sqrt(0.75) * noise[1], resamples=300)
        covered += got.low <= rho <= got.high
    assert covered >= 87
    x, y, z = data()
    order = torch.randperm(60)
    assert spearman_interval(x, y, control=z) == spearman_interval(x[order], y[order], control=z[order])


def test_degenerate_variables():
    x, y, _ = data()
    assert math.isnan(spearman(x, torch.ones(60)))
    assert math.isnan(spearman(x, y, control=x))
    assert math.isnan(spearman_interval(x, torch.ones(60)).low)
    assert spearman(torch.tensor([1.0, torch.inf, 2.0]), torch.tensor([1.0, 3.0, 2.0])) == 1.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: spearman([1.0], torch.ones(1)), TypeError, "x must be"),
        (lambda: spearman(torch.ones(4, 1), torch.ones(4)), ValueError, "shape"),
        (lambda: spearman(torch.ones(4), torch.ones(5)), ValueError, "one length"),
        (lambda: spearman(torch.ones(2), torch.ones(2)), ValueError, "needs 3"),
        (lambda: spearman(torch.ones(3), torch.ones(3), control=torch.ones(3)), ValueError, "needs 4"),
        (lambda: spearman(torch.tensor([1, 2, torch.nan]), torch.ones(3)), ValueError, "NaN"),
        (lambda: spearman_interval(torch.ones(3), torch.ones(3), confidence=1.0), ValueError, "confidence"),
        (lambda: spearman_interval(torch.ones(3), torch.ones(3), resamples=0), ValueError, "resamples"),
        (lambda: knn_distance(torch.ones(3, 1), torch.ones(3, 1), 4), ValueError, "k = 4"),
        (lambda: knn_distance(torch.ones(3, 1), torch.ones(3, 1), 3, exclude=torch.arange(3)), ValueError, "k = 3"),
        (lambda: precision_recall(torch.ones(3, 1), torch.ones(9, 1), 3), ValueError, "each side"),
        (lambda: precision_recall(torch.ones(3, 1), torch.ones(3, 1), 0), ValueError, "k must"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_neighbours_equal_sklearn(monkeypatch):
    neighbors = pytest.importorskip("sklearn.neighbors")
    generator = torch.Generator().manual_seed(0)
    patterns, x = torch.randn(70, 5, generator=generator), torch.randn(30, 5, generator=generator)
    tree = neighbors.NearestNeighbors(algorithm="kd_tree").fit(patterns.double())
    monkeypatch.setattr("hopfield_replay.functional.neighbours._TILE_ELEMENTS", 700)
    expected = tree.kneighbors(x.double(), 4)[0][:, 3]
    np.testing.assert_allclose(knn_distance(x, patterns, 4), expected, rtol=1e-12)
    without = tree.kneighbors(patterns.double(), 5)[0][:, 4]
    np.testing.assert_allclose(knn_distance(patterns, patterns, 4, exclude=torch.arange(70)), without, rtol=1e-12)


@pytest.mark.heavy
def test_precision_and_recall_equal_a_literal_loop():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    made = 0.6 * torch.randn(50, 3, generator=generator, dtype=torch.float64) + 0.5

    def share(points, centres, k):
        inside = 0
        for point in points:
            for index, centre in enumerate(centres):
                others = sorted(float((centre - other).norm()) for j, other in enumerate(centres) if j != index)
                if float((point - centre).norm()) <= others[k - 1]:
                    inside += 1
                    break
        return inside / len(points)

    assert precision_recall(real, made, 3) == pytest.approx((share(made, real, 3), share(real, made, 3)))
    assert precision_recall(real, real, 3) == (1.0, 1.0)


def test_a_lost_mode_lowers_recall_only():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 4, generator=generator)
    real[200:] += 20
    made = torch.randn(200, 4, generator=generator)
    precision, recall = precision_recall(real, made, 5)
    assert precision > 0.85
    assert 0.4 < recall <= 0.5
