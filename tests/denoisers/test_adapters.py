"""Every kind of network with every kind of scheduler and prediction gives a known signal back."""

import pytest
import torch

from hopfield_replay.denoisers import (
    CallableDenoiser,
    ContinuousSchedule,
    DiffusersDenoiser,
    FlowSchedule,
    VarianceSchedule,
)
from hopfield_replay.functional.diffusion import reconstruction_error
from tests.denoisers.networks import dit, images, text_unet, transformer, unet

diffusers = pytest.importorskip("diffusers")

LABELS = torch.arange(6) % 10
NETWORKS = {
    "UNet2DModel": (unet, None),
    "UNet2DModel with classes": (lambda: unet(num_class_embeds=10), LABELS),
    "UNet2DConditionModel": (text_unet, torch.zeros(6, 3, 12)),
    "DiTTransformer2DModel": (dit, LABELS),
    "Transformer2DModel": (transformer, LABELS),
}
SCHEDULERS = [
    ("DDPMScheduler", "epsilon"),
    ("DDPMScheduler", "sample"),
    ("DDPMScheduler", "v_prediction"),
    ("DDIMScheduler", "epsilon"),
    ("DDIMScheduler", "sample"),
    ("DDIMScheduler", "v_prediction"),
    ("EulerDiscreteScheduler", "epsilon"),
    ("EulerDiscreteScheduler", "v_prediction"),
    ("FlowMatchEulerDiscreteScheduler", "flow_prediction"),
]
STEP = 400


def by_hand(scheduler, clean, noise):
    """What a training loop with this scheduler shows the network, and the target it trains it on."""
    times = torch.full((len(clean),), STEP)
    if hasattr(scheduler, "scale_noise"):
        scheduler.timesteps, scheduler.sigmas = torch.tensor([float(STEP)]), torch.tensor([STEP / 1000])
        return scheduler.scale_noise(clean, times.float(), noise), noise - clean
    shown = scheduler.add_noise(clean, noise, times)
    if hasattr(scheduler, "sigmas"):
        shown = scheduler.scale_model_input(shown, times[0])
    level = scheduler.alphas_cumprod[STEP].double()
    velocity = level.sqrt() * noise - (1 - level).sqrt() * clean
    return shown, {"epsilon": noise, "sample": clean, "v_prediction": velocity}[scheduler.config.prediction_type]


