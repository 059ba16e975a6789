import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hopfield_replay.functional import energy, energy_rise, expected_rise, fixed_points, replay_gain, susceptibility

DIM, BETA = 50, 8.0


def clustered_patterns() -> torch.Tensor:
    """12 unit vectors with pairwise correlation .35 and one orthogonal outlier, the tractable setting."""
    patterns = np.zeros((13, DIM))
    patterns[:12, :12] = np.linalg.cholesky(0.65 * np.eye(12) + 0.35)
    patterns[12, 12] = 1.0
    return torch.from_numpy(patterns)


def literal_gain(x, old, new, replay, beta, masses, similarity, net):
    """The defining sum, with math.exp and math.fsum."""

    def total(patterns, weights):
        def score(p):
            return (
                beta * sum(a * b for a, b in zip(x, p, strict=True))
                if similarity == "dot"
                else -beta / 2 * sum((a - b) ** 2 for a, b in zip(x, p, strict=True))
            )

        return math.fsum(w * math.exp(score(p)) for p, w in zip(patterns, weights, strict=True))

    z_old, z_new = total(old, [1.0] * len(old)), total(new, [1.0] * len(new))
    q = total(replay, masses) / z_old
    rise = (math.log(z_old) - math.log(z_new)) / beta
    gain = math.log1p(math.exp(beta * rise) * q) / beta
    return gain - math.log1p(q) / beta if net else gain


@pytest.mark.heavy
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    beta=st.floats(0.05, 20),
    similarity=st.sampled_from(["distance", "dot"]),
    net=st.booleans(),
)
def test_replay_gain_equals_the_literal_sum(seed, beta, similarity, net):
    rng = np.random.default_rng(seed)
    x, old, new, replay = (rng.normal(size=(n, 3)) for n in (4, 5, 6, 2))
    masses = rng.uniform(0, 3, 2)
    got = replay_gain(
        *(torch.from_numpy(a) for a in (x, old, new, replay)),
        beta,
        replay_masses=torch.from_numpy(masses),
        similarity=similarity,
        net=net,
    )
    expected = [literal_gain(row, old, new, replay, beta, masses, similarity, net) for row in x]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_replay_gain_is_the_drop_of_the_energy_when_the_replayed_samples_join_the_new_patterns():
    g = torch.Generator().manual_seed(0)
    x, old, new = (torch.randn(n, 4, generator=g, dtype=torch.float64) for n in (7, 5, 6))
    masses = torch.tensor([0.5, 2.0], dtype=torch.float64)
    joined = torch.cat([new, old[:2]])
    weights = torch.cat([torch.ones(6, dtype=torch.float64), masses])
    for similarity in ("distance", "dot"):
        plain = energy(x, new, 1.3, similarity=similarity, normalize=False)
        both = energy(x, joined, 1.3, masses=weights, similarity=similarity, normalize=False)
        gain = replay_gain(x, old, new, old[:2], 1.3, replay_masses=masses, similarity=similarity)
        torch.testing.assert_close(gain, plain - both, rtol=1e-12, atol=1e-13)


def test_mixture_form_is_the_drop_under_normalised_masses_and_can_be_negative():
    g = torch.Generator().manual_seed(1)
    x, old, new = (torch.randn(n, 4, generator=g, dtype=torch.float64) for n in (9, 5, 6))
    share, replay = 0.3, old[:2]
    weights = torch.cat([torch.full((6,), (1 - share) / 6), torch.full((2,), share / 2)]).double()
    expected = energy(x, new, 2.0) - energy(x, torch.cat([new, replay]), 2.0, masses=weights)
    gain = replay_gain(x, old, new, replay, 2.0, replay_share=share)
    torch.testing.assert_close(gain, expected, rtol=1e-6, atol=1e-7)  # the weights above are rounded to float32
    assert (gain < 0).any()
    same = replay_gain(x, old, new, replay, 2.0, replay_share=0.0)
    torch.testing.assert_close(same, torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-15)
    only = replay_gain(x, old, new, replay, 2.0, replay_share=1.0)
    torch.testing.assert_close(only, energy(x, new, 2.0) - energy(x, replay, 2.0), rtol=1e-12, atol=1e-13)
    still = replay_gain(x, old, old, replay, 2.0, replay_share=share, net=True)
    torch.testing.assert_close(still, torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-13)


def test_replay_gain_survives_energies_far_apart():
    x, new = torch.zeros(1, 2), torch.full((1, 2), 100.0)
    gain = replay_gain(x, x, new, x, 50.0)  # exp(beta dE) = exp(500000)
    torch.testing.assert_close(gain, torch.tensor([10000.0], dtype=torch.float64))
    back = replay_gain(x, x, x, new, 50.0)
    assert back.item() == 0.0


def test_empty_sets():
    x, none = torch.ones(2, 3), torch.zeros(0, 3)
    assert replay_gain(x, x, x, none, 1.0).tolist() == [0.0, 0.0]
    assert replay_gain(x, x, x, none, 1.0, replay_share=0.5).tolist() == [0.0, 0.0]
    assert replay_gain(x, x, none, none, 1.0).tolist() == [0.0, 0.0]
    assert replay_gain(x, x, none, x, 1.0).tolist() == [math.inf, math.inf]
    assert susceptibility(x, x, none, 1.0).tolist() == [0.0, 0.0]
    assert expected_rise(x, none, 1.0).tolist() == [0.0, 0.0]
    assert expected_rise(none, x, 1.0).shape == (0,)


