"""What holds for every set of patterns, searched for counterexamples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hopfield_replay.functional import effective_patterns, energy, energy_rise, responsibilities, retrieve

pytestmark = pytest.mark.heavy

EXACT = {"rtol": 1e-9, "atol": 1e-9}


@st.composite
def problems(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n, count, d = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 6))
    scale = draw(st.sampled_from([0.1, 1.0, 5.0]))
    x = scale * torch.randn(n, d, generator=generator, dtype=torch.float64)
    patterns = scale * torch.randn(count, d, generator=generator, dtype=torch.float64)
    masses = torch.rand(count, generator=generator, dtype=torch.float64) + 0.01
    beta = draw(st.sampled_from([1e-4, 0.3, 2.0, 50.0]))
    return x, patterns, masses, beta, draw(st.sampled_from(["distance", "dot"])), generator


@settings(max_examples=60, deadline=None)
@given(problems())
def test_order_of_the_patterns_does_not_matter(problem):
    x, patterns, masses, beta, similarity, generator = problem
    order = torch.randperm(len(patterns), generator=generator)
    torch.testing.assert_close(
        energy(x, patterns[order], beta, masses=masses[order], similarity=similarity),
        energy(x, patterns, beta, masses=masses, similarity=similarity),
        **EXACT,
    )


@settings(max_examples=60, deadline=None)
@given(problems(), st.booleans())
def test_a_duplicate_is_a_doubled_mass(problem, normalize):
    x, patterns, masses, beta, similarity, _ = problem
    doubled = masses.clone()
    doubled[0] *= 2
    torch.testing.assert_close(
        energy(
            x,
            torch.cat([patterns, patterns[:1]]),
            beta,
            masses=torch.cat([masses, masses[:1]]),
            similarity=similarity,
            normalize=normalize,
        ),
        energy(x, patterns, beta, masses=doubled, similarity=similarity, normalize=normalize),
        **EXACT,
    )


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 9))
def test_any_split_merges_to_the_whole(problem, cut):
    x, patterns, masses, beta, similarity, _ = problem
    options = {"similarity": similarity, "normalize": False}
    parts = [
        energy(x, part, beta, masses=weights, **options)
        for part, weights in zip((patterns[:cut], patterns[cut:]), (masses[:cut], masses[cut:]), strict=True)
    ]
    # exp(-beta E) is a sum over the patterns, times exp(-beta |x|^2 / 2) in the dot form
    merged = -torch.logsumexp(-beta * torch.stack(parts), 0) / beta
    torch.testing.assert_close(merged, energy(x, patterns, beta, masses=masses, **options), **EXACT)


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(-50, 50))
def test_distance_form_does_not_see_a_common_shift(problem, shift):
    x, patterns, masses, beta, _, _ = problem
    torch.testing.assert_close(
        energy(x + shift, patterns + shift, beta, masses=masses),
        energy(x, patterns, beta, masses=masses),
        rtol=1e-8,
        atol=1e-8,
    )


@settings(max_examples=60, deadline=None)
@given(problems())
def test_rise_of_a_set_against_itself_is_zero(problem):
    x, patterns, masses, beta, similarity, _ = problem
    rise = energy_rise(x, patterns, patterns, beta, old_masses=masses, new_masses=masses, similarity=similarity)
    assert rise.tolist() == [0.0] * len(x)


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(0, 10))
def test_more_mass_never_raises_an_unnormalised_energy(problem, extra):
    x, patterns, masses, beta, similarity, _ = problem
    more = masses.clone()
    more[-1] += extra
    options = {"similarity": similarity, "normalize": False}
    before, after = (energy(x, patterns, beta, masses=m, **options) for m in (masses, more))
    assert (after <= before + 1e-9 * before.abs() + 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(problems())
def test_bounds(problem):
    x, patterns, masses, beta, similarity, _ = problem
    options = {"masses": masses, "similarity": similarity}
    assert (energy(x, patterns, beta, masses=masses) >= 0).all()  # a mean of values in [0, 1]
    count = effective_patterns(x, patterns, beta, **options)
    assert ((count >= 1 - 1e-9) & (count <= len(patterns) + 1e-9)).all()
    shares = responsibilities(x, patterns, beta, **options)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(x), dtype=torch.float64))
    torch.testing.assert_close(shares @ patterns, retrieve(x, patterns, beta, **options), **EXACT)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_retrieval_never_raises_the_energy(problem):
    x, patterns, masses, beta, similarity, _ = problem
    options = {"masses": masses, "similarity": similarity}
    before = energy(x, patterns, beta, **options)
    after = energy(retrieve(x, patterns, beta, **options), patterns, beta, **options)
    assert (after <= before + 1e-9 * (1 + before.abs())).all()
