"""Guided networks of diffusers: what the scheduler gets is what a literal mixture of the predictions says."""

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from hopfield_replay.denoisers import CallableDenoiser, DiffusersDenoiser
from hopfield_replay.denoisers.diffusers import schedule_of
from hopfield_replay.functional import responsibilities
from hopfield_replay.guidance import MemoryGuidance
from tests.denoisers.networks import dit, images, text_unet, unet

MEMORY, CURRENT = images(5, seed=3) - 1, images(7, seed=4) + 1
LABELS = torch.tensor([0, 0, 1, 1, 1])


def literal(noisy, a, s, strength, prediction, kind, memory=MEMORY):
    """The guided prediction, computed as noise and turned back."""
    noisy, prediction = noisy.double(), prediction.double()
    beta = (a / s) ** 2
    y = (noisy / a).flatten(1)
    r, clean = torch.zeros(len(y)), torch.zeros_like(y)
    for row, point in enumerate(y):
        old, new = (
            torch.stack([-beta / 2 * (point - x).square().sum() for x in z.double().flatten(1)])
            for z in (memory, CURRENT)
        )
        old_density, new_density = (
            old.logsumexp(0) - torch.tensor(len(memory)).log(),
            new.logsumexp(0) - torch.tensor(7).log(),
        )
        r[row] = 1 / (1 + (1 - strength) / strength * (new_density - old_density).exp())
        clean[row] = old.softmax(0) @ memory.double().flatten(1)
    assert torch.allclose(responsibilities(y, memory.double(), beta) @ memory.double().flatten(1), clean)
    clean = clean.view_as(noisy)
    noise = (noisy - a * clean) / s
    target = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": a * noise - s * clean,
        "flow_prediction": noise - clean,
    }[kind]
    r = r.view(-1, 1, 1, 1).double()
    return (1 - r) * prediction + r * target


def guided(network, scheduler, **settings):
    settings = {"strength": 0.4, "probes": 0} | settings
    return MemoryGuidance(DiffusersDenoiser(network, scheduler), MEMORY, CURRENT, **settings)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize("share", [0.001, 0.6])
def test_the_network_returns_the_mixture_in_its_own_parametrisation(kind, share):
    network, t = unet(), 300
    if kind == "flow_prediction":
        scheduler, (a, s) = FlowMatchEulerDiscreteScheduler(), (0.7, 0.3)
    else:
        scheduler = DDPMScheduler(prediction_type=kind)
        level = scheduler.alphas_cumprod[t].double()
        a, s = float(level.sqrt()), float((1 - level).sqrt())
    noisy = a * torch.cat([MEMORY[:2], CURRENT[:2], (MEMORY[:1] + CURRENT[:1]) / 2]) + s * images(5, seed=5)
    with torch.no_grad():
        plain = network(noisy, t).sample
        with guided(network, scheduler, strength=share).steer():
            outputs = (
                network(noisy, t).sample,
                network(sample=noisy, timestep=torch.full((5,), t), return_dict=False)[0],
            )
        after = network(noisy, t).sample
    assert torch.equal(plain, after)  # the network is as it was
    assert torch.equal(*outputs)
    expected = literal(noisy, a, s, share, plain, kind)
    torch.testing.assert_close(outputs[0].double(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs[0], plain, atol=0.05)


@pytest.mark.heavy
@pytest.mark.parametrize(("strength", "steps"), [(0.0, 3), (1.0, 10)])
def test_a_pipeline_at_both_ends(strength, steps):
    """Strength 0 is the pipeline itself, to the bit; strength 1 returns stored samples."""
    pipeline = DDIMPipeline(unet(), DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)

    def run():
        images = pipeline(
            6, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), output_type="np"
        ).images
        return torch.from_numpy(images)

    memory = MEMORY.clamp(-1, 1)
    guidance = MemoryGuidance(DiffusersDenoiser(pipeline.unet, pipeline.scheduler), memory, CURRENT, strength=strength)
    plain = run()
    with guidance.steer():
        found = run()
    assert torch.equal(run(), plain)
    if strength == 0:
        assert torch.equal(found, plain)
    else:
        samples = found.permute(0, 3, 1, 2) * 2 - 1  # as the pipeline undoes it
        report = guidance.report(samples)
        assert report.memory_share == 1.0
        assert report.nearest_stored.max() < 0.02
        assert "100.0 % of 6 samples are memory-driven" in str(report)


