import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hopfield_replay.functional import (
    StreamedAffinity,
    affinity,
    energy,
    equal_quotas,
    far_task_energy,
    greedy_replay_gain,
    protected_energy,
)
from hopfield_replay.functional import _gains as gains_module


def objective(matrix, chosen, weights):
    return math.fsum(w * math.log1p(math.fsum(row[i] for i in chosen)) for w, row in zip(weights, matrix, strict=True))


def naive_greedy(matrix, k, weights, groups=None, quotas=None):
    """Try every candidate in every step; of equal values the lowest index."""
    chosen = []
    left = None if quotas is None else list(quotas)
    for _ in range(k):
        free = [i for i in range(len(matrix[0])) if i not in chosen and (left is None or left[groups[i]] > 0)]
        values = {i: objective(matrix, [*chosen, i], weights) - objective(matrix, chosen, weights) for i in free}
        best = max(values.values())
        pick = min(i for i in free if values[i] >= best - 1e-9 * max(abs(best), 1e-9))
        chosen.append(pick)
        if left is not None:
            left[groups[pick]] -= 1
    return chosen


@st.composite
def instances(draw, ties=True):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, count = draw(st.integers(1, 6)), draw(st.integers(2, 8))
    kind = draw(st.sampled_from(["scale", "sparse", "duplicates", "coverage"]))
    matrix = np.exp(rng.normal(0, draw(st.sampled_from([0.1, 1.0, 4.0])), (n, count)))
    if kind == "sparse":
        matrix *= rng.random((n, count)) < 0.4
    elif kind == "coverage":
        matrix = (rng.random((n, count)) < 0.4) * 3.0
    elif kind == "duplicates" and ties:
        matrix = matrix[:, rng.integers(0, count, count)]
    weights = rng.uniform(0.1, 3, n)
    return matrix, weights, draw(st.integers(1, count))


