import math

import pytest
import torch

from hopfield_replay.denoisers import CallableDenoiser, ContinuousSchedule, FlowSchedule
from hopfield_replay.functional.noise_levels import default_timesteps, timestep_of


def denoiser(schedule):
    return CallableDenoiser(lambda x, t: x, schedule)


BARS = torch.linspace(0.999, 0.001, 300, dtype=torch.float64)


@pytest.mark.parametrize("step", [0, 1, 150, 298, 299])
def test_whole_timesteps(step):
    bar = float(BARS[step])
    assert timestep_of(denoiser(BARS), bar / (1 - bar)) == step


@pytest.mark.parametrize("end", [1, 1000])
@pytest.mark.parametrize("share", [0.013, 0.25, 0.9])
def test_continuous_timesteps(end, share):
    found = timestep_of(denoiser(FlowSchedule(end)), ((1 - share) / share) ** 2)
    assert found == pytest.approx(share * end, rel=1e-6)


@pytest.mark.parametrize("sigma", [0.004, 0.5, 40.0])
def test_noise_levels_without_bounds(sigma):
    exploding = denoiser(ContinuousSchedule(lambda t: 1.0, lambda t: t))
    logarithmic = denoiser(ContinuousSchedule(lambda t: 1.0, lambda t: math.log(1 + t)))
    assert timestep_of(exploding, sigma**-2) == pytest.approx(sigma, rel=1e-6)
    assert timestep_of(logarithmic, 0.25) == pytest.approx(math.e**2 - 1, rel=1e-6)


def test_what_it_has_nowhere():
    assert timestep_of(denoiser(BARS), 1e9) is None
    assert timestep_of(denoiser(torch.tensor([0.9, 0.1])), 1.0) is None  # between two whole timesteps
    assert timestep_of(denoiser(ContinuousSchedule(lambda t: 1.0, lambda t: 1.0)), 4.0) is None


def test_defaults():
    assert default_timesteps(denoiser(BARS)) == [30, 60, 90, 120, 150]
    assert default_timesteps(denoiser(FlowSchedule(1))) == [0.1, 0.2, 0.3, 0.4, 0.5]
    levels = default_timesteps(denoiser(ContinuousSchedule(lambda t: 1.0, lambda t: t)))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bars = (1 - betas).cumprod(0)[[100, 200, 300, 400, 500]]
    assert levels == pytest.approx(((1 - bars) / bars).sqrt().tolist(), rel=0.01)  # the noise levels of DDPM there
