"""Every function against a literal float64 loop: both similarities, masses, leave-one-out, empty sets."""

import math

import numpy as np
import pytest
import torch

from hopfield_replay import functional
from tests.functional import numpy_energy as reference

BETAS = [1e-3, 0.5, 8.0, 300.0]
SIMILARITIES = ["distance", "dot"]


def problem(seed=0, n=7, count=23, d=5):
    """Queries (the first of them are patterns), patterns, masses of which some are zero, and the own index of each."""
    rng = np.random.default_rng(seed)
    patterns = rng.normal(size=(count, d)) + 0.7
    x = np.concatenate([patterns[: n - 2], rng.normal(size=(2, d))])
    masses = rng.uniform(0.1, 3.0, size=count)
    masses[[1, 11]] = 0.0
    own = np.array([*range(n - 2), -1, -1])
    return x, patterns, masses, own


VARIANTS = [
    pytest.param(similarity, with_masses, leave_out, id=f"{similarity}-masses={with_masses}-loo={leave_out}")
    for similarity in SIMILARITIES
    for with_masses in (False, True)
    for leave_out in (False, True)
]


def tensors(*arrays):
    return [torch.from_numpy(a) for a in arrays]


@pytest.mark.heavy
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("similarity", "with_masses", "leave_out"), VARIANTS)
def test_energy(similarity, with_masses, leave_out, normalize, beta):
    x, patterns, masses, own = problem()
    given = {"masses": masses if with_masses else None, "exclude": own if leave_out else None}
    expected = reference.energy(x, patterns, beta, similarity=similarity, normalize=normalize, **given)
    result = functional.energy(
        *tensors(x, patterns),
        beta,
        similarity=similarity,
        normalize=normalize,
        **{name: None if value is None else torch.from_numpy(value) for name, value in given.items()},
    )
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.heavy
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("similarity", "with_masses", "leave_out"), VARIANTS)
@pytest.mark.parametrize("name", ["responsibilities", "effective_patterns"])
def test_responsibilities_and_effective_patterns(name, similarity, with_masses, leave_out, beta):
    x, patterns, masses, own = problem(1)
    given = {"masses": masses if with_masses else None, "exclude": own if leave_out else None}
    expected = getattr(reference, name)(x, patterns, beta, similarity=similarity, **given)
    given = {key: None if value is None else torch.from_numpy(value) for key, value in given.items()}
    result = getattr(functional, name)(*tensors(x, patterns), beta, similarity=similarity, **given)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("with_masses", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_retrieve(similarity, with_masses, steps, beta):
    x, patterns, masses, _ = problem(2)
    expected = reference.retrieve(
        x, patterns, beta, masses=masses if with_masses else None, similarity=similarity, steps=steps
    )
    weights = torch.from_numpy(masses) if with_masses else None
    result = functional.retrieve(*tensors(x, patterns), beta, masses=weights, similarity=similarity, steps=steps)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.heavy
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("beta", [2.0, 40.0])
def test_fixed_points_are_kept_by_one_more_retrieval(similarity, beta):
    x, patterns, masses, _ = problem(3)
    points = functional.fixed_points(
        *tensors(x, patterns), beta, masses=torch.from_numpy(masses), similarity=similarity, max_iter=100_000
    ).numpy()
    np.testing.assert_allclose(
        points, reference.retrieve(points, patterns, beta, masses=masses, similarity=similarity), atol=2e-10
    )
    expected = reference.retrieve(x, patterns, beta, masses=masses, similarity=similarity, steps=400)
    np.testing.assert_allclose(points, expected, atol=1e-8)  # reached from the same start


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("normalize", [True, False])
def test_energy_rise(similarity, normalize):
    x, old, masses, own = problem(4)
    _, new, new_masses, _ = problem(5, count=31)
    expected = reference.energy(
        x, new, 6.0, masses=new_masses, similarity=similarity, normalize=normalize
    ) - reference.energy(x, old, 6.0, masses=masses, similarity=similarity, normalize=normalize, exclude=own)
    result = functional.energy_rise(
        *tensors(x, old, new),
        6.0,
        old_masses=torch.from_numpy(masses),
        new_masses=torch.from_numpy(new_masses),
        similarity=similarity,
        exclude_old=torch.from_numpy(own),
        normalize=normalize,
    )
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-10, atol=1e-11)


def test_tractable_setting_matches_its_published_constants():
    """12 equiangular unit vectors (correlation .35) and one orthogonal to all, beta 8, masses 1, not normalised."""
    gram = np.full((13, 13), 0.35)
    gram[12, :], gram[:, 12] = 0.0, 0.0
    np.fill_diagonal(gram, 1.0)
    patterns = torch.zeros(13, 50, dtype=torch.float64)
    patterns[:, :13] = torch.from_numpy(np.linalg.cholesky(gram))
    stored = functional.energy(patterns, patterns, 8.0, similarity="dot", normalize=False)
    torch.testing.assert_close(stored[:12], torch.full((12,), -0.507403564, dtype=torch.float64), atol=1e-9, rtol=0)
    assert stored[12].item() == pytest.approx(-0.500502184, abs=1e-9)
    points = functional.fixed_points(patterns, patterns, 8.0, similarity="dot")
    found = functional.energy(points, patterns, 8.0, similarity="dot", normalize=False)
    assert found[0].item() == pytest.approx(-0.509232209, abs=1e-9)
    assert found[12].item() == pytest.approx(-0.500514009, abs=1e-9)
    assert points.norm(dim=1)[[0, 12]].tolist() == pytest.approx([0.939859861, 0.995801176], abs=1e-9)
    shares = functional.responsibilities(points, patterns, 8.0, similarity="dot")
    assert [shares[0, 0].item(), shares[12, 12].item()] == pytest.approx([0.905678887, 0.995797592], abs=1e-9)
    assert [shares[0, 1].item(), shares[0, 12].item()] == pytest.approx([0.008529297, 0.000498846], abs=1e-9)


