"""The score of a large memory as a GPU computes it, out of split products, emulated with a tensor core's rounding."""

import numpy as np
import pytest
import torch

from hopfield_replay.functional import PatternTiles
from hopfield_replay.functional._engine import stream
from hopfield_replay.guidance import mixture
from hopfield_replay.guidance.mixture import SampleMixture
from tests.functional._engine.emulated import emulated, tensor_core  # noqa: F401


@pytest.mark.parametrize("noise", [0.02, 0.4, 3.0])
@pytest.mark.parametrize("d", [30, 520])
def test_score_of_a_large_memory(d, noise, emulated, monkeypatch):  # noqa: F811
    monkeypatch.setattr(stream, "SMALL_PROBLEM", 0)
    monkeypatch.setattr(mixture, "_LARGE", 10**12)  # as on a GPU, where "auto" is asked for
    generator = torch.Generator().manual_seed(d)
    size = (30 / d) ** 0.5
    memory, current = (size * torch.randn(n, d, generator=generator) for n in (700, 300))
    memory[600:] = memory[:100]  # copies
    x = torch.cat([memory[:6], current[:6]]) + noise * size * torch.randn(12, d, generator=generator)
    found = SampleMixture(PatternTiles(memory), PatternTiles(current), probes=0).share(0.9 * x, 0.9, 0.9 * noise, 0.4)
    near = [-((x.double()[:, None] - y.double()) ** 2).sum(2).numpy() / (2 * noise**2) for y in (memory, current)]
    weights = np.exp(near[0] - near[0].max(1, keepdims=True))
    clean = weights @ memory.double().numpy() / weights.sum(1, keepdims=True)
    stored, other = (np.logaddexp.reduce(scores, axis=1) - np.log(scores.shape[1]) for scores in near)
    odds = (np.log(0.4 / 0.6) + stored - other).clip(-500, 500)
    np.testing.assert_allclose(found.clean.numpy(), clean, atol=1e-4 * size)
    np.testing.assert_allclose(found.responsibility.numpy(), 1 / (1 + np.exp(-odds)), atol=5e-4)
