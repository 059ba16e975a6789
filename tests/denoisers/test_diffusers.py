import pytest
import torch
from torch import nn

from hopfield_replay.denoisers import Denoiser, DiffusersDenoiser
from hopfield_replay.functional.diffusion import reconstruction_error
from tests.denoisers.networks import images, text_unet, unet

diffusers = pytest.importorskip("diffusers")


class Oracle(nn.Module):
    """Answers what a perfect network would: the target that the training loop of each prediction type uses."""

    def __init__(self, clean, noise, scheduler):
        super().__init__()
        self.clean, self.noise, self.scheduler = clean, noise, scheduler

    def forward(self, sample, timestep, return_dict=True):
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return (self.noise,)
        if kind == "sample":
            return (self.clean,)
        return (self.scheduler.get_velocity(self.clean, self.noise, timestep),)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("step", [0, 500, 999])
def test_a_perfect_network_gives_the_signal_back(kind, name, step):
    scheduler = getattr(diffusers, name)(prediction_type=kind)
    clean, noise = images().double(), images(seed=1).double()
    denoiser = DiffusersDenoiser(Oracle(clean, noise, scheduler), scheduler)
    noisy = denoiser.noise(clean, step, noise)
    reference = scheduler.add_noise(clean, noise, torch.full((len(clean),), step))
    torch.testing.assert_close(noisy, reference, rtol=0, atol=1e-5)
    torch.testing.assert_close(denoiser.predict_clean(noisy, step), clean, rtol=0, atol=2e-3 if step == 999 else 1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_equals_the_schedulers_own_estimate_of_the_clean_sample(kind):
    scheduler = diffusers.DDIMScheduler(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(1000)
    network, noisy = unet(), images()
    with torch.no_grad():
        expected = scheduler.step(network(noisy, 321).sample, 321, noisy).pred_original_sample
        got = DiffusersDenoiser(network, scheduler).predict_clean(noisy, 321)
    torch.testing.assert_close(got, expected)


def test_snr_is_that_of_the_scheduler():
    scheduler = diffusers.DDPMScheduler()
    denoiser = DiffusersDenoiser(unet(), scheduler)
    assert isinstance(denoiser, Denoiser)
    assert denoiser.num_timesteps == 1000
    share = scheduler.alphas_cumprod[200].double()
    assert denoiser.snr(200) == pytest.approx(float(share / (1 - share)), rel=1e-12)


def test_network_keeps_flags_parameters_and_gradients():
    network = unet(dropout=0.5).train()
    network.mid_block.eval()
    flags = [module.training for module in network.modules()]
    denoiser = DiffusersDenoiser(network, diffusers.DDPMScheduler())
    first = reconstruction_error(denoiser, images(), [100, 500], 0)
    assert torch.equal(first, reconstruction_error(denoiser, images(), [100, 500], 0))
    assert [module.training for module in network.modules()] == flags
    assert all(weight.grad is None for weight in network.parameters())


def test_differentiable_in_the_noisy_samples():
    denoiser = DiffusersDenoiser(unet(), diffusers.DDPMScheduler())
    noisy = images().requires_grad_()
    denoiser.predict_clean(noisy, 100).sum().backward()
    assert noisy.grad is not None
    assert noisy.grad.abs().sum() > 0


def test_half_precision_network_takes_single_precision_samples():
    network = unet()
    scheduler = diffusers.DDPMScheduler()
    single = DiffusersDenoiser(network, scheduler).predict_clean(images(), 500)
    half = DiffusersDenoiser(network.to(torch.bfloat16), scheduler).predict_clean(images(), 500)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, single, rtol=0.05, atol=0.2)


LABELS = torch.arange(6) % 3


@pytest.mark.parametrize(
    "condition", [{"class_labels": LABELS}, LABELS, (LABELS,), {"image": images(), "digit": LABELS}]
)
def test_class_labels_are_found_by_name_or_by_what_they_are(condition):
    network = unet(num_class_embeds=3)
    denoiser = DiffusersDenoiser(network, diffusers.DDPMScheduler(prediction_type="sample"))
    expected = network.eval()(images(), 10, class_labels=LABELS).sample
    torch.testing.assert_close(denoiser.predict_clean(images(), 10, condition), expected)


def test_text_and_other_batch_items():
    network = text_unet()
    denoiser = DiffusersDenoiser(network, diffusers.DDPMScheduler(prediction_type="sample"))
    text = torch.randn(6, 5, 12)
    expected = network.eval()(images(), 10, encoder_hidden_states=text).sample
    for condition in ({"encoder_hidden_states": text}, {"prompt": text, "index": torch.arange(6)}, [text, ["a"] * 6]):
        torch.testing.assert_close(denoiser.predict_clean(images(), 10, condition), expected)


def test_unconditional_network_ignores_the_labels_of_the_batch():
    denoiser = DiffusersDenoiser(unet(), diffusers.DDPMScheduler())
    expected = denoiser.predict_clean(images(), 10)
    assert torch.equal(denoiser.predict_clean(images(), 10, torch.arange(6)), expected)
    assert torch.equal(denoiser.predict_clean(images(), 10, {"class_labels": torch.arange(6)}), expected)


def test_missing_and_ambiguous_conditions():
    scheduler = diffusers.DDPMScheduler()
    with pytest.raises(ValueError, match="needs class_labels, which is not in the batch"):
        DiffusersDenoiser(unet(num_class_embeds=3), scheduler).predict_clean(images(), 10)
    with pytest.raises(ValueError, match="could be any of"):
        DiffusersDenoiser(unet(num_class_embeds=3), scheduler).predict_clean(images(), 10, [torch.zeros(6).long()] * 2)
    with pytest.raises(ValueError, match=r"needs encoder_hidden_states.*\(6,\)"):
        DiffusersDenoiser(text_unet(), scheduler).predict_clean(images(), 10, torch.zeros(6))


def test_learned_variance():
    network, scheduler = unet(out_channels=2), diffusers.DDPMScheduler(prediction_type="sample")
    with pytest.raises(ValueError, match="learned_variance=True"):
        DiffusersDenoiser(network, scheduler).predict_clean(images(), 10)
    got = DiffusersDenoiser(network, scheduler, learned_variance=True).predict_clean(images(), 10)
    torch.testing.assert_close(got, network.eval()(images(), 10).sample[:, :1])
    with pytest.raises(ValueError, match="not twice"):
        DiffusersDenoiser(unet(), scheduler, learned_variance=True).predict_clean(images(), 10)


@pytest.mark.parametrize("step", [-1, 1000, 10.5])
def test_timesteps_out_of_range(step):
    with pytest.raises(ValueError, match="0 <= t < 1000"):
        DiffusersDenoiser(unet(), diffusers.DDPMScheduler()).predict_clean(images(), step)


def test_schedulers_without_noise_levels():
    for name in ("ScoreSdeVeScheduler", "EDMEulerScheduler"):
        with pytest.raises(ValueError, match="no alphas_cumprod"):
            DiffusersDenoiser(unet(), getattr(diffusers, name)())


def test_zero_terminal_snr():
    scheduler = diffusers.DDPMScheduler(rescale_betas_zero_snr=True)
    denoiser = DiffusersDenoiser(unet(), scheduler)
    assert denoiser.snr(999) == 0
    with pytest.raises(ValueError, match="ratio is 0"):
        denoiser.predict_clean(images(), 999)
    velocity = DiffusersDenoiser(unet(), scheduler, prediction_type="v_prediction")
    assert velocity.predict_clean(images(), 999).isfinite().all()


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="Module"):
        DiffusersDenoiser(lambda x, t: x, diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match="prediction_type"):
        DiffusersDenoiser(unet(), diffusers.DDPMScheduler(), prediction_type="noise")


class Compiled(nn.Module):
    """Wraps a network as torch.compile does: another signature, the attributes of the original."""

    def __init__(self, network):
        super().__init__()
        self._orig_mod = network

    def __getattr__(self, name):
        return super().__getattr__(name) if name == "_orig_mod" else getattr(self._orig_mod, name)

    def __call__(self, *args, **kwargs):
        return self._orig_mod(*args, **kwargs)


def test_a_compiled_network():
    network, scheduler = unet(num_class_embeds=3), diffusers.DDPMScheduler()
    expected = DiffusersDenoiser(network, scheduler).predict_clean(images(), 10, LABELS)
    got = DiffusersDenoiser(Compiled(network), scheduler).predict_clean(images(), 10, LABELS)
    torch.testing.assert_close(got, expected)
