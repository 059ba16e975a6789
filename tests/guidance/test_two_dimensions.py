"""Guided sampling where the model's score is known: stored samples on four blobs of a ring, the model on the others."""

import math
from itertools import pairwise

import pytest
import torch

from hopfield_replay.functional import ddim_denoise, retrieve
from hopfield_replay.guidance import MemoryGuidance
from tests.functional.mixture import Mixture

pytestmark = pytest.mark.heavy

WIDTH, N = 0.15, 1000
STEPS = list(range(999, 0, -20))


def ring(turn, count=4):
    angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count) + turn
    return 2 * torch.stack([angles.cos(), angles.sin()], 1)


OLD, NEW = ring(0.0), ring(math.pi / 4)


def blobs(centres, n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    chosen = centres[torch.randint(len(centres), (n,), generator=draw)]
    return chosen + WIDTH * torch.randn(n, 2, generator=draw, dtype=torch.float64)


def noise(seed=10):
    return torch.randn(N, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(x, centres):
    return torch.cdist(x, centres).amin(1) < 5 * WIDTH


def three_errors(share):
    return 3 * math.sqrt(share * (1 - share) / N)


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.75])
def test_samples_follow_the_strength_and_stay_on_the_data(strength):
    memory = blobs(OLD, 100)
    guidance = MemoryGuidance(Mixture(NEW, WIDTH).preserving(), memory, blobs(NEW, 1000, seed=7), strength=strength)
    x = ddim_denoise(guidance, noise(), STEPS)
    old, new = near(x, OLD), near(x, NEW)
    assert old.double().mean().item() == pytest.approx(strength, abs=three_errors(strength))
    assert (old | new).double().mean() >= 0.999
    for centre in NEW:  # nothing of what the model knows is lost
        assert near(x, centre[None]).double().mean().item() == pytest.approx((1 - strength) / 4, abs=0.045)
    report = guidance.report(x)
    assert torch.equal(report.memory_driven.cpu(), old)
    assert report.memory_share == pytest.approx(strength, abs=three_errors(strength))
    assert report.nearest_stored[old].median() < 0.05  # what the memory drives is what it stores


def test_stochastic_steps():
    """Ancestral sampling, written out, with the guided network's estimate."""
    model = Mixture(NEW, WIDTH).preserving()
    guidance = MemoryGuidance(model, blobs(OLD, 100), blobs(NEW, 1000, seed=7), strength=0.5)
    draw, x = torch.Generator().manual_seed(2), noise()
    for step, after in pairwise(STEPS):
        (a, s), (b, r) = model.schedule.amounts(step), model.schedule.amounts(after)
        clean = guidance.predict_clean(x, step)
        variance = r**2 / s**2 * (1 - a**2 / b**2)
        x = b * clean + math.sqrt(r**2 - variance) * (x - a * clean) / s
        x = x + math.sqrt(variance) * torch.randn(N, 2, generator=draw, dtype=torch.float64)
    assert near(clean, OLD).double().mean().item() == pytest.approx(0.5, abs=three_errors(0.5))
    assert (near(clean, OLD) | near(clean, NEW)).double().mean() >= 0.999


@pytest.mark.parametrize("kind", ["energy gradient", "constant ratio"])
def test_adding_the_energy_or_mixing_at_a_constant_ratio_leaves_the_data(kind):
    """Why neither is offered."""
    far = torch.tensor([4.0, 0.0], dtype=torch.float64)
    old, new = OLD - far, OLD + far
    model, memory = Mixture(new, WIDTH).preserving(), blobs(old, 100)

    class Steered:
        num_timesteps, noise, snr = model.num_timesteps, model.noise, model.snr

        def predict_clean(self, noisy, timestep, condition=None):
            a, s = model.schedule.amounts(timestep)
            y, clean = noisy / a, model.predict_clean(noisy, timestep)
            stored = retrieve(y, memory, (a / s) ** 2)
            return clean - 0.5 * (y - stored) if kind == "energy gradient" else (clean + stored) / 2

    x = ddim_denoise(Steered(), noise(), STEPS)
    off = ~(near(x, old) | near(x, new))
    assert off.double().mean() > 0.8


def test_overlapping_tasks_keep_their_shares():
    """Old and new share two blobs: those get the sum of both shares, each of the others its own."""
    both = ring(math.pi / 8, 8)
    old, new = both[:5], both[3:]  # five each, two in common
    guidance = MemoryGuidance(Mixture(new, WIDTH).preserving(), blobs(old, 200), blobs(new, 1000, seed=7), strength=0.5)
    x = ddim_denoise(guidance, noise(), STEPS)
    for part, share in ((both[:3], 0.3), (both[3:5], 0.4), (both[5:], 0.3)):
        assert near(x, part).double().mean().item() == pytest.approx(share, abs=three_errors(share) + 0.02)
    assert near(x, both).double().mean() >= 0.999


@pytest.mark.parametrize("own", [True, False], ids=["its own samples", "the last task's data"])
def test_a_model_that_remembers_a_little(own):
    """A tenth of what it generates is old: the memory's share comes on top, whatever the current samples are."""
    weights = torch.tensor([0.1 / 4] * 4 + [0.9 / 4] * 4)
    model = Mixture(torch.cat([OLD, NEW]), WIDTH, weights).preserving()
    current = ddim_denoise(model, noise(seed=5), STEPS) if own else blobs(NEW, 1000, seed=7)
    x = ddim_denoise(MemoryGuidance(model, blobs(OLD, 100), current, strength=0.5), noise(), STEPS)
    assert near(x, OLD).double().mean().item() == pytest.approx(0.55, abs=three_errors(0.55) + 0.01)
    assert (near(x, OLD) | near(x, NEW)).double().mean() >= 0.995


def test_a_schedule_counts_where_the_tasks_come_apart():
    model = Mixture(NEW, WIDTH).preserving()
    shares = []
    for strength in (lambda t: 0.9 if t > 900 else 0.2, lambda t: 0.9 if t > 20 else 0.2):
        guidance = MemoryGuidance(model, blobs(OLD, 100), blobs(NEW, 1000, seed=7), strength=strength)
        shares.append(near(ddim_denoise(guidance, noise(), STEPS), OLD).double().mean().item())
    assert shares[0] == pytest.approx(0.2, abs=0.1)
    assert shares[1] == pytest.approx(0.9, abs=0.05)