def test_susceptibility_is_the_slope_of_the_net_gain():
    patterns = clustered_patterns()
    points = fixed_points(patterns, patterns, BETA, similarity="dot", tol=1e-14)
    rho = susceptibility(points, patterns, patterns[-1:], BETA, similarity="dot")
    # p_self of the outlier and p_outlier at a cluster's fixed point, from the closed form
    p = np.array([0.000498846] * 12 + [0.995797592])
    np.testing.assert_allclose(rho.numpy(), p / (1 + p), atol=5e-10)
    # one new mass factor makes the same small rise everywhere: exp(-beta h)
    h = 1e-5
    lighter = torch.full((13,), math.exp(-BETA * h), dtype=torch.float64)
    net = replay_gain(points, patterns, patterns, patterns[-1:], BETA, new_masses=lighter, similarity="dot", net=True)
    torch.testing.assert_close(net / h, rho, rtol=1e-4, atol=0)


def test_expected_rise_meets_the_reference_values():
    patterns = clustered_patterns()
    points = fixed_points(patterns, patterns, BETA, similarity="dot", tol=1e-14)
    amplitude = expected_rise(points, patterns, BETA)
    np.testing.assert_allclose(amplitude[:12].numpy(), 21.346731, atol=5e-7)
    np.testing.assert_allclose(amplitude[12].item(), 24.277992, atol=5e-7)
    assert math.isclose(points[0].norm().item(), 0.939859861, abs_tol=1e-8)
    literal = [_literal_amplitude(point, patterns.numpy()) for point in points.numpy()]
    np.testing.assert_allclose(amplitude.numpy(), literal, rtol=0, atol=1e-8)


def _literal_amplitude(x, patterns, masses=None):
    """|x|^2 tr H - x^T H x and the gradient, with the Hessian written out."""
    scores = BETA * patterns @ x
    p = np.exp(scores - scores.max()) * (1 if masses is None else masses)
    p /= p.sum()
    mean = p @ patterns
    covariance = sum(w * np.outer(row - mean, row - mean) for w, row in zip(p, patterns, strict=True))
    hessian = np.eye(len(x)) - BETA * covariance
    return (x @ x * np.trace(hessian) - x @ hessian @ x) / 2 - (len(x) - 1) / 2 * (x - mean) @ x


def test_expected_rise_away_from_fixed_points_with_masses_equals_the_written_out_hessian():
    rng = np.random.default_rng(3)
    x, patterns, masses = rng.normal(size=(6, 5)), rng.normal(size=(4, 5)) + 3, rng.uniform(0.1, 2, 4)
    got = expected_rise(torch.from_numpy(x), torch.from_numpy(patterns), BETA, masses=torch.from_numpy(masses))
    expected = [_literal_amplitude(row, patterns, masses) for row in x]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10, atol=1e-8)


def test_expected_rise_does_not_depend_on_the_chunks(monkeypatch):
    from hopfield_replay.functional import forgetting

    g = torch.Generator().manual_seed(2)
    x, patterns = torch.randn(11, 4, generator=g), torch.randn(7, 4, generator=g)
    whole = expected_rise(x, patterns, 2.0)
    monkeypatch.setattr(forgetting, "_CHUNK_ELEMENTS", 14)
    torch.testing.assert_close(expected_rise(x, patterns, 2.0), whole, rtol=1e-13, atol=1e-13)


@pytest.mark.heavy
def test_expected_rise_and_net_gains_meet_the_mean_over_random_rotations():
    generator, eps = torch.Generator().manual_seed(0), 0.02
    patterns = clustered_patterns()
    kinds = [0, 12]  # one cluster pattern, the outlier
    points = fixed_points(patterns[kinds], patterns, BETA, similarity="dot", tol=1e-14)
    rounds = 300
    w = torch.randn(rounds, DIM, DIM, generator=generator, dtype=torch.float64)
    rotations = torch.matrix_exp(eps * (w - w.mT) / 2)
    rises, gains = torch.empty(rounds, 2), torch.empty(rounds, 2, 2)
    for i in range(rounds):
        new = patterns @ rotations[i].T
        rises[i] = energy_rise(points, patterns, new, BETA, similarity="dot")
        for j, kind in enumerate(kinds):
            gains[i, j] = replay_gain(
                points, patterns, new, patterns[kind : kind + 1], BETA, similarity="dot", net=True
            )
    theory = eps**2 * 0.5 * expected_rise(points, patterns, BETA)
    error = rises.std(0) / rounds**0.5
    assert ((rises.mean(0) - theory).abs() < 3 * error + 0.005 * theory).all()
    # reference means over 2000 rotations, replayed kind (row) by target kind (column)
    reference = torch.tensor([[0.0020374, 1.7239e-6], [2.1557e-6, 0.0024321]])
    assert ((gains.mean(0) - reference).abs() < 4 * gains.std(0) / rounds**0.5).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"replay_share": 1.5}, ValueError, "replay_share"),
        ({"beta": 0.0}, ValueError, "beta"),
        ({"replay_masses": torch.tensor([-1.0])}, ValueError, "masses"),
        ({"old": torch.zeros(2, 4)}, ValueError, "dimension"),
        ({"replay": torch.zeros(1, 3, dtype=torch.int64)}, TypeError, "floating"),
        ({"similarity": "cosine"}, ValueError, "similarity"),
        ({"new": torch.full((2, 3), float("nan"))}, ValueError, "NaN"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"x": torch.zeros(2, 3), "old": torch.zeros(2, 3), "new": torch.ones(2, 3), "replay": torch.zeros(1, 3)}
    with pytest.raises(error, match=message):
        replay_gain(**{**arguments, "beta": 1.0, **change})