@pytest.mark.heavy
@settings(max_examples=150, deadline=None)
@given(instances())
def test_picks_are_those_of_naive_greedy_and_the_certificate_holds(instance):
    matrix, weights, k = instance
    chosen = greedy_replay_gain(torch.from_numpy(matrix), k, weights=torch.from_numpy(weights), tighten=3)
    plain = greedy_replay_gain(torch.from_numpy(matrix), k, weights=torch.from_numpy(weights))
    assert plain.indices.tolist() == chosen.indices.tolist() == naive_greedy(matrix, k, weights)

    optimum = max(objective(matrix, s, weights) for s in itertools.combinations(range(matrix.shape[1]), k))
    value = objective(matrix, chosen.indices.tolist(), weights)
    assert math.isclose(chosen.value, value, rel_tol=1e-12, abs_tol=1e-12)
    assert math.isclose(float(chosen.gains.sum()), value, rel_tol=1e-12, abs_tol=1e-12)
    assert value >= (1 - 1 / math.e) * optimum - 1e-12
    assert plain.upper_bound >= chosen.upper_bound * (1 - 1e-12) >= optimum * (1 - 1e-9)
    assert chosen.guaranteed_share >= (1 - 1 / math.e) * (1 - 1e-9)
    remaining = [i for i in range(matrix.shape[1]) if i not in plain.indices.tolist()]
    marginals = sorted(objective(matrix, [*plain.indices.tolist(), i], weights) - value for i in remaining)[::-1]
    a_priori = value / (1 - (1 - 1 / k) ** k)
    assert math.isclose(plain.upper_bound, min(value + sum(marginals[:k]), a_priori), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.heavy
@settings(max_examples=100, deadline=None)
@given(instances(), st.integers(0, 10**6))
def test_quotas_are_exact_and_certified(instance, seed):
    matrix, weights, k = instance
    count = matrix.shape[1]
    groups = np.random.default_rng(seed).integers(0, 3, count)
    groups[0] = 2  # so that three groups exist, perhaps empty ones
    quotas = equal_quotas(torch.from_numpy(groups), k).tolist()
    chosen = greedy_replay_gain(
        torch.from_numpy(matrix), k, weights=torch.from_numpy(weights), groups=torch.from_numpy(groups), tighten=2
    )
    assert np.bincount(groups[chosen.indices.numpy()], minlength=3).tolist() == quotas
    assert chosen.indices.tolist() == naive_greedy(matrix, k, weights, groups, quotas)
    allowed = [
        s
        for s in itertools.combinations(range(count), k)
        if np.bincount(groups[list(s)], minlength=3).tolist() == quotas
    ]
    optimum = max(objective(matrix, s, weights) for s in allowed)
    assert chosen.upper_bound >= optimum * (1 - 1e-9)
    assert chosen.value >= 0.5 * optimum * (1 - 1e-9)


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_screening_in_float32_changes_no_pick(monkeypatch, dtype, scale, transposed, weighted):
    monkeypatch.setattr(gains_module, "_SMALL", 0)
    g = torch.Generator().manual_seed(5)
    vectors = torch.randn(70, 3, generator=g)
    vectors[50:] = vectors[:20]  # exact ties
    matrix = (scale * torch.exp(-torch.cdist(vectors[:61], vectors).square())).to(dtype)
    if transposed:
        matrix = matrix.T.contiguous().T
    exact = matrix.to(torch.float64)
    covered, picks = torch.zeros(61, dtype=torch.float64), []
    weights = torch.rand(61, generator=g, dtype=torch.float64) if weighted else torch.ones(61, dtype=torch.float64)
    for _ in range(30):
        marginal = torch.log1p(exact + covered[:, None]) - torch.log1p(covered)[:, None]
        if scale < 1:  # the difference of logarithms cancels; to first order the gain is the ratio
            marginal = exact / (1 + covered)[:, None]
        marginal = weights @ marginal
        marginal[picks] = -1
        picks.append(int((marginal >= marginal.max() * (1 - 1e-9)).nonzero()[0]))
        covered += exact[:, picks[-1]]
    chosen = greedy_replay_gain(matrix, 30, weights=weights, tighten=4)
    assert chosen.indices.tolist() == picks
    assert math.isclose(chosen.value, float(weights @ torch.log1p(covered)), rel_tol=1e-9)
    monkeypatch.setattr(gains_module, "_SMALL", 1 << 20)
    small = greedy_replay_gain(matrix, 30, weights=weights, tighten=4)
    assert small.indices.tolist() == picks
    assert small.upper_bound <= chosen.upper_bound <= small.upper_bound * (1 + 1e-4) + 1e-3


def test_picks_are_nested():
    matrix = torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    longer = greedy_replay_gain(matrix, 20)
    for k in (1, 7, 13):
        shorter = greedy_replay_gain(matrix, k)
        assert shorter.indices.tolist() == longer.indices[:k].tolist()
        assert math.isclose(shorter.value, float(longer.gains[:k].sum()), rel_tol=1e-12)


def test_tightened_bound_is_closer_and_still_above_the_optimum():
    vectors = torch.randn(12, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    matrix = 0.2 * torch.exp(4 - torch.cdist(vectors, vectors).square())
    plain, tight = greedy_replay_gain(matrix, 3), greedy_replay_gain(matrix, 3, tighten=100)
    rows = matrix.tolist()
    optimum = max(objective(rows, s, [1.0] * 12) for s in itertools.combinations(range(12), 3))
    assert optimum * (1 - 1e-12) <= tight.upper_bound
    assert tight.upper_bound - tight.value < 0.75 * (plain.upper_bound - plain.value)


def test_tail_objective_protects_the_targets_with_the_largest_rise():
    g = torch.Generator().manual_seed(1)
    matrix = torch.rand(40, 50, generator=g, dtype=torch.float64)
    matrix[:4] *= torch.linspace(30, 60, 4, dtype=torch.float64)[:, None] * (torch.rand(4, 50, generator=g) < 0.2)
    matrix[4:] *= 5
    picks = {t: greedy_replay_gain(matrix, 5, tail_weight=t) for t in (0.0, 0.5, 1.0)}
    tail = matrix.sum(1).topk(4).indices
    for t, chosen in picks.items():
        cover = torch.log1p(matrix[:, chosen.indices].sum(1))
        torch.testing.assert_close(chosen.protected, cover, rtol=1e-12, atol=0)
        assert math.isclose(chosen.mean, float(cover.mean()), rel_tol=1e-12)
        assert math.isclose(chosen.tail, float(cover[tail].mean()), rel_tol=1e-12)
        assert math.isclose(chosen.value, 40 * ((1 - t) * chosen.mean + t * chosen.tail), rel_tol=1e-12)
    assert picks[0.0].mean > picks[1.0].mean
    assert picks[0.0].tail < picks[1.0].tail
    assert picks[1.0].indices.tolist() == greedy_replay_gain(matrix[tail], 5).indices.tolist()


def test_tail_follows_the_risk_that_is_given_and_leaves_out_targets_of_no_weight():
    matrix = torch.eye(10)
    risk = torch.arange(10.0)
    weights = torch.ones(10)
    weights[9] = 0
    chosen = greedy_replay_gain(matrix, 1, tail_weight=1.0, tail_share=0.1, risk=risk, weights=weights)
    assert chosen.indices.tolist() == [8]
    assert math.isclose(chosen.tail, math.log(2))


def test_values_scale_with_beta():
    matrix = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    nats, chosen = greedy_replay_gain(matrix, 2), greedy_replay_gain(matrix, 2, beta=4.0)
    for name in ("value", "upper_bound", "mean", "tail"):
        assert math.isclose(getattr(nats, name), 4 * getattr(chosen, name), rel_tol=1e-12)
    torch.testing.assert_close(nats.gains, 4 * chosen.gains)
    torch.testing.assert_close(nats.protected, 4 * chosen.protected)


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_streamed_selection_is_that_of_the_matrix(similarity):
    g = torch.Generator().manual_seed(2)
    old, new = torch.randn(40, 5, generator=g), torch.randn(30, 5, generator=g) + 0.5
    rises = energy(old, new, 1.5, similarity=similarity)
    masses = torch.rand(40, generator=g)
    arguments = {"masses": masses, "similarity": similarity}
    streamed = StreamedAffinity(old, old, rises, 1.5, **arguments)
    matrix = affinity(old, old, rises, 1.5, **arguments)
    settings_ = {"tail_weight": 0.3, "tighten": 3, "beta": 1.5}
    one, other = greedy_replay_gain(streamed, 12, **settings_), greedy_replay_gain(matrix, 12, **settings_)
    assert one.indices.tolist() == other.indices.tolist()
    for name in ("value", "upper_bound", "mean", "tail"):
        assert math.isclose(getattr(one, name), getattr(other, name), rel_tol=1e-10)
    torch.testing.assert_close(protected_energy(streamed, one.indices, beta=1.5), one.protected)
    torch.testing.assert_close(protected_energy(matrix, one.indices, beta=1.5), one.protected)


def test_streamed_selection_survives_affinities_beyond_float64():
    old = torch.tensor([[0.0], [1.0], [5.0], [6.0]])
    streamed = StreamedAffinity(old, old, far_task_energy(old), 1e5, masses=0.5)
    chosen = greedy_replay_gain(streamed, 2, beta=1e5)
    assert chosen.indices.tolist() == [1, 2]
    # hard coverage: (D^2 - min distance^2) / 2 in the limit of large beta, where it is positive
    far = far_task_energy(old)
    np.testing.assert_allclose(chosen.protected.numpy(), [far - 0.5, far, far, far - 0.5], atol=1e-4)


@pytest.mark.parametrize(
    ("matrix", "arguments", "error", "message"),
    [
        (torch.ones(2, 3), {"k": 4}, ValueError, "between 1 and the number of candidates, 3, got 4"),
        (torch.ones(2, 3), {"k": 0}, ValueError, "got 0"),
        (torch.ones(2, 3), {"k": 1.0}, TypeError, "whole number"),
        (torch.ones(2, 3), {"k": True}, TypeError, "whole number"),
        (torch.tensor([[1.0, float("nan")]]), {"k": 1}, ValueError, "finite and not negative"),
        (torch.tensor([[1.0, float("inf")]]), {"k": 1}, ValueError, "StreamedAffinity"),
        (torch.tensor([[1.0, -0.5]]), {"k": 1}, ValueError, "-0.5"),
        (torch.ones(2, 3, dtype=torch.int64), {"k": 1}, TypeError, "floating"),
        (torch.ones(2), {"k": 1}, ValueError, "targets, candidates"),
        (torch.ones(0, 3), {"k": 1}, ValueError, "at least one"),
        (torch.ones(2, 3), {"k": 1, "weights": torch.ones(3)}, ValueError, "weights"),
        (torch.ones(2, 3), {"k": 1, "weights": torch.tensor([1.0, -1.0])}, ValueError, "weights"),
        (torch.ones(2, 3), {"k": 1, "weights": torch.zeros(2)}, ValueError, "zero"),
        (torch.ones(2, 3), {"k": 1, "tail_weight": 2.0}, ValueError, "tail_weight"),
        (torch.ones(2, 3), {"k": 1, "tail_share": 0.0}, ValueError, "tail_share"),
        (torch.ones(2, 3), {"k": 1, "risk": torch.ones(3)}, ValueError, "risk"),
        (torch.ones(2, 3), {"k": 1, "tighten": -1}, ValueError, "tighten"),
        (torch.ones(2, 3), {"k": 1, "beta": 0.0}, ValueError, "beta"),
        (torch.ones(2, 3), {"k": 1, "quotas": torch.tensor([1])}, ValueError, "groups"),
        (torch.ones(2, 3), {"k": 1, "groups": torch.tensor([0, 1])}, ValueError, "groups"),
        (torch.ones(2, 3), {"k": 1, "groups": torch.tensor([0, 1, -1])}, ValueError, "from 0"),
        (torch.ones(2, 3), {"k": 1, "groups": torch.zeros(3)}, TypeError, "integers"),
        (
            torch.ones(2, 3),
            {"k": 2, "groups": torch.tensor([0, 1, 1]), "quotas": torch.tensor([2, 0])},
            ValueError,
            "quotas",
        ),
    ],
)
def test_bad_input_is_named(matrix, arguments, error, message):
    with pytest.raises(error, match=message):
        greedy_replay_gain(matrix, **arguments)


def test_bad_indices_are_named():
    with pytest.raises(ValueError, match="distinct"):
        protected_energy(torch.ones(2, 3), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="distinct"):
        protected_energy(torch.ones(2, 3), torch.tensor([3]))


def test_mixed_precision_does_not_reach_the_bounds():
    """In a training step in mixed precision the sums behind them would have 8 bits, and fall below the gains."""
    generator = torch.Generator().manual_seed(3)
    a = torch.rand(1100, 1000, generator=generator) ** 8  # large enough to be screened in float32
    gains = gains_module.ProtectedEnergy(a, torch.rand(1100, generator=generator, dtype=torch.float64) + 0.1)
    every = list(range(1000))
    expected = gains.bound(every)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gains.bound(every)
    assert found == expected
    assert all(bound >= gain for bound, gain in zip(found, gains.exact(every), strict=True))
