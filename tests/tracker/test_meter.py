"""What the tracker measures beyond energies and errors: draws, model energy, density, samples of another space."""

import numpy as np
import pytest
import torch

from hopfield_replay import ForgettingTracker, TaskSource
from hopfield_replay.functional import model_energy, reconstruction_error
from hopfield_replay.tracker.meter import ErrorMeter

IMAGES = torch.rand(12, 1, 3, 3, generator=torch.Generator().manual_seed(1))


class Shrinking:
    """A model whose errors depend on the noise, at timesteps of falling signal-to-noise ratio."""

    num_timesteps = 40

    def __init__(self, factor=0.5):
        self.factor = factor

    def noise(self, clean, timestep, noise):
        return clean + noise * self.snr(timestep) ** -0.5

    def predict_clean(self, noisy, timestep, condition=None):
        return self.factor * noisy

    def snr(self, timestep):
        return 4.0 * 0.8**timestep


def end(images=IMAGES, **options):
    tracker = ForgettingTracker(beta=1.0, probe_size=5, seed=3, **options)
    for factor in (0.5, 0.7):
        tracker.end_task(TaskSource([images, images + 0.0]), denoiser=Shrinking(factor))
    return tracker


def test_model_energy_is_that_of_the_function():
    tracker = end(timesteps=[2, 9, 30], model_energy=True, draws=3)
    probe = tracker.history[1]["probes"][0]
    x = torch.cat([IMAGES, IMAGES])[probe["ids"]]
    for name, factor in (("model_energy_start", 0.5), ("model_energy", 0.7)):
        expected = model_energy(Shrinking(factor), x, [2, 9, 30], 3, draws=3, ids=probe["ids"])
        np.testing.assert_allclose(probe[name], expected, rtol=1e-12)
    expected = reconstruction_error(Shrinking(0.7), x, [2, 9, 30], 3, draws=3, ids=probe["ids"])
    np.testing.assert_allclose(probe["error"], expected, rtol=1e-12)


def test_model_energy_only_where_it_is_asked_for():
    assert end().history[1]["probes"][0]["model_energy"] is None


def test_errors_are_those_of_the_samples_that_the_model_denoises():
    tracker = end(timesteps=[2], samples=lambda batch: batch[:, :, ::2, ::2])
    probe = tracker.history[0]["probes"][0]
    x = torch.cat([IMAGES, IMAGES])[probe["ids"]]
    expected = reconstruction_error(Shrinking(), x[:, :, ::2, ::2], [2], 3, ids=probe["ids"])
    np.testing.assert_allclose(probe["error"], expected, rtol=1e-12)
    assert probe["energy"].shape == (5,)  # in the space of the batch, not of the samples


def test_density_is_the_distance_to_the_tenth_other_training_sample():
    generator = torch.Generator().manual_seed(2)
    data, held_out = (torch.randn(n, 4, generator=generator) for n in (30, 6))
    for probe_source in (None, TaskSource([held_out])):
        tracker = ForgettingTracker(beta=1.0, probe_size=6)
        tracker.end_task(TaskSource([data]), probe_source=probe_source)
        probe = tracker.history[0]["probes"][0]
        rows = (probe["ids"] % 2**39).tolist()
        for row, found in zip(rows, probe["density"].tolist(), strict=True):
            x = (data if probe_source is None else held_out)[row].double().numpy()
            others = np.delete(data.double().numpy(), row, 0) if probe_source is None else data.double().numpy()
            assert found == pytest.approx(np.sort(np.linalg.norm(others - x, axis=1))[9])


def test_default_timesteps_are_shares_of_the_range():
    meter = ErrorMeter(Shrinking(), None, 0, lambda batch: batch)
    assert meter.timesteps == [4, 8, 12, 16, 20]
    errors, elements = meter.of_probes(IMAGES, torch.arange(12))
    assert errors.shape == (12, 5)
    assert elements == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws must be a whole number >= 1, got 0"),
        ({"model_energy": True, "timesteps": [3]}, r"integrates over at least two timesteps, got \[3\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ForgettingTracker(**options)


def test_a_denoiser_of_unknown_noise_levels_needs_timesteps():
    model = Shrinking()
    model.num_timesteps = None
    model.snr = lambda timestep: 1.0
    with pytest.raises(ValueError, match="no number of timesteps; pass timesteps"):
        ErrorMeter(model, None, 0, lambda batch: batch)


def test_reconstructions_are_those_of_the_errors():
    """Noise, condition, preparation and space of the samples are the same as where the error is measured."""

    class Adding(Shrinking):
        def predict_clean(self, noisy, timestep, condition=None):
            return 0.5 * noisy + condition[1].view(-1, 1, 1, 1)  # all of the batch, as the samples are none of it

    def double(batch):
        return (batch[0] * 2, batch[1])

    batch, ids = (IMAGES, torch.arange(12) % 3), torch.arange(40, 52)
    meter = ErrorMeter(Adding(), [2, 9], 3, double, samples=lambda batch: batch[0] + 1)
    errors, _ = meter.of_batch(batch, ids)
    noisy, clean = meter.reconstruct(batch, ids, 9)
    x = IMAGES * 2 + 1
    np.testing.assert_allclose((clean - x).square().flatten(1).mean(1), errors[:, 1], rtol=1e-5)
    torch.testing.assert_close(clean, 0.5 * noisy + (torch.arange(12) % 3).view(-1, 1, 1, 1))


def test_reconstructions_are_made_in_chunks_that_fit():
    class Small(Shrinking):
        """A device that holds three samples, and a condition that is only in part one row for each sample."""

        def predict_clean(self, noisy, timestep, condition=None):
            if len(noisy) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            names, shift, scale = condition
            assert len(names) == len(noisy)
            return scale * noisy + shift.view(-1, 1, 1, 1)

    batch = (IMAGES.half(), [str(i) for i in range(12)], torch.arange(12.0), torch.tensor(0.5))
    meter = ErrorMeter(Small(), [9], 3, lambda batch: batch)
    noisy, clean = meter.reconstruct(batch, torch.arange(12), 9)
    assert meter.chunk_size == 2
    assert noisy.dtype == clean.dtype == torch.float32
    torch.testing.assert_close(clean, 0.5 * noisy + torch.arange(12.0).view(-1, 1, 1, 1))
    errors, _ = meter.of_batch(batch, torch.arange(12))
    np.testing.assert_allclose((clean - IMAGES.half()).square().flatten(1).mean(1), errors[:, 0], rtol=1e-5)
