"""The calibrated beta against a literal leave-one-out loop; a diagnosis against its definitions; what is refused."""

import math

import numpy as np
import pytest
import torch

from hopfield_replay import HopfieldMemory, beta_at_timestep, calibrate_beta
from hopfield_replay.functional import PatternTiles, Rows, energy
from hopfield_replay.memory import readings, temperature
from hopfield_replay.memory.readings import median_error, nearby, spread_indices
from hopfield_replay.memory.temperature import diagnose
from tests.functional import numpy_energy as reference


def median_n_eff(patterns, beta, similarity="distance", masses=None):
    """Lower median over all patterns of one over the sum of squared responsibilities, each pattern left out."""
    found = []
    for i, x in enumerate(patterns):
        kept = reference.terms(x, patterns, beta, masses=masses, similarity=similarity, exclude=i)
        _, weights, total = reference.probabilities(kept)
        found.append(1.0 / sum((w / total) ** 2 for w in weights))
    return sorted(found)[(len(found) - 1) // 2]


def normal(count=60, d=4, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(count, d)) + 0.3


@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("n_eff", [1.5, 5.0, 30.0])
def test_beta_gives_the_number_of_patterns_that_was_asked_for(n_eff, similarity):
    patterns = normal()
    beta = calibrate_beta(torch.from_numpy(patterns), n_eff=n_eff, similarity=similarity)
    assert math.isclose(median_n_eff(patterns, beta, similarity), n_eff, rel_tol=1e-4)


def test_masses_count():
    patterns = normal()
    masses = np.random.default_rng(1).uniform(0.0, 4.0, size=len(patterns))
    beta = calibrate_beta(torch.from_numpy(patterns), n_eff=4.0, masses=torch.from_numpy(masses))
    assert math.isclose(median_n_eff(patterns, beta, masses=masses), 4.0, rel_tol=1e-4)


def test_scale_and_shift():
    patterns = torch.from_numpy(normal())
    beta = calibrate_beta(patterns)
    assert math.isclose(calibrate_beta(10.0 * patterns), beta / 100.0, rel_tol=1e-5)
    assert math.isclose(calibrate_beta(patterns + 1e6), beta, rel_tol=1e-4)
    assert math.isclose(calibrate_beta(patterns.view(60, 2, 2)), beta, rel_tol=1e-9)
    assert math.isclose(calibrate_beta(patterns.float()), beta, rel_tol=1e-4)


def test_more_patterns_than_are_asked():
    patterns = normal(count=900, d=3)
    beta = calibrate_beta(torch.from_numpy(patterns), n_eff=5.0)
    found = []
    for i in np.linspace(0, 899, 512).round().astype(int):
        weights = np.exp(-beta * ((patterns - patterns[i]) ** 2).sum(1) / 2)
        weights[i] = 0.0
        found.append(weights.sum() ** 2 / (weights**2).sum())
    assert math.isclose(sorted(found)[255], 5.0, rel_tol=1e-4)


def test_asked_positions_are_spread_over_the_set():
    assert spread_indices(10, 3).tolist() == [0, 4, 9]
    assert spread_indices(4, 10).tolist() == [0, 1, 2, 3]
    found = spread_indices(1000, 512)
    assert len(found.unique()) == 512
    assert int(found.diff().max()) <= 2


@pytest.mark.parametrize(("n_eff", "count"), [(1.0, 10), (0.0, 10), (9.0, 10), (-3.0, 10), (float("nan"), 10)])
def test_targets_that_cannot_be(n_eff, count):
    with pytest.raises(ValueError, match="n_eff must lie between 1 and N - 1 = 9"):
        calibrate_beta(torch.from_numpy(normal(count)), n_eff=n_eff)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_patterns(count):
    with pytest.raises(ValueError, match=f"at least 3 patterns, got {count}; pass beta as a number"):
        calibrate_beta(torch.zeros(count, 2))


@pytest.mark.parametrize("count", [8, 100, 600])
def test_identical_patterns(count):
    with pytest.raises(ValueError, match=r"no beta tells them apart|that many patterns are \(nearly\) identical"):
        calibrate_beta(torch.from_numpy(normal(1, 37)).repeat(count, 1), n_eff=3.0)


def test_copies_bound_n_eff_from_below():
    copies = torch.from_numpy(normal(10)).repeat_interleave(6, dim=0)  # five others are always identical
    assert calibrate_beta(copies, n_eff=6.0) > 0
    with pytest.raises(
        ValueError, match=r"stays at 5, because.*identical to others. Remove duplicates or change the target"
    ):
        calibrate_beta(copies, n_eff=3.0)


def test_masses_on_few_patterns_bound_n_eff_from_above():
    masses = torch.zeros(20)
    masses[:3] = 1.0
    with pytest.raises(
        ValueError, match=r"No beta reaches n_eff = 5.0: at the smallest beta it is .*masses concentrated"
    ):
        calibrate_beta(torch.from_numpy(normal(20)), masses=masses)


def test_bad_values():
    patterns = torch.from_numpy(normal())
    with pytest.raises(ValueError, match=r'similarity must be one of .*"?cosine'):
        calibrate_beta(patterns, similarity="cosine")
    with pytest.raises(TypeError, match=r"patterns must be a real floating tensor, got torch.uint8"):
        calibrate_beta(torch.zeros(9, 2, dtype=torch.uint8))
    patterns[7, 1] = torch.inf
    with pytest.raises(ValueError, match=r"patterns holds NaN or infinite values in 1 of 60 rows \(first rows: \[7\]"):
        calibrate_beta(patterns)


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_diagnosis_follows_its_definitions(similarity):
    patterns, beta = normal(), 1.7
    found = diagnose(torch.from_numpy(patterns), beta, similarity=similarity)
    own = np.arange(len(patterns))
    energies = reference.energy(patterns, patterns, beta, similarity=similarity, exclude=own)
    answers = np.sort(np.diag(reference.responsibilities(patterns, patterns, beta, similarity=similarity)))
    assert found.beta == beta
    assert math.isclose(found.n_eff, median_n_eff(patterns, beta, similarity), rel_tol=1e-9)
    assert math.isclose(found.self_responsibility, answers[(len(answers) - 1) // 2], rel_tol=1e-9)
    assert math.isclose(found.energy_spread, energies.std(ddof=1) * beta, rel_tol=1e-9)


def test_merged_fraction_counts_patterns_that_fall_together():
    apart = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])
    patterns = np.concatenate([apart, [[0.1, 0.0]]])  # two of five share a fixed point
    assert diagnose(torch.from_numpy(patterns), 1.0).merged_fraction == 0.4


def test_a_good_beta_raises_no_warning():
    patterns = torch.from_numpy(normal(200, 16))
    found = diagnose(patterns, calibrate_beta(patterns, n_eff=5.0))
    assert [text for text in found.warnings if "merged" not in text and "needs beta" not in text] == []


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("factor", "words"), [(1e-4, "too small to be informative"), (1e4, "Stored patterns answer for themselves")]
)
def test_a_bad_beta_is_told_with_a_range_that_works(factor, words):
    patterns = torch.from_numpy(normal(100, 6))
    good = calibrate_beta(patterns, n_eff=5.0)
    found = diagnose(patterns, factor * good)
    assert any(words in text for text in found.warnings)
    low, high = found.warnings[-1].split("[")[1].rstrip("].").split(", ")
    assert float(low) < good < float(high)
    assert math.isclose(median_n_eff(patterns.numpy(), float(low)), 20.0, rel_tol=1e-2)
    assert math.isclose(median_n_eff(patterns.numpy(), float(high)), 2.0, rel_tol=1e-2)


