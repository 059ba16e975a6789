import pytest
import torch
import torch.nn.functional as F

from hopfield_replay.denoisers.targets import TARGETS, read_target

N, D = 8, 256


def weighted(guess, wanted):
    return (torch.linspace(0.1, 5, len(guess)) * (guess - wanted).square().mean(1)).sum()


def masked(guess, wanted):
    return ((guess - wanted).square() * (torch.arange(guess.shape[1]) % 3 == 0)).mean()


def clamped(guess, wanted):
    return F.mse_loss(guess.clamp(-1, 1), wanted)


def beside_another(guess, wanted):
    return F.mse_loss(guess, wanted) + 0.03 * guess.abs().mean()


def pixels(guess, wanted):
    return ((guess - wanted).square() * torch.linspace(0.2, 3, guess.shape[1])).mean()


LOSSES = [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, weighted, masked, clamped, beside_another, pixels]


def situation(seed, kind="vp"):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(N, D, generator=generator) * 2 - 1
    noise, answer = torch.randn(2, N, D, generator=generator)
    u = torch.linspace(0.15, 0.85, N, dtype=torch.float64)
    signal, amount = {"vp": ((1 - u).sqrt(), u.sqrt()), "flow": (1 - u, u)}[kind]
    return clean, noise, answer, signal, amount


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("target", [t for t in TARGETS if t.name != "preconditioned sample"], ids=lambda t: t.name)
@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_the_target_of_every_loss(target, loss, kind):
    clean, noise, answer, signal, amount = situation(3, kind)
    p, q = torch.tensor([target.weights(a, s, 1.0) for a, s in zip(signal.tolist(), amount.tolist(), strict=True)]).T
    wanted = p[:, None] * clean + q[:, None] * noise
    answer = answer.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(answer, wanted), answer)
    found = read_target(answer, gradient, clean, noise, signal, amount)
    assert found.target is target


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_preconditioned(width):
    clean, noise, answer, *_ = situation(0)
    sigma = torch.linspace(0.1, 3, N, dtype=torch.float64)
    a = 1 / (sigma**2 + width**2).sqrt()
    skip, out = width**2 / (sigma**2 + width**2), sigma * width / (sigma**2 + width**2).sqrt()
    wanted = (clean - skip[:, None] * (clean + sigma[:, None] * noise)) / out[:, None]
    found = read_target(answer, answer - wanted, clean, noise, a, a * sigma, width)
    assert found.target.name == "preconditioned sample"
    noisy = a[:, None] * (clean + sigma[:, None] * noise)
    for row in range(N):
        back = found.target.clean(wanted[row], noisy[row], float(a[row]), float(a[row] * sigma[row]), width)
        torch.testing.assert_close(back, clean[row].double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_clean_is_the_inverse(target):
    clean, noise, _, signal, amount = situation(1)
    for row in range(N):
        a, s = float(signal[row]), float(amount[row])
        p, q = target.weights(a, s, 1.0)
        back = target.clean(p * clean[row] + q * noise[row], a * clean[row] + s * noise[row], a, s)
        torch.testing.assert_close(back, clean[row], rtol=1e-4, atol=1e-4)


def test_an_answer_of_zeros_takes_the_usual_one_of_those_that_differ_by_a_factor():
    clean, noise, answer, signal, amount = situation(2)
    zero = torch.zeros_like(answer)
    assert read_target(zero, zero - noise, clean, noise, signal, amount).target.name == "epsilon"  # and not the score
    assert read_target(zero, noise, clean, noise, signal, amount).target.name in ("score", "minus epsilon")


def test_half_precision():
    clean, noise, answer, signal, amount = situation(4)
    gradient = ((answer - clean) / 1e3).to(torch.bfloat16)
    assert read_target(answer.to(torch.bfloat16), gradient, clean, noise, signal, amount).target.name == "sample"


@pytest.mark.parametrize("wanted", [
    lambda clean, noise: torch.randn(N, D, generator=torch.Generator().manual_seed(9)),
    lambda clean, noise: 0.5 * clean + 0.5 * noise,
    lambda clean, noise: clean.flip(0),
])  # fmt: skip
def test_what_is_none_of_them_is_none(wanted):
    clean, noise, answer, signal, amount = situation(5)
    found = read_target(answer, answer - wanted(clean, noise), clean, noise, signal, amount)
    assert found.target is None
    assert "," in found.said()


def test_two_that_cannot_be_told_apart_are_none():
    """Tiny samples under an absolute error: noise and flow have the same signs everywhere."""
    clean, noise, answer, signal, amount = situation(6)
    clean = clean * 1e-4
    found = read_target(answer, (answer - noise).sign(), clean, noise, signal, amount)
    assert found.target is None
    assert read_target(answer, answer - noise, clean * 1e4, noise, signal, amount).target.name == "epsilon"


@pytest.mark.parametrize("gradient", [torch.zeros(N, D), torch.full((N, D), torch.nan)])
def test_no_gradient_says_nothing(gradient):
    clean, noise, answer, signal, amount = situation(7)
    assert read_target(answer, gradient, clean, noise, signal, amount).target is None


def test_what_an_answer_does_not_say_is_an_error():
    epsilon = TARGETS[0]
    with pytest.raises(ValueError, match="prediction of epsilon says nothing about the clean sample"):
        epsilon.clean(torch.ones(2), torch.ones(2), 0.0, 1.0)


class TestLeftOut:
    """Which elements the loss does not count."""

    def share(self, spoil):
        clean, noise, answer, signal, amount = situation(8)
        found = read_target(answer, spoil(answer - noise), clean, noise, signal, amount)
        assert found.target.name == "epsilon"
        return found.left_out

    def test_a_mask(self):
        assert self.share(lambda gradient: gradient * (torch.arange(D) % 4 > 0)) == 0.25

    def test_the_end_of_each_sequence(self):
        lengths = torch.arange(N)[:, None] * 8 + 100
        share = self.share(lambda gradient: gradient * (torch.arange(D) < lengths))
        assert share == pytest.approx(1 - float(lengths.double().mean()) / D)

    def test_nothing(self):
        assert self.share(lambda gradient: gradient) == 0

    def test_what_half_precision_rounds_to_zero(self):
        smallest = torch.finfo(torch.float16).smallest_normal / 1024

        def rounded(gradient):
            return (gradient * smallest * 2).half().float()

        assert 0.1 < float((rounded(torch.randn(D)) == 0).float().mean()) < 0.5
        assert self.share(rounded) == 0

    def test_samples_without_a_weight(self):
        assert self.share(lambda gradient: gradient * (torch.arange(N)[:, None] > 2)) == 0

    @pytest.mark.slow
    def test_of_large_images(self):
        """More numbers than the quantiles of older torch take."""
        generator = torch.Generator().manual_seed(9)
        clean, noise, answer = torch.randn(3, 6, 3, 1024, 1024, generator=generator)
        half = torch.full((6,), 0.5**0.5)
        gradient = (answer - noise) * (torch.arange(1024) >= 256)
        found = read_target(answer, gradient, clean, noise, half, half)
        assert found.target.name == "epsilon"
        assert found.left_out == pytest.approx(0.25, abs=0.01)
