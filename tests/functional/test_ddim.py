import math

import pytest
import torch

from hopfield_replay.functional.diffusion import ddim_denoise, multistep_reconstruction_error, reconstruction_error
from tests.functional.mixture import Mixture

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_follows_the_probability_flow_of_a_normal_distribution():
    """The exact flow of N(0, w^2) scales y by w / sqrt(w^2 + sigma^2)."""
    width, sigma = 0.5, 3.0
    denoiser = Mixture(torch.zeros(1, 4), width).exploding()
    path = torch.logspace(math.log10(sigma), -3, 500, dtype=torch.float64)
    expected = X * width / math.sqrt(width**2 + sigma**2)
    torch.testing.assert_close(ddim_denoise(denoiser, X, path), expected, rtol=2e-2, atol=1e-3)


def test_is_the_same_as_the_ddim_scheduler():
    diffusers = pytest.importorskip("diffusers")
    denoiser = Mixture(torch.eye(4), 0.2).preserving()
    scheduler = diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(20)
    sample = X.clone()
    for step in scheduler.timesteps:
        output = scheduler.step(denoiser.predict(sample, int(step), None), step, sample)
        sample = output.prev_sample
    got = ddim_denoise(denoiser, X, scheduler.timesteps.tolist())
    torch.testing.assert_close(got, output.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_one_step_is_the_reconstruction_error():
    denoiser = Mixture(torch.eye(4), 0.2).preserving()
    once = multistep_reconstruction_error(denoiser, X, [100, 600], 3, steps=1, chunk_size=4)
    torch.testing.assert_close(once, reconstruction_error(denoiser, X, [100, 600], 3))


def test_several_steps_equal_a_literal_loop_and_keep_the_pairing():
    denoiser = Mixture(torch.eye(4), 0.2).preserving()
    start = torch.empty(0)

    class Keeping:
        num_timesteps, predict_clean, snr = denoiser.num_timesteps, denoiser.predict_clean, denoiser.snr

        def noise(self, clean, timestep, noise):
            nonlocal start
            if len(clean) == len(X):
                start = denoiser.noise(clean, timestep, noise)
            return denoiser.noise(clean, timestep, noise)

    got = multistep_reconstruction_error(Keeping(), X, [600], 3, steps=3)
    y = start
    for step, following in ((600, 400), (400, 200)):
        beta, next_beta = denoiser.snr(step), denoiser.snr(following)
        a, s = math.sqrt(beta / (1 + beta)), math.sqrt(1 / (1 + beta))
        clean = denoiser.predict_clean(y, step)
        noise = (y - a * clean) / s
        y = math.sqrt(next_beta / (1 + next_beta)) * clean + math.sqrt(1 / (1 + next_beta)) * noise
    expected = (denoiser.predict_clean(y, 200) - X).square().mean(1, keepdim=True)
    torch.testing.assert_close(got, expected)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    again = multistep_reconstruction_error(denoiser, X[order], [600], 3, steps=3, ids=order, chunk_size=2)
    torch.testing.assert_close(again, got[order])


def test_more_steps_than_timesteps():
    denoiser = Mixture(torch.eye(4), 0.2).preserving()
    many = multistep_reconstruction_error(denoiser, X, [3, 0], 3, steps=50)
    torch.testing.assert_close(many[:, 1:], reconstruction_error(denoiser, X, [0], 3))
    assert many.isfinite().all()


def test_bad_paths():
    denoiser = Mixture(torch.eye(4), 0.2).exploding()
    with pytest.raises(ValueError, match="must fall"):
        ddim_denoise(denoiser, X, [0.1, 0.2])
    with pytest.raises(ValueError, match="no noise"):
        ddim_denoise(denoiser, X, [0.1, 0.0])
    with pytest.raises(ValueError, match="steps"):
        multistep_reconstruction_error(denoiser, X, [0.1], 0, steps=0)
