import numpy as np
import pytest
import torch

from hopfield_replay.denoisers.mixing import looks_like_noise, mixture


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def samples(n=6, shape=(3, 5), seed=0):
    return torch.rand(n, *shape, generator=generator(seed)), torch.randn(n, *shape, generator=generator(seed + 99))


def test_amounts_are_those_of_least_squares_for_each_sample():
    clean, noise = samples()
    shown = torch.randn(6, 3, 5, generator=generator(7))
    found = mixture(shown, clean, noise)
    for row in range(6):
        design = np.stack([clean[row].flatten(), noise[row].flatten(), np.ones(15)], 1).astype(np.float64)
        expected, *_ = np.linalg.lstsq(design, shown[row].flatten().double().numpy(), rcond=None)
        got = [float(found.signal[row]), float(found.noise[row]), float(found.offset[row])]
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
    assert not found.exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5), (64,), (2, 8, 8)])
def test_exact_mixtures(dtype, shape):
    clean, noise = samples(shape=shape)
    a, s = torch.linspace(0.1, 0.9, 6), torch.linspace(0.9, 0.2, 6)
    across = (-1, *[1] * len(shape))
    shown = (a.view(across) * (2 * clean - 1) + s.view(across) * noise).to(dtype)
    found = mixture(shown, clean, noise)
    assert found.exact
    close = 1e-5 if dtype in (torch.float32, torch.float64) else 2e-2
    torch.testing.assert_close(found.signal, 2 * a.double(), rtol=close, atol=close)
    torch.testing.assert_close(found.offset, -a.double(), rtol=close, atol=close)
    torch.testing.assert_close(found.noise, s.double(), rtol=close, atol=close)


def test_few_numbers_and_flat_samples():
    clean, noise = samples(shape=(2,))
    found = mixture(0.5 * clean + 0.2 * noise, clean, noise)
    assert found.exact
    torch.testing.assert_close(found.signal, torch.full((6,), 0.5, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    clean, noise = torch.zeros(3, 8), torch.randn(3, 8, generator=generator())
    assert not mixture(noise, clean, noise).usable.any()
    assert not mixture(noise, clean, noise).exact


@pytest.mark.parametrize("change", [
    lambda shown, clean, noise: shown + 0.01 * torch.randn(shown.shape, generator=generator(5)),
    lambda shown, clean, noise: shown + 0.05 * clean.flip(0),
    lambda shown, clean, noise: shown.flip(-1),
    lambda shown, clean, noise: shown.clamp(-1, 1),
])  # fmt: skip
def test_what_is_no_mixture_is_told(change):
    clean, noise = samples(shape=(64,))
    assert not mixture(change(0.6 * clean + 0.8 * noise, clean, noise), clean, noise).exact


class TestNoise:
    def test_noise_is_hardly_ever_refused(self):
        refused = 0
        for seed in range(300):
            clean, noise = samples(8, (64,), seed)
            refused += not looks_like_noise(noise, clean).normal
        assert refused == 0

    @pytest.mark.parametrize(("change", "reason"), [
        (lambda noise, clean: noise + 0.3, "mean"),
        (lambda noise, clean: 1.3 * noise, "variance"),
        (lambda noise, clean: noise + 1.5 * (clean - clean.mean()), "variance|correlation with the samples"),
        (lambda noise, clean: 0.8 * noise + 2.0 * (clean - clean.mean()), "correlation with the samples"),
        (lambda noise, clean: (noise + noise.roll(1, 1)) / 2**0.5, "between neighbours"),
        (lambda noise, clean: noise.sign(), "beyond one standard deviation"),
        (lambda noise, clean: (clean - 0.5) * 12**0.5, "correlation|deviation"),
    ])  # fmt: skip
    def test_what_is_none_is_told_with_the_reason(self, change, reason):
        clean, noise = samples(32, (64,))
        verdict = looks_like_noise(change(noise, clean), clean)
        assert not verdict.normal
        assert __import__("re").search(reason, verdict.reason)
