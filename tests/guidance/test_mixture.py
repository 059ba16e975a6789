import math

import pytest
import torch

from hopfield_replay.functional import PatternTiles
from hopfield_replay.guidance import SampleMixture
from hopfield_replay.guidance.calibration import Probes, calibrated_offset

A, S = 0.6, 0.8


def sets(d=3):
    draw = torch.Generator().manual_seed(0)
    memory, current = (torch.randn(n, d, generator=draw, dtype=torch.float64) for n in (7, 5))
    return memory - 0.5, current + 0.5, torch.randn(11, d, generator=draw, dtype=torch.float64)


def density(x, samples, masses=None):
    """Literal sum over the samples."""
    masses = [1.0] * len(samples) if masses is None else masses.tolist()
    total = torch.zeros(())
    for sample, mass in zip(samples, masses, strict=True):
        square = (x - A * sample).square().sum()
        total = total + mass / sum(masses) * torch.exp(-square / (2 * S**2)) / (2 * math.pi * S**2) ** (len(x) / 2)
    return total


@pytest.mark.parametrize("strength", [0.0, 0.2, 0.7, 1.0])
def test_the_score_is_that_of_the_mixture(strength):
    memory, current, points = sets()
    masses = torch.arange(1.0, 8.0, dtype=torch.float64)
    mixture = SampleMixture(PatternTiles(memory, masses=masses), PatternTiles(current), probes=0)
    r, clean = mixture.share(points, A, S, strength)
    # what a perfect model of the current samples predicts is the other half of the same mixture
    model = SampleMixture(PatternTiles(current), PatternTiles(memory), probes=0).share(points, A, S, 1.0).clean
    score = -(points - A * ((1 - r)[:, None] * model + r[:, None] * clean)) / S**2
    for x, found, share in zip(points, score, r, strict=True):
        x = x.clone().requires_grad_()
        old, new = density(x, memory, masses), density(x, current)
        total = strength * old + (1 - strength) * new
        (expected,) = torch.autograd.grad(total.log(), x)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
        assert float(share) == pytest.approx(float((strength * old / total).detach()), abs=1e-12)


def test_pure_noise_says_nothing():
    memory, current, points = sets()
    r, clean = SampleMixture(PatternTiles(memory), PatternTiles(current)).share(points, 0.0, 1.0, 0.3)
    torch.testing.assert_close(r, torch.full((11,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(clean, memory.mean(0).expand(11, -1))


def test_the_sets_come_apart_as_the_noise_falls():
    memory, current, _ = sets()
    mixture = SampleMixture(PatternTiles(memory), PatternTiles(current))
    shares = [
        mixture.share(memory, a, math.sqrt(1 - a * a), 0.5).responsibility.mean().item() for a in (0.01, 0.5, 0.999)
    ]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.5, abs=0.01)
    assert shares[-1] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("strength", [0.05, 0.4, 0.9])
def test_the_offset_makes_the_mean_responsibility_the_strength(strength):
    draw = torch.Generator().manual_seed(1)
    old, new = (
        Probes(torch.zeros(300, 2), torch.rand(300, generator=draw).double(), torch.arange(300), torch.zeros(300, 2))
        for _ in range(2)
    )
    old_odds, new_odds = torch.randn(300, generator=draw).double() + 3, torch.randn(300, generator=draw).double()
    offset = calibrated_offset(old, old_odds, new, new_odds, strength)
    means = []
    for probes, odds in ((old, old_odds), (new, new_odds)):
        total = 0.0
        for mass, value in zip(probes.masses.tolist(), odds.tolist(), strict=True):
            against = (1 - strength) / strength * math.exp(-offset - value)
            total += mass / (1 + against)
        means.append(total / float(probes.masses.sum()))
    assert strength * means[0] + (1 - strength) * means[1] == pytest.approx(strength, abs=1.1e-3)
    assert offset < 0  # uncorrected, the memory gets too much


def test_sets_that_are_apart_need_no_offset():
    probes = Probes(torch.zeros(4, 2), torch.ones(4).double(), torch.arange(4), torch.zeros(4, 2))
    far = torch.full((4,), 50.0, dtype=torch.float64)
    assert calibrated_offset(probes, far, probes, -far, 0.3) == 0.0
    assert calibrated_offset(probes, -far, probes, -far, 0.3) > 40  # beyond all doubt the wrong way round


def test_new_samples_of_many_dimensions_are_not_taken_for_stored_ones():
    """Few samples underrate the density of what is not among them: the correction gives it its share back."""
    d, sigmas, draw = 16, (0.3, 0.5, 0.8, 1.2), torch.Generator().manual_seed(2)

    def blob(which, n):
        return which * 0.5 + torch.randn(n, d, generator=draw, dtype=torch.float64)

    memory, current, fresh = blob(0, 100), blob(1, 200), blob(1, 3000)
    stored = memory[torch.randint(100, (3000,), generator=draw)]
    noise = torch.randn(6000, d, generator=draw, dtype=torch.float64)
    errors = []
    for probes in (0, 1000):
        mixture = SampleMixture(PatternTiles(memory), PatternTiles(current), probes)
        noisy = (torch.cat([stored, fresh]) + sigma * noise for sigma in sigmas)  # the mixture at strength 1/2
        means = [mixture.share(x, 1.0, s, 0.5).responsibility.mean().item() for x, s in zip(noisy, sigmas, strict=True)]
        errors.append(max(abs(mean - 0.5) for mean in means))
    assert errors[0] > 0.08
    assert errors[1] < 0.025


@pytest.mark.heavy
@pytest.mark.parametrize("a", [0.05, 0.7, 0.99])
def test_a_large_memory_in_single_precision(a):
    draw, s = torch.Generator().manual_seed(3), math.sqrt(1 - a * a)
    memory, current = torch.randn(5000, 256, generator=draw), torch.randn(300, 256, generator=draw)
    noisy = a * torch.cat([memory[:4], current[:4]]) + s * torch.randn(8, 256, generator=draw)
    found, exact = (
        SampleMixture(PatternTiles(memory.to(dtype)), PatternTiles(current.to(dtype)), 64).share(
            noisy.to(dtype), a, s, 0.3
        )
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(found.responsibility, exact.responsibility, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.clean, exact.clean, atol=1e-3, rtol=1e-3)
