"""Found and given denoisers are held against the module's own training step, before a weight is changed."""

import math
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from hopfield_replay import ForgettingMonitor
from hopfield_replay.denoisers import CallableDenoiser, DiffusersDenoiser, FlowSchedule
from hopfield_replay.functional import reconstruction_error
from hopfield_replay.functional._paired_noise import paired_noise
from tests.denoisers.networks import unet
from tests.lightning.small import Images, image_of, loader, trainer

diffusers = pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]  # lightning; tiny data needs none


class Plain(LightningModule):
    """A diffusers network and its scheduler, used as they say."""

    prediction = "epsilon"
    says = None  # what speaks against the scheduler

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.unet = unet()
        self.scheduler = diffusers.DDPMScheduler(num_train_timesteps=100, prediction_type=self.prediction)

    def training_step(self, batch, batch_idx):
        x = image_of(batch)
        noise, t = torch.randn_like(x), torch.randint(0, 100, (len(x),))
        return F.mse_loss(self.unet(self.scheduler.add_noise(x, noise, t), t).sample, noise)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.02)

    def amounts(self, t):
        bar = float((1 - self.scheduler.betas.double())[: int(t) + 1].prod())
        return math.sqrt(bar), math.sqrt(1 - bar)

    def by_hand(self, x, noise, t):
        a, s = self.amounts(t)
        noisy = a * x + s * noise
        return (noisy - s * self.ask(noisy, t)) / a, x

    def ask(self, noisy, t, label=None):
        with torch.no_grad():
            return self.unet(noisy, torch.full((len(noisy),), t)).sample


class Velocity(Plain):
    prediction = "v_prediction"

    def training_step(self, batch, batch_idx):
        x = image_of(batch)
        noise, t = torch.randn_like(x), torch.randint(0, 100, (len(x),))
        guess = self.unet(self.scheduler.add_noise(x, noise, t), t, return_dict=False)[0]
        return F.mse_loss(guess, self.scheduler.get_velocity(x, noise, t))

    def by_hand(self, x, noise, t):
        a, s = self.amounts(t)
        noisy = a * x + s * noise
        return a * noisy - s * self.ask(noisy, t), x


class Doubled(Plain):
    says = r"training_step noises 2 \* samples -1"

    def training_step(self, batch, batch_idx):
        return super().training_step(image_of(batch) * 2 - 1, batch_idx)

    def by_hand(self, x, noise, t):
        return super().by_hand(2 * x - 1, noise, t)


class TeachesX0(Plain):
    says = r"training_step teaches sample \(cosine 1.00\), the denoiser takes it for epsilon"

    def training_step(self, batch, batch_idx):
        x = image_of(batch)
        noise, t = torch.randn_like(x), torch.randint(0, 100, (len(x),))
        return F.mse_loss(self.unet(self.scheduler.add_noise(x, noise, t), t).sample, x)

    def by_hand(self, x, noise, t):
        a, s = self.amounts(t)
        return self.ask(a * x + s * noise, t), x


class SameChannels(Plain):
    """Latents with as many channels as the pixels, and as large."""

    says = "training_step noises other samples"

    def __init__(self):
        super().__init__()
        self.vae = nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        return super().training_step(self.vae(image_of(batch)), batch_idx)

    def by_hand(self, x, noise, t):
        return super().by_hand(self.vae(x), noise, t)


class OwnAlphas(Plain):
    says = r"which the denoiser does at no timestep|training_step shows the network time"

    def __init__(self):
        super().__init__()
        self.register_buffer("alphas_bar", (1 - torch.linspace(0.001, 0.1, 100)).cumprod(0))

    def training_step(self, batch, batch_idx):
        x = image_of(batch)
        noise, t = torch.randn_like(x), torch.randint(0, 100, (len(x),))
        bar = self.alphas_bar[t].view(-1, 1, 1, 1)
        return F.mse_loss(self.unet(bar.sqrt() * x + (1 - bar).sqrt() * noise, t).sample, noise)

    def amounts(self, t):
        bar = float((1 - torch.linspace(0.001, 0.1, 100).double())[: int(t) + 1].prod())
        return math.sqrt(bar), math.sqrt(1 - bar)


