"""Protected energies against a literal loop over targets and kept samples; the bound against every set there is."""

from itertools import combinations

import numpy as np
import pytest
import torch

from hopfield_replay.functional import energy
from hopfield_replay.policies.protection import protection_curve


def literal(kept, targets, chosen, beta, ratio):
    """Mean of log(1 + sum of affinities) / beta, affinity = mass x kernel(target, kept) x exp(beta x new energy)."""
    mass = ratio / (1 - ratio) / len(kept)
    variance = ((targets - targets.mean(0)) ** 2).sum() / (len(targets) - 1)
    pool, total = np.concatenate([kept, targets]), 0.0
    for x in targets:
        inside = 1.0
        for r in chosen:
            exponent = -0.5 * ((x - pool[r]) ** 2).sum() + variance
            inside += mass * np.exp(beta * exponent)
        total += np.log(inside) / beta
    return total / len(targets)


def test_the_curve_and_the_bound():
    rng = np.random.default_rng(0)
    kept, targets = rng.normal(size=(3, 2)), rng.normal(size=(6, 2))
    found = protection_curve(torch.from_numpy(kept), torch.from_numpy(targets), 1.5, replay_ratio=0.3)
    assert found.sizes == (1, 2, 3)
    for size, value in zip(found.sizes, found.kept, strict=True):
        assert value == pytest.approx(literal(kept, targets, range(size), 1.5, 0.3))
    pool = range(len(kept) + len(targets))
    for size, value in zip(found.sizes, found.best, strict=True):
        every = [literal(kept, targets, chosen, 1.5, 0.3) for chosen in combinations(pool, size)]
        assert (1 - 1 / np.e) * max(every) <= value <= max(every) + 1e-12
    assert max(every) <= found.bound + 1e-12
    assert found.best[0] == pytest.approx(max(literal(kept, targets, [r], 1.5, 0.3) for r in pool))


def test_affinities_that_overflow_go_by_their_logarithms():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small, large = (protection_curve(x[:4] * scale, x * scale, 2.0) for scale in (1.0, 40.0))
    assert small.kept[-1] <= small.bound
    assert np.isfinite([*large.kept, *large.best, large.bound]).all()
    covered = 0.5 * torch.cdist(x * 40.0, x[:4] * 40.0).square().min(1).values  # for large beta only the nearest counts
    variance = float((x * 40.0 - (x * 40.0).mean(0)).square().sum() / 11)
    expected = float((variance - covered).clamp(min=0.0).mean())
    assert large.kept[-1] == pytest.approx(expected, rel=1e-2)


def test_large_buffers_have_their_own_curve_only():
    x = torch.randn(1100, 2, generator=torch.Generator().manual_seed(0))
    found = protection_curve(x, x, 1.0)
    assert found.best == ()
    assert found.bound is None
    assert len(found.sizes) <= 16
    assert found.sizes[0] == 1
    assert found.sizes[-1] == 1100
    assert all(b >= a for a, b in zip(found.kept, found.kept[1:], strict=False))


def test_dot_form():
    """What a set protects is how much it lowers the energy under the next task, 1/2 |x|^2 for an unrelated one."""
    x = torch.nn.functional.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), dim=1).double()
    found = protection_curve(x[:2], x, 3.0, similarity="dot", replay_ratio=0.5)
    without = 0.5 * np.ones(8)
    mass = 0.5  # each of two, in units of the next task's
    replayed = energy(x, x[:2], 3.0, masses=torch.full((2,), mass), similarity="dot", normalize=False).numpy()
    together = -np.logaddexp(-3.0 * without, -3.0 * replayed) / 3.0
    assert found.kept[-1] == pytest.approx((without - together).mean())