def test_flow_matching_starts_from_pure_noise():
    network, scheduler = unet(), FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(8)
    x = images(6)
    with torch.no_grad(), guided(network, scheduler, strength=1.0).steer():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x).prev_sample
    assert torch.cdist(x.flatten(1), MEMORY.flatten(1)).amin(1).max() < 0.05


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers, numpy 2
@pytest.mark.parametrize("settings", [{"timestep_spacing": "leading"}, {}, {"use_karras_sigmas": True}])
def test_schedulers_that_scale_their_input(settings):
    """By default, and with the noise levels of Karras et al., their timesteps lie in between the schedule's."""
    network, scheduler = unet(), EulerDiscreteScheduler(**settings)
    scheduler.set_timesteps(20)
    assert bool((scheduler.timesteps != scheduler.timesteps.round()).any()) == ("timestep_spacing" not in settings)
    x = images(6) * scheduler.init_noise_sigma
    with torch.no_grad(), guided(network, scheduler, strength=1.0).steer():
        for t in scheduler.timesteps:
            x = scheduler.step(network(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    assert torch.cdist(x.flatten(1), MEMORY.flatten(1)).amin(1).max() < 0.05


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers, numpy 2
@pytest.mark.parametrize(
    ("settings", "close"), [({}, 1e-4), ({"use_karras_sigmas": True}, 1e-5), ({"use_exponential_sigmas": True}, 1e-5)]
)
def test_noise_levels_between_timesteps_are_the_samplers(settings, close):
    pytest.importorskip("scipy")
    for kind in (EulerDiscreteScheduler, HeunDiscreteScheduler):
        scheduler = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **settings)
        scheduler.set_timesteps(20)
        schedule, _ = schedule_of(scheduler)
        for timestep, sigma in zip(scheduler.timesteps.tolist(), scheduler.sigmas.tolist(), strict=False):
            signal, noise = schedule.interpolated(timestep)
            assert noise / signal == pytest.approx(sigma, rel=close)
            assert signal**2 + noise**2 == pytest.approx(1)


def test_a_network_called_between_two_timesteps():
    network, scheduler = unet(), DDPMScheduler()
    noisy, t = images(6), torch.tensor(400.25)
    with torch.no_grad():
        plain = network(noisy, t).sample
        with guided(network, scheduler).steer():
            found = network(noisy, t).sample
    low, high = (scheduler.alphas_cumprod[i].double() for i in (400, 401))
    ratio = ((1 - low) / low) ** 0.375 * ((1 - high) / high) ** 0.125  # of noise to signal
    a = float((1 + ratio**2) ** -0.5)
    expected = literal(noisy, a, float(ratio) * a, 0.4, plain, "epsilon")
    assert not torch.allclose(expected.float(), plain, atol=1e-3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_classifier_free_guidance_leaves_the_memory_its_share():
    network, scheduler = text_unet(), DDPMScheduler()
    noisy, text = images(3), torch.randn(6, 4, 12, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        plain = network(noisy.repeat(2, 1, 1, 1), 500, text).sample
        with guided(network, scheduler).steer():
            found = network(noisy.repeat(2, 1, 1, 1), 500, text).sample
    combined = [out.chunk(2)[0] + 5 * (out.chunk(2)[1] - out.chunk(2)[0]) for out in (plain, found)]
    level = float(scheduler.alphas_cumprod[500])
    expected = literal(noisy, level**0.5, (1 - level) ** 0.5, 0.4, combined[0], "epsilon")
    torch.testing.assert_close(combined[1].double(), expected, rtol=1e-4, atol=1e-4)


def test_a_learned_variance_is_left_alone():
    network, scheduler = dit(out_channels=2), DDPMScheduler()
    noisy, labels = images(4), torch.tensor([1, 2, 3, 4])
    network.eval()
    with torch.no_grad():
        plain = network(noisy, torch.full((4,), 400), labels).sample
        with guided(network, scheduler).steer():
            found = network(noisy, torch.full((4,), 400), labels).sample
    level = float(scheduler.alphas_cumprod[400])
    expected = literal(noisy, level**0.5, (1 - level) ** 0.5, 0.4, plain[:, :1], "epsilon")
    torch.testing.assert_close(found[:, :1].double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[:, 1:], plain[:, 1:])


def test_a_condition_is_steered_by_its_own_samples():
    network, scheduler = unet(), DDPMScheduler()
    noisy, asked = images(3), torch.tensor([1, 0, 5])
    guidance = guided(network, scheduler, labels=LABELS)
    with torch.no_grad():
        plain = network(noisy, 600).sample
        with guidance.given(asked).steer():
            found = network(noisy.repeat(2, 1, 1, 1), 600).sample
    assert torch.equal(*found.chunk(2))
    level = float(scheduler.alphas_cumprod[600])
    for row, label in enumerate(asked.tolist()):
        if label == 5:  # nothing is stored of it
            torch.testing.assert_close(found[row], plain[row])
            continue
        expected = literal(
            noisy[row, None], level**0.5, (1 - level) ** 0.5, 0.4, plain[row, None], "epsilon", MEMORY[label == LABELS]
        )
        torch.testing.assert_close(found[row, None].double(), expected, rtol=1e-4, atol=1e-4)


def test_current_samples_of_the_same_condition_count():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    one = guided(unet(), DDPMScheduler(), labels=LABELS, current_labels=labels).given(torch.tensor([1, 1]))
    alone = MemoryGuidance(one.denoiser, MEMORY[LABELS == 1], CURRENT[labels == 1], strength=0.4, probes=0)
    torch.testing.assert_close(one.predict_clean(images(2), 300), alone.predict_clean(images(2), 300))
    everything = guided(unet(), DDPMScheduler(), labels=LABELS).given(torch.tensor([1, 1]))
    alone = MemoryGuidance(one.denoiser, MEMORY[LABELS == 1], CURRENT, strength=0.4, probes=0)
    torch.testing.assert_close(everything.predict_clean(images(2), 300), alone.predict_clean(images(2), 300))


def test_as_a_denoiser_it_is_the_same_and_is_not_applied_twice():
    network, scheduler = unet(), DDPMScheduler()
    guidance, noisy = guided(network, scheduler), images()
    with torch.no_grad():
        before = guidance.predict_clean(noisy, 300)
        with guidance.steer() as same:
            within = guidance.predict_clean(noisy, 300)
            hooked = guidance.denoiser.predict_clean(noisy, 300)
    assert same is guidance
    torch.testing.assert_close(within, before, rtol=1e-4, atol=1e-5)
    assert torch.equal(within, hooked)
    assert guidance.snr(300) == guidance.denoiser.snr(300)
    assert not torch.allclose(before, guidance.denoiser.predict_clean(noisy, 300).detach(), atol=0.05)


def test_a_plain_module():
    class Plain(torch.nn.Module):
        def forward(self, x, t):
            return 0 * x

    network = Plain()
    guidance = MemoryGuidance(CallableDenoiser(network, torch.linspace(0.9, 0.1, 9)), MEMORY, CURRENT, strength=1.0)
    with guidance.steer():
        found = network(images(2), torch.tensor([8, 8]))
    assert not torch.equal(found, torch.zeros_like(found))


def test_half_precision_networks():
    network = unet().to(torch.bfloat16)
    with torch.no_grad(), guided(network, DDPMScheduler()).steer():
        assert network(images(2).bfloat16(), 300).sample.dtype == torch.bfloat16


def test_an_error_inside_leaves_the_network_as_it_was():
    network = unet()
    guidance = guided(network, DDPMScheduler())
    with torch.no_grad():
        plain = network(images(2), 300).sample
        broken = images(2)
        broken[1, 0, 0, 0] = torch.nan
        with pytest.raises(ValueError, match="NaN or infinite values in 1 of 2 rows"), guidance.steer():
            network(broken, 300)
        assert torch.equal(network(images(2), 300).sample, plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    network, scheduler = unet(), DDPMScheduler()
    expected = guided(network, scheduler).predict_clean(images(), 300)
    network.cuda()
    denoiser = DiffusersDenoiser(network, scheduler)
    guidance = MemoryGuidance(denoiser, MEMORY.cuda(), CURRENT.cuda(), strength=0.4, probes=16)
    assert guidance.predict_clean(images().cuda(), 300).device.type == "cuda"
    guidance = MemoryGuidance(denoiser, MEMORY.cuda(), CURRENT.cuda(), strength=0.4, probes=0)
    torch.testing.assert_close(guidance.predict_clean(images().cuda(), 300).cpu(), expected, rtol=1e-2, atol=1e-2)