class FlowBeside(Plain):
    says = "at no timestep|shows the network"

    def training_step(self, batch, batch_idx):
        x = image_of(batch)
        noise, t = torch.randn_like(x), torch.rand(len(x))
        noisy = (1 - t.view(-1, 1, 1, 1)) * x + t.view(-1, 1, 1, 1) * noise
        return F.mse_loss(self.unet(noisy, t * 1000).sample, noise - x)

    def by_hand(self, x, noise, t):
        noisy = (1 - t) * x + t * noise
        return noisy - t * self.ask(noisy, 1000 * t), x


class CountsFromOne(Plain):
    says = "training_step shows the network time"

    def training_step(self, batch, batch_idx):
        x = image_of(batch)
        noise, t = torch.randn_like(x), torch.randint(0, 100, (len(x),))
        return F.mse_loss(self.unet(self.scheduler.add_noise(x, noise, t), t + 1).sample, noise)

    def ask(self, noisy, t):
        return super().ask(noisy, t + 1)


class LabelAdded(Plain):
    says = "no network was shown a mixture"

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 64)

    def training_step(self, batch, batch_idx):
        x = image_of(batch)
        noise, t = torch.randn_like(x), torch.randint(0, 100, (len(x),))
        label = self.embedding(batch["label"]).view(-1, 1, 8, 8)
        return F.mse_loss(self.unet(self.scheduler.add_noise(x, noise, t) + label, t).sample, noise)

    by_hand = None


class CalledTwice(Plain):
    says = "calls its network .* 2 times"

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + super().training_step(batch, batch_idx)

    by_hand = None


WRONG = [
    Doubled, TeachesX0, SameChannels, OwnAlphas, FlowBeside, CountsFromOne, LabelAdded, CalledTwice,
]  # fmt: skip