def test_distance_form_is_minus_the_log_density_of_the_noised_data():
    """Ed + (d / 2 beta) log(2 pi s^2) = -(s^2 / a^2) log p_t(a y), beta = a^2 / s^2 (variance preserving)."""
    rng = np.random.default_rng(0)
    data, y = rng.normal(size=(40, 6)), rng.normal(size=(9, 6))
    alpha_bar = 0.3
    a, s = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    density = [
        np.mean([math.exp(-np.sum((a * q - a * z) ** 2) / (2 * s * s)) for z in data]) / (2 * math.pi * s * s) ** 3
        for q in y
    ]
    beta = a * a / (s * s)
    expected = -(s * s) / (a * a) * np.log(density) - 6 / (2 * beta) * math.log(2 * math.pi * s * s)
    result = functional.energy(*tensors(y, data), beta)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12)


def test_leave_one_out_equals_the_masked_sum_where_subtraction_would_fail():
    patterns = problem(6, n=25, count=23)[1]
    own = torch.arange(23)
    result = functional.energy(*tensors(patterns, patterns), 5000.0, exclude=own)
    without = [np.delete(patterns, i, axis=0) for i in range(23)]
    expected = [reference.energy(patterns[i : i + 1], without[i], 5000.0)[0] for i in range(23)]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("why", ["no patterns", "no mass", "left out"])
def test_nothing_left_is_infinite_energy_and_no_nan(similarity, why):
    x = torch.randn(3, 4, dtype=torch.float64)
    count = {"no patterns": 0, "no mass": 5, "left out": 1}[why]
    patterns = torch.randn(count, 4, dtype=torch.float64)
    given = {"similarity": similarity}
    if why == "no mass":
        given["masses"] = torch.zeros(5)
    else:
        assert not functional.retrieve(x, patterns[:0], 2.0, **given).any()
    if why == "left out":
        given["exclude"] = torch.zeros(3, dtype=torch.int64)
    for normalize in (True, False):
        assert functional.energy(x, patterns, 2.0, normalize=normalize, **given).tolist() == [math.inf] * 3
    assert functional.effective_patterns(x, patterns, 2.0, **given).tolist() == [0.0] * 3
    assert functional.responsibilities(x, patterns, 2.0, **given).tolist() == [[0.0] * count] * 3
    if why == "no mass":
        assert not functional.retrieve(x, patterns, 2.0, **given).any()
        full = torch.randn(2, 4, dtype=torch.float64)
        none = {"similarity": similarity, "old_masses": torch.zeros(5)}
        assert functional.energy_rise(x, patterns, full, 2.0, **none).tolist() == [-math.inf] * 3
        none["new_masses"] = torch.zeros(5)
        assert functional.energy_rise(x, patterns, patterns, 2.0, **none).tolist() == [0.0] * 3


def test_one_query_left_without_mass_does_not_touch_the_others():
    patterns = torch.randn(2, 3, dtype=torch.float64)
    masses = torch.tensor([0.0, 2.0])
    result = functional.energy(patterns, patterns, 3.0, masses=masses, exclude=torch.tensor([0, 1]))
    assert result[1].item() == math.inf
    assert result[0].item() == pytest.approx((patterns[0] - patterns[1]).square().sum().item() / 2)


def test_no_queries_give_empty_results():
    x, patterns = torch.zeros(0, 4), torch.randn(5, 4)
    assert functional.energy(x, patterns, 1.0).shape == (0,)
    assert functional.effective_patterns(x, patterns, 1.0).shape == (0,)
    assert functional.retrieve(x, patterns, 1.0).shape == (0, 4)
    assert functional.fixed_points(x, patterns, 1.0).shape == (0, 4)
    assert functional.responsibilities(x, patterns, 1.0).shape == (0, 5)
    assert functional.energy_rise(x, patterns, patterns, 1.0).shape == (0,)


def test_images_are_flattened():
    x, patterns = torch.randn(3, 2, 4, 4), torch.randn(6, 2, 4, 4)
    torch.testing.assert_close(
        functional.energy(x, patterns, 0.5), functional.energy(x.flatten(1), patterns.flatten(1), 0.5)
    )


def test_unconverged_fixed_points_warn():
    x, patterns, _, _ = problem(7)
    with pytest.warns(UserWarning, match="still moved"):
        functional.fixed_points(*tensors(x, patterns), 3.0, max_iter=1)