def test_diagnosis_refuses():
    with pytest.raises(ValueError, match="at least 3 patterns, got 2"):
        diagnose(torch.eye(2), 1.0)
    with pytest.raises(ValueError, match="queries must be at least 2, got 1"):
        diagnose(torch.eye(5), 1.0, queries=1)
    with pytest.raises(ValueError, match=r"beta .* must be positive and finite, got -1.0"):
        diagnose(torch.eye(5), -1.0)


# -- patterns in batches, other targets


def batches(x, size=7):
    return [x[i : i + size] for i in range(0, len(x), size)]


@pytest.mark.heavy
@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_patterns_in_batches_are_calibrated_and_diagnosed_as_the_whole(similarity):
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(60, 5)))
    whole = calibrate_beta(x, n_eff=4.0, similarity=similarity)
    assert math.isclose(calibrate_beta(PatternTiles(batches(x)), n_eff=4.0, similarity=similarity), whole, rel_tol=1e-4)
    one = diagnose(x, whole, similarity=similarity)
    other = diagnose(PatternTiles(batches(x)), whole, similarity=similarity)
    assert math.isclose(one.merged_fraction, other.merged_fraction, abs_tol=0.05)  # ends that meet slowly
    for name in ("n_eff", "self_responsibility", "energy_spread"):
        assert math.isclose(getattr(one, name), getattr(other, name), rel_tol=1e-6, abs_tol=1e-9), name


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_self_responsibility_is_met(similarity):
    x = np.random.default_rng(4).normal(size=(40, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    beta = calibrate_beta(torch.from_numpy(x), self_responsibility=0.7, similarity=similarity)
    scores = beta * x @ x.T if similarity == "dot" else -beta / 2 * np.square(x[:, None] - x[None]).sum(2)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert math.isclose(np.sort(np.diag(p))[(len(x) - 1) // 2], 0.7, rel_tol=1e-4)


@pytest.mark.parametrize("target", [0.0, 1.0, -1.0])
def test_self_responsibility_out_of_range(target):
    with pytest.raises(ValueError, match=r"self_responsibility must lie in \(0, 1\)"):
        calibrate_beta(torch.randn(9, 2), self_responsibility=target)


def test_the_energy_at_a_timesteps_beta_is_the_log_density_of_noised_data():
    class Scheduler:
        alphas_cumprod = torch.linspace(0.99, 0.02, 50, dtype=torch.float64)

    rng = np.random.default_rng(5)
    data, y, t = rng.normal(size=(30, 3)), rng.normal(size=(8, 3)), 21
    alpha = float(Scheduler.alphas_cumprod[t])
    beta = beta_at_timestep(Scheduler(), t)
    a, variance = math.sqrt(alpha), 1 - alpha
    square = np.square(a * y[:, None] - a * data[None]).sum(2)
    density = np.exp(-square / (2 * variance)).mean(1) / (2 * math.pi * variance) ** 1.5
    expected = -variance / alpha * np.log(density) - 3 / (2 * beta) * math.log(2 * math.pi * variance)
    found = energy(torch.from_numpy(y), torch.from_numpy(data), beta)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("scheduler", "timestep", "error", "message"),
    [
        (object(), 0, TypeError, "object has no alphas_cumprod"),
        (type("S", (), {"alphas_cumprod": torch.tensor([0.5])})(), 1, ValueError, r"timestep .* in \[0, 1\), got 1"),
        (type("S", (), {"alphas_cumprod": torch.tensor([1.0])})(), 0, ValueError, "positive and finite, got inf"),
    ],
)
def test_no_beta_at_a_timestep(scheduler, timestep, error, message):
    with pytest.raises(error, match=message):
        beta_at_timestep(scheduler, timestep)


@pytest.mark.heavy
@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("in_parts", [False, True])
def test_large_sets_are_read_as_small_ones_are(similarity, weighted, in_parts, monkeypatch):
    """In float32, in one pass, and in parts: where all are asked the same beta comes out."""
    patterns = torch.from_numpy(normal(count=200, d=5)).float()
    patterns = torch.nn.functional.normalize(patterns) if similarity == "dot" else patterns
    masses = torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if weighted else None
    options = {"similarity": similarity, "masses": masses}
    for target in ({"n_eff": 4.0}, {"self_responsibility": 0.5}):
        monkeypatch.setattr(temperature, "HELD", 1 << 25)
        whole = calibrate_beta(patterns, **target, **options)
        monkeypatch.setattr(temperature, "HELD", 0)
        many = Rows(*patterns.split(60)) if in_parts else patterns
        assert math.isclose(calibrate_beta(many, **target, **options), whole, rel_tol=1e-3)
    few, all_of_them = diagnose(many, whole, **options, queries=64), diagnose(patterns, whole, **options, queries=200)
    assert all_of_them.n_eff_error == 0.0
    assert abs(few.n_eff - all_of_them.n_eff) < 4 * few.n_eff_error
    together = diagnose(patterns, whole, **options, queries=64).merged_fraction
    assert few.merged_fraction == pytest.approx(together, abs=1.5 / 64)  # one at the limit, in another rounding


def test_fewer_are_asked_where_their_scores_would_not_fit(monkeypatch):
    monkeypatch.setattr(temperature, "HELD", 0)
    monkeypatch.setattr(readings, "_SCORES", 40 * 300)
    patterns = normal(count=300, d=3)
    beta = calibrate_beta(torch.from_numpy(patterns), n_eff=5.0)
    found = []
    for i in np.linspace(0, 299, 40).round().astype(int):
        weights = np.exp(-beta * ((patterns - patterns[i]) ** 2).sum(1) / 2)
        weights[i] = 0.0
        found.append(weights.sum() ** 2 / (weights**2).sum())
    assert math.isclose(sorted(found)[19], 5.0, rel_tol=1e-3)


def test_the_error_of_a_median_is_its_spread_over_samples():
    rng = np.random.default_rng(0)
    samples = torch.from_numpy(rng.normal(size=(400, 101)))
    errors = torch.tensor([median_error(sample) for sample in samples])
    assert float(errors.mean()) == pytest.approx(float(samples.median(1).values.std()), rel=0.15)


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_nearby_patterns_are_those_of_the_largest_scores(similarity):
    patterns = torch.from_numpy(normal(count=90, d=4)).float()
    masses = torch.arange(90.0).double()
    queries = patterns[::30]
    tiles = nearby(queries, PatternTiles(patterns, masses=masses), similarity, 5)
    scores = queries @ patterns.T if similarity == "dot" else -torch.cdist(queries, patterns)
    expected = scores.topk(5, dim=1).indices.unique()
    assert torch.equal(tiles.resident, patterns[expected])
    assert torch.equal(tiles.masses, masses[expected])


def test_merging_of_large_sets_is_that_under_the_patterns_near_by(monkeypatch):
    patterns = torch.from_numpy(normal(count=400, d=6)).float()
    for beta in (0.5, 3.0, 40.0):
        monkeypatch.setattr(temperature, "_FIXED_POINTS", 10**9)
        whole = diagnose(patterns, beta, queries=32)
        monkeypatch.setattr(temperature, "_FIXED_POINTS", 0)
        assert diagnose(patterns, beta, queries=32).merged_fraction == pytest.approx(whole.merged_fraction, abs=0.1)


def test_a_calibrated_beta_is_no_reason_to_warn_of_what_was_asked_for():
    patterns = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    memory = HopfieldMemory(patterns, "auto")
    found = memory.diagnose()
    assert found.merged_fraction > 0.05
    assert found.warnings == ()
    given = HopfieldMemory(patterns, memory.beta).diagnose()  # the same number, chosen by a person
    assert given.merged_fraction == found.merged_fraction
    assert "of the fixed points are merged" in given.warnings[0]