def measured(module, **settings):
    monitor = ForgettingMonitor(probe_size=5, loss_draws=2, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(monitor, max_epochs=1).fit(module, loader())
    return monitor.history[0], [str(w.message) for w in caught if "denoiser" in str(w.message) or "found on" in str(w)]


def check(module, record):
    (probe,) = record.probes
    x = Images(0).images[probe.ids]
    module.eval()
    for column, t in enumerate(record.timesteps):
        guess, clean = module.by_hand(x, paired_noise(x, probe.ids.tolist(), t, 0), t)
        expected = (guess.double() - clean.double()).square().flatten(1).mean(1)
        torch.testing.assert_close(probe.error[:, column], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", [Plain, Velocity])
def test_what_is_found_is_verified(kind):
    module = kind()
    record, told = measured(module)
    assert record.trust == "found, verified"
    assert told == []
    check(module, record)


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_found_and_wrong_is_not_used_and_the_reason_is_said(kind):
    module = kind()
    record, told = measured(module)
    assert len(told) == 1
    assert re.search(kind.says, told[0]), told[0]
    if kind.by_hand is None:
        assert record.trust == "paired loss"
        assert record.probes[0].error is None
    else:
        assert record.trust.startswith(("inferred", "own step"))
        check(module, record)


def closure(module, prediction="epsilon", betas=None, time=lambda t: t):
    """What README's recipe shows: the module's own network in a function."""
    bars = (1 - (module.scheduler.betas if betas is None else betas)).cumprod(0)
    return CallableDenoiser(lambda x, t: module.unet(x, time(t)).sample, bars, prediction_type=prediction)


class TestGiven:
    @pytest.mark.parametrize(
        ("kind", "give", "settings"),
        [
            (Plain, lambda m: DiffusersDenoiser(m.unet, m.scheduler), {}),
            (Plain, closure, {}),
            (Velocity, lambda m: closure(m, "v_prediction"), {}),
            (TeachesX0, lambda m: closure(m, "sample"), {}),
            (Doubled, closure, {"samples": lambda batch: 2 * batch["image"] - 1}),
            (OwnAlphas, lambda m: closure(m, betas=torch.linspace(0.001, 0.1, 100)), {}),
            (CountsFromOne, lambda m: closure(m, time=lambda t: t + 1), {}),
            (FlowBeside, lambda m: CallableDenoiser(
                lambda x, t: m.unet(x, 1000 * t).sample, FlowSchedule(1), prediction_type="flow_prediction"), {}),
        ],
    )  # fmt: skip
    def test_what_does_as_the_step_does_is_verified(self, kind, give, settings):
        module = kind()
        record, told = measured(module, denoiser=give, **settings)
        assert record.trust == "given, verified"
        assert told == []
        check(module, record)

    @pytest.mark.parametrize(
        ("kind", "give", "says"),
        [
            *((kind, lambda m: DiffusersDenoiser(m.unet, m.scheduler), kind.says) for kind in WRONG[:2] + WRONG[3:6]),
            (Plain, lambda m: closure(m, "sample"), "teaches epsilon .*, the denoiser takes it for sample"),
            (Velocity, closure, "teaches v_prediction .*, the denoiser takes it for epsilon"),
            (Plain, lambda m: closure(m, time=lambda t: t / 100), "shows the network time .* where the denoiser shows"),
            (Plain, lambda m: closure(m, betas=torch.linspace(0.001, 0.1, 100)), "at no timestep|the network time"),
            (Plain, lambda m: CallableDenoiser(lambda x, t: m.unet(x + 1, t).sample, m.scheduler.alphas_cumprod),
             "shows the network other noisy samples"),
            (Plain, lambda m: CallableDenoiser(lambda x, t: m.nothing(x), m.scheduler.alphas_cumprod),
             "cannot be measured .*no attribute 'nothing'"),
            (Plain, lambda m: CallableDenoiser(lambda x, t: m.unet(x.repeat(1, 3, 1, 1), t).sample,
             m.scheduler.alphas_cumprod), "cannot be measured .*Given groups=1"),
        ],
    )  # fmt: skip
    def test_what_contradicts_the_step_is_an_error_before_a_weight_is_changed(self, kind, give, says):
        module = kind()
        before = {name: weight.clone() for name, weight in module.state_dict().items()}
        monitor = ForgettingMonitor(denoiser=give, probe_size=4)
        runner = trainer(monitor)
        with pytest.raises(MisconfigurationException, match=f"given does not do what training_step .*({says})"):
            runner.fit(module, loader())
        assert runner.global_step == 0
        assert all(torch.equal(before[name], weight) for name, weight in module.state_dict().items())

    def test_who_knows_better_says_so(self):
        record, told = measured(TeachesX0(), denoiser=closure, verify=False)
        assert record.trust == "given"
        assert told == []
        assert record.probes[0].error is not None

    def test_the_condition_is_compared_too(self):
        class Conditional(Plain):
            def __init__(self):
                super().__init__()
                self.unet = unet(num_class_embeds=4)

            def training_step(self, batch, batch_idx):
                x = image_of(batch)
                noise, t = torch.randn_like(x), torch.randint(0, 100, (len(x),))
                noisy = self.scheduler.add_noise(x, noise, t)
                return F.mse_loss(self.unet(noisy, t, class_labels=batch["label"]).sample, noise)

        assert measured(Conditional())[0].trust == "found, verified"
        wrong = lambda m: CallableDenoiser(  # noqa: E731
            lambda x, t: m.unet(x, t, class_labels=torch.full((len(x),), 3)).sample, m.scheduler.alphas_cumprod
        )
        with pytest.raises(MisconfigurationException, match="another class_labels than training_step"):
            trainer(ForgettingMonitor(denoiser=wrong)).fit(Conditional(), loader())


def test_what_was_found_and_cannot_work_is_no_crash_at_the_end():
    """A UNet of latents beside pixels of another number of channels: the step makes the latents."""

    class Latents(Plain):
        def __init__(self):
            super().__init__()
            self.unet = unet(in_channels=2, out_channels=2, sample_size=4)
            self.vae = nn.Conv2d(1, 2, 2, 2).requires_grad_(False)

        def training_step(self, batch, batch_idx):
            return super().training_step(self.vae(image_of(batch)), batch_idx)

    module = Latents()
    record, told = measured(module)
    assert record.trust.startswith("own step: unet predicts epsilon")
    assert re.search("cannot be measured .*Given groups=1", told[0])
    (probe,) = record.probes
    z = module.vae(Images(0).images[probe.ids])
    noise = paired_noise(z, probe.ids.tolist(), record.timesteps[1], 0)
    guess, clean = module.eval().by_hand(z, noise, record.timesteps[1])
    expected = (guess.double() - clean.double()).square().flatten(1).mean(1)
    torch.testing.assert_close(probe.error[:, 1], expected, rtol=1e-3, atol=1e-6)


class Noisy(LightningModule):
    """Dropout and batch norm, in a network that only a function calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 64)
        )
        self.register_buffer("bars", torch.linspace(0.99, 0.1, 10))
        self.calls = 0

    def predict_noise(self, x, t):
        self.train()  # whatever is called
        self.calls += 1
        return self.net(x).view_as(x) * (1 + t.view(-1, 1, 1, 1))

    def training_step(self, batch, batch_idx):
        x = image_of(batch)
        noise, t = torch.randn_like(x), torch.randint(0, 10, (len(x),))
        bar = self.bars[t].view(-1, 1, 1, 1)
        return F.mse_loss(self.predict_noise(bar.sqrt() * x + (1 - bar).sqrt() * noise, t), noise)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def test_a_function_as_denoiser_is_measured_in_eval_mode_and_leaves_buffers_alone():
    module = Noisy()
    quiet = CallableDenoiser(lambda x, t: module.net(x).view_as(x), module.bars)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    x = Images(0).images
    first, second = (reconstruction_error(quiet, x, [2, 7], 0) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(before[name], buffer) for name, buffer in module.named_buffers())
    assert module.training
    assert all(part.training for part in module.modules())
    stubborn = CallableDenoiser(module.predict_noise, module.bars)  # switches itself to training
    state = torch.get_rng_state()
    first = reconstruction_error(stubborn, x, [2, 7], 0)
    assert all(torch.equal(before[name], buffer) for name, buffer in module.named_buffers())
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, reconstruction_error(stubborn, x, [2, 7], 0))  # its dropout is paired


def test_the_decision_is_one_line_before_the_first_step(caplog):
    seen = []

    class Told(Plain):
        def on_before_optimizer_step(self, optimizer):
            seen.append([r.message for r in caplog.records if r.message.startswith("Reconstruction errors of")])

    with caplog.at_level("INFO"):
        measured(Told())
    assert seen[0] == ["Reconstruction errors of Told: found, verified."]
    assert seen[-1] == seen[0]  # once


def test_gradient_accumulation_and_several_fits():
    module, monitor = Plain(), ForgettingMonitor(probe_size=4)
    runner = trainer(monitor, accumulate_grad_batches=2)
    runner.fit(module, loader())
    assert monitor.history[0].trust == "found, verified"
    other = Velocity()
    again = trainer(monitor)
    again.fit(other, loader(1))  # another module is decided on anew
    assert monitor.history[1].trust == "found, verified"
    assert monitor.history[1].probes[0].error is not None


def test_a_step_that_fails_leaves_no_hook_behind():
    class Fails(Plain):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            raise RuntimeError("broken step")

    module = Fails()
    with pytest.raises(RuntimeError, match="broken step"):
        trainer(ForgettingMonitor()).fit(module, loader())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.overrides._len_torch_function_stack() == 0


class Averages(Plain):
    """Two averages of one network."""

    def __init__(self):
        super().__init__()
        self.ema_slow, self.ema_fast = (unet().requires_grad_(False) for _ in range(2))


def test_averages_that_are_not_measured_are_named(caplog):
    with pytest.warns(UserWarning, match=r"several averages of its trained weights \(ema_slow, ema_fast\): the last"):
        trainer(ForgettingMonitor(probe_size=4), max_epochs=1).fit(Averages(), loader())
    with pytest.raises(MisconfigurationException, match=r'weights="ema" needs one average .* found ema_slow, ema_fast'):
        trainer(ForgettingMonitor(probe_size=4, weights="ema"), max_epochs=1).fit(Averages(), loader())
    with caplog.at_level("INFO"):
        given = ForgettingMonitor(probe_size=4, denoiser=lambda m: DiffusersDenoiser(m.unet, m.scheduler))
        trainer(given, max_epochs=1).fit(Averages(), loader())
        trainer(ForgettingMonitor(probe_size=4, weights="last"), max_epochs=1).fit(Averages(), loader())
    told = [r.message for r in caplog.records if r.message.startswith("Reconstruction errors of")]
    assert told[-2:] == [
        "Reconstruction errors of Averages: given, verified, with the denoiser that was given: not the averaged "
        "weights in ema_slow, ema_fast.",
        "Reconstruction errors of Averages: found, verified.",
    ]
