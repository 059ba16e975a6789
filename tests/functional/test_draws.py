import itertools

import pytest
import torch
from scipy import stats

from hopfield_replay.functional import proportional


@pytest.mark.heavy
def test_proportional_draws_have_the_probabilities_of_draws_without_replacement():
    weights = torch.tensor([1.0, 2.0, 0.0, 5.0])
    uniforms = torch.rand(6000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = [tuple(proportional(weights, 2, u).tolist()) for u in uniforms]
    w = weights.tolist()
    pairs = list(itertools.permutations([0, 1, 3], 2))
    expected = [len(draws) * w[a] / 8 * w[b] / (8 - w[a]) for a, b in pairs]
    observed = [draws.count(pair) for pair in pairs]
    assert sum(observed) == len(draws)  # weight 0 is never drawn
    assert stats.chisquare(observed, expected).pvalue > 0.001


def test_proportional_with_uniforms_at_the_ends():
    assert proportional(torch.tensor([1.0, 0.0, 1.0]), 2, torch.tensor([0.0, 1.0, 0.5])).tolist() == [2, 0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="between 1 and"):
        proportional(torch.tensor([1.0, 0.0]), 2, torch.rand(2))
    with pytest.raises(ValueError, match="length"):
        proportional(torch.ones(2), 1, torch.rand(3))
    with pytest.raises(ValueError, match="negative"):
        proportional(torch.tensor([1.0, float("nan")]), 1, torch.rand(2))
    with pytest.raises(ValueError, match="uniforms"):
        proportional(torch.ones(2), 1, torch.tensor([0.5, 1.5]))