@pytest.mark.heavy
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("scheduler", "prediction"), SCHEDULERS)
def test_denoises_a_known_signal(name, scheduler, prediction):
    build, condition = NETWORKS[name]
    network, settings = build(), {} if prediction == "flow_prediction" else {"prediction_type": prediction}
    scheduler = getattr(diffusers, scheduler)(**settings)
    clean, noise = images(), images(seed=1)
    shown, target = by_hand(scheduler, clean, noise)
    seen = []

    def answer(module, args, kwargs, output):
        seen.append(args[0])
        assert output[0].shape == clean.shape
        return (target,)

    network.register_forward_hook(answer, with_kwargs=True)
    denoiser = DiffusersDenoiser(network, scheduler)
    noisy = denoiser.noise(clean, STEP, noise)
    torch.testing.assert_close(denoiser.predict_clean(noisy, STEP, condition).float(), clean, rtol=0, atol=1e-5)
    torch.testing.assert_close(seen[0], shown, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_euler_estimates_what_its_own_step_does(kind):
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type=kind)
    network = unet()
    denoiser = DiffusersDenoiser(network, scheduler)
    sigma = ((1 - scheduler.alphas_cumprod[STEP]) / scheduler.alphas_cumprod[STEP]).sqrt()
    with torch.no_grad():
        spread = images() + sigma * images(seed=1)
        shown = scheduler.scale_model_input(spread, torch.tensor(float(STEP)))
        output = network(shown, STEP).sample
        expected = scheduler.step(output, torch.tensor(float(STEP)), spread).pred_original_sample
        got = denoiser.predict_clean(denoiser.noise(images(), STEP, images(seed=1)), STEP)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_flow_network_sees_its_own_time():
    network, times = unet(), []
    network.register_forward_pre_hook(lambda _, args, kwargs: times.append(kwargs["timestep"]), with_kwargs=True)
    denoiser = DiffusersDenoiser(network, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    denoiser.predict_clean(images(), 250.5)
    assert torch.equal(times[0], torch.full((6,), 250.5))
    assert denoiser.snr(250) == pytest.approx(9.0)
    assert denoiser.snr(0) == float("inf")
    with pytest.raises(ValueError, match="0 <= t < 1000"):
        denoiser.snr(1000)


def test_continuous_log_sigma_timesteps_are_refused():
    scheduler = diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    with pytest.raises(ValueError, match="log-sigmas"):
        DiffusersDenoiser(unet(), scheduler)


def test_averaged_weights_of_an_ema_model():
    from diffusers.training_utils import EMAModel

    network = unet()
    average = EMAModel(network.parameters())
    scheduler = diffusers.DDPMScheduler()
    expected = DiffusersDenoiser(network, scheduler).predict_clean(images(), STEP)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    got = DiffusersDenoiser(network, scheduler, average=average).predict_clean(images(), STEP)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(DiffusersDenoiser(network, scheduler).predict_clean(images(), STEP), expected)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    with pytest.raises(TypeError, match="EMAModel"):
        DiffusersDenoiser(network, scheduler, average=network)


def test_autocast_gives_single_precision_errors():
    denoiser = DiffusersDenoiser(unet(), diffusers.DDPMScheduler())
    exact = reconstruction_error(denoiser, images(), [300], 0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = reconstruction_error(denoiser, images(), [300], 0)
        assert denoiser.predict_clean(images(), 300).dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_model_on_the_gpu_and_samples_on_the_cpu():
    network, scheduler = unet(), diffusers.DDPMScheduler()
    expected = reconstruction_error(DiffusersDenoiser(network, scheduler), images(), [300], 0)
    network.cuda()
    got = reconstruction_error(DiffusersDenoiser(network, scheduler), images(), [300], 0)
    assert got.device.type == "cpu"
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize(
    ("schedule", "step", "amounts"),
    [
        (torch.linspace(0.9, 0.1, 10, dtype=torch.float64), 5, (0.4555555555555556**0.5, 0.5444444444444444**0.5)),
        (FlowSchedule(100), 25, (0.75, 0.25)),
        (ContinuousSchedule(lambda t: 1.0, lambda t: t), 0.3, (1.0, 0.3)),
    ],
    ids=["discrete", "flow", "variance exploding"],
)
def test_callable_denoises_a_known_signal(kind, schedule, step, amounts):
    clean, noise = images().double(), images(seed=1).double()
    a, s = amounts
    target = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": a * noise - s * clean,
        "flow_prediction": noise - clean,
    }[kind]

    def model(x, t):
        torch.testing.assert_close(x, a * clean + s * noise)
        assert t.shape == (6,)
        assert (t == step).all()
        assert t.dtype == (torch.int64 if isinstance(schedule, torch.Tensor) else torch.float64)
        return target

    denoiser = CallableDenoiser(model, schedule, prediction_type=kind)
    noisy = denoiser.noise(clean, step, noise)
    torch.testing.assert_close(denoiser.predict_clean(noisy, step), clean)
    assert denoiser.snr(step) == pytest.approx(a**2 / s**2)


def test_callable_module_and_its_methods_run_in_eval_mode():
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, t):
            return self.drop(x)

    module = Wrapper()
    for model in (module, module.forward):
        denoiser = CallableDenoiser(model, torch.tensor([0.5]), prediction_type="sample")
        assert torch.equal(denoiser.predict_clean(torch.ones(1, 8, dtype=torch.float64), 0), torch.ones(1, 8).double())
        assert module.training
        assert module.drop.training


def test_callable_condition():
    denoiser = CallableDenoiser(
        lambda x, t, condition: x * 0 + condition["y"][:, None], torch.tensor([0.5]), prediction_type="sample",
        conditional=True,
    )  # fmt: skip
    x = torch.arange(4.0)[:, None].expand(4, 3)
    errors = reconstruction_error(denoiser, x, [0], 0, condition={"y": torch.arange(4.0)}, chunk_size=3)
    assert torch.equal(errors, torch.zeros(4, 1).double())
    with pytest.raises(ValueError, match="conditional"):
        reconstruction_error(denoiser, x, [0], 0)


@pytest.mark.parametrize(
    ("model", "schedule", "error", "message"),
    [
        (3, torch.tensor([0.5]), TypeError, "callable"),
        (abs, [0.5], TypeError, "alphas_cumprod"),
        (abs, torch.tensor([[0.5]]), ValueError, r"\(T,\)"),
        (abs, torch.tensor([0.1, 0.5]), ValueError, "not rise"),
        (abs, torch.tensor([1.5]), ValueError, r"\[0, 1\]"),
    ],
)
def test_bad_callables_and_schedules(model, schedule, error, message):
    with pytest.raises(error, match=message):
        CallableDenoiser(model, schedule)


def test_a_model_of_another_shape():
    denoiser = CallableDenoiser(lambda x, t: x[:, :1], torch.tensor([0.5]))
    with pytest.raises(ValueError, match="they must be the same"):
        denoiser.predict_clean(torch.zeros(2, 3, 4, 4), 0)


@pytest.mark.parametrize(
    ("levels", "timestep", "message"),
    [
        ([1.0, 0.5], 0.5, "one has no noise or no signal"),
        ([0.5, 0.0], 0.5, "one has no noise or no signal"),
        ([0.9, 0.5], 1.5, "out of range"),
        ([0.9, 0.5], -0.5, "out of range"),
    ],
)
def test_no_noise_level_between_these(levels, timestep, message):
    with pytest.raises(ValueError, match=message):
        VarianceSchedule(torch.tensor(levels)).interpolated(timestep)
    assert VarianceSchedule(torch.tensor(levels)).interpolated(1) == VarianceSchedule(torch.tensor(levels)).amounts(1)
