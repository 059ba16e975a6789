import math
from itertools import pairwise

import pytest
import torch

from hopfield_replay.denoisers import CallableDenoiser, ContinuousSchedule
from hopfield_replay.functional import energy, retrieve
from hopfield_replay.functional.diffusion import reconstruction_error
from hopfield_replay.functional.model_energy import elbo_weights, model_energy, timestep_of_beta, timesteps_between
from tests.functional.mixture import Mixture

CENTRES = torch.tensor([[1.0, 0.0, 0.5], [-1.0, 0.4, 0.0], [0.2, -1.2, -0.5], [1.4, 1.0, 0.0]], dtype=torch.float64)


def averaged(denoiser, x, steps, copies):
    """Model energy averaged over many noise draws: copies of the samples under other ids."""
    many = x.repeat(copies, 1)
    return model_energy(denoiser, many, steps, 0, chunk_size=len(many)).view(copies, len(x)).mean(0)


def test_the_optimal_denoiser_of_patterns_is_their_hopfield_retrieval():
    mixture, denoiser = Mixture(CENTRES, 0.0), Mixture(CENTRES, 0.0).preserving()
    noisy = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for step in (100, 400, 800):
        beta = denoiser.snr(step)
        signal = math.sqrt(beta / (1 + beta))
        expected = retrieve(noisy / signal, CENTRES, beta)
        torch.testing.assert_close(denoiser.predict_clean(noisy, step), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mixture.clean(noisy / signal, beta**-0.5), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["exploding", "preserving"])
def test_energy_of_a_normal_distribution(kind):
    """With x_0 ~ N(0, w^2): E|x - x0hat|^2 = (|x|^2 + d w^4 b) / (1 + w^2 b)^2 at SNR b, integrated by hand."""
    width, x = 0.7, torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
    denoiser = getattr(Mixture(torch.zeros(1, 3), width), kind)()
    low, high = 0.01, 50.0
    steps = (
        timesteps_between(denoiser, low, high, 40)
        if kind == "preserving"
        else torch.logspace(math.log10(high**-0.5), math.log10(low**-0.5), 40, dtype=torch.float64)
    )
    betas = [denoiser.snr(float(step)) for step in steps]
    low, high = min(betas), max(betas)

    def antiderivative(b):
        squares, w = x.square().sum(1), width**2
        return -squares / (w * (1 + w * b)) + 3 * (math.log(1 + w * b) + 1 / (1 + w * b))

    expected = 0.5 * (antiderivative(high) - antiderivative(low))
    got = averaged(denoiser, x, steps, copies=600)
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.03)


@pytest.mark.heavy
def test_energy_of_patterns_is_their_blurred_hopfield_energy():
    """F = beta E_eps[E_beta(x + eps / sqrt(beta))] - d / 2, the relation that the docstring states."""
    denoiser, beta = Mixture(CENTRES, 0.0).exploding(), 6.0
    x = torch.cat([CENTRES[:1], torch.tensor([[0.0, 0.0, 0.0], [2.0, -1.0, 0.3]])]).double()
    steps = torch.logspace(math.log10(beta**-0.5), 2, 50, dtype=torch.float64)
    got = averaged(denoiser, x, steps, copies=400)
    noise = torch.randn(20000, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    blurred = energy((x + noise / math.sqrt(beta)).reshape(-1, 3), CENTRES, beta).view(-1, 3).mean(0)
    torch.testing.assert_close(got, beta * blurred - 1.5, rtol=0.02, atol=0.06)


def test_energy_is_the_weighted_sum_of_the_timesteps():
    denoiser, x = Mixture(CENTRES, 0.1).preserving(), CENTRES.float()
    steps = [700, 50, 300, 150]
    terms = 0.5 * 3 * reconstruction_error(denoiser, x, steps, 4) * elbo_weights(denoiser, steps)
    torch.testing.assert_close(model_energy(denoiser, x, steps, 4), terms.sum(1))
    torch.testing.assert_close(
        model_energy(denoiser, x, steps, 4, ids=[9, 8, 7, 6]),
        model_energy(denoiser, x.flip(0), steps, 4, ids=[6, 7, 8, 9], chunk_size=1).flip(0),
    )


def test_weights_integrate_over_snr():
    denoiser = Mixture(CENTRES, 0.1).preserving()
    steps = timesteps_between(denoiser, 0.01, 100.0, 300)
    betas = torch.tensor([denoiser.snr(step) for step in steps], dtype=torch.float64)
    weights = elbo_weights(denoiser, steps)
    exact = (1 + betas.max()).log() - (1 + betas.min()).log()
    torch.testing.assert_close((weights / (1 + betas)).sum(), exact, rtol=1e-3, atol=0.0)
    shuffled = elbo_weights(denoiser, steps[::-1])
    torch.testing.assert_close(shuffled, weights.flip(0))


def test_timestep_and_beta():
    denoiser = Mixture(CENTRES, 0.1).preserving()
    for step in (0, 1, 500, 999):
        assert timestep_of_beta(denoiser, denoiser.snr(step)) == step
    steps = timesteps_between(denoiser, 0.01, 100.0, 8)
    ratios = [denoiser.snr(a) / denoiser.snr(b) for a, b in pairwise(steps)]
    assert len(steps) == 8
    assert max(ratios) / min(ratios) < 1.15
    assert denoiser.snr(steps[0]) == pytest.approx(100.0, rel=0.05)


def endless():
    return CallableDenoiser(lambda x, t: x, ContinuousSchedule(lambda t: 1.0, lambda t: t))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: timestep_of_beta(d, 1e9), ValueError, "outside the signal-to-noise ratios"),
        (lambda d: timestep_of_beta(d, -1.0), ValueError, "positive"),
        (lambda d: timestep_of_beta(endless(), 1.0), ValueError, "unbounded"),
        (lambda d: timestep_of_beta("ddpm", 1.0), TypeError, "denoiser"),
        (lambda d: timesteps_between(d, 2.0, 1.0, 4), ValueError, "below"),
        (lambda d: timesteps_between(d, 1.0, 2.0, 1), ValueError, "count"),
        (lambda d: elbo_weights(d, [5]), ValueError, "at least two"),
        (lambda d: elbo_weights(d, [5, 5]), ValueError, "at least two"),
        (lambda d: elbo_weights(endless(), [0.0, 1.0]), ValueError, "timestep 0.0 is inf"),
        (lambda d: model_energy(d, CENTRES, [5, 1000], 0), ValueError, "out of range"),
        (lambda d: model_energy(d, CENTRES, [5, 10], 0, draws=0), ValueError, "draws"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(Mixture(CENTRES, 0.1).preserving())


@pytest.mark.heavy
def test_draws_are_averaged():
    denoiser = Mixture(CENTRES, 0.1).exploding()
    grid = torch.logspace(-0.5, 2, 8, dtype=torch.float64)
    spread = [
        torch.stack([model_energy(denoiser, CENTRES, grid, seed, draws=n) for seed in range(40)]).std(0).mean()
        for n in (1, 4)
    ]
    assert 1.4 < float(spread[0] / spread[1]) < 2.8
