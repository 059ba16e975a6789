"""LightningModules that hold no denoiser: an audit reads what they denoise off their training step."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

pytest.importorskip("jsonargparse")

from hopfield_replay.analysis import audit
from hopfield_replay.checkpoints.module import _transfer_hooks
from hopfield_replay.checkpoints.version import Version
from hopfield_replay.cli import main
from hopfield_replay.cli.watched import watched
from hopfield_replay.denoisers import CallableDenoiser
from hopfield_replay.functional._paired_noise import paired_noise
from hopfield_replay.lightning import watch_module
from hopfield_replay.tracker.meter import ErrorMeter
from tests.lightning import strangers, styles
from tests.lightning.test_styles import noise_like, samples

ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.06, 50), 0)
DATA = np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype(np.float32)
LABELS = np.arange(40) % 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.label = nn.Embedding(3, 4)
        self.layers = nn.Sequential(nn.Linear(16 + 1 + 4, 32), nn.SiLU(), nn.Linear(32, 16))

    def forward(self, x, t, y):
        return self.layers(torch.cat([x.flatten(1), t[:, None] / 50, self.label(y)], 1)).view_as(x)


class Plain(LightningModule):
    """As most people write it: its Trainer, its logger and its optimizers are asked, too."""

    scale = 1.0

    def __init__(self):
        super().__init__()
        self.net = Net()
        self.register_buffer("abar", ABAR.clone())

    def encoded(self, x):
        return x * self.scale

    def loss(self, batch):
        x, y = batch
        x = self.encoded(x)
        t, noise = torch.randint(0, 50, (len(x),), device=self.device), torch.randn_like(x)
        a = self.abar[t].view(-1, 1, 1, 1)
        return nn.functional.mse_loss(self.net(a.sqrt() * x + (1 - a).sqrt() * noise, t, y), noise)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, prog_bar=True)
        self.log("seen", float(self.trainer.global_step + self.current_epoch))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class Scaled(Plain):
    """Trains on latents: a found or guessed denoiser of the samples themselves would be wrong."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(1, 1, 1).requires_grad_(False)

    def encoded(self, x):
        return self.encoder(x).tanh()


class Manual(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Told(Plain):
    """Says itself what it denoises, and is not asked again."""

    def __init__(self):
        super().__init__()
        self.denoiser = denoiser_of(self)

    def training_step(self, batch, batch_idx):
        raise RuntimeError("asked")


class Averaged(Plain):
    def __init__(self):
        super().__init__()
        self.ema = torch.optim.swa_utils.AveragedModel(self.net).requires_grad_(False)


class Failing(Plain):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * self.trainer.datamodule.weight


class Classifier(Plain):
    def training_step(self, batch, batch_idx):
        return self.net(batch[0], torch.zeros(len(batch[0])), batch[1]).square().mean()


def denoiser_of(module):
    return CallableDenoiser(
        lambda x, t, rest: module.net(x, t, rest[0]), module.abar, conditional=True
    )  # fmt: skip


def saved(place, kind):
    """Two versions of a module, and what is theirs."""
    versions = []
    for name, seed in (("a", 0), ("b", 1)):
        torch.manual_seed(seed)
        module = kind()
        if isinstance(module, Averaged):
            for held in module.ema.parameters():
                held.add_(torch.randn_like(held) * 0.1)
        if isinstance(module, Scaled):
            nn.init.constant_(module.encoder.weight, 3.0)
            nn.init.constant_(module.encoder.bias, 0.5)
        torch.save({"state_dict": module.state_dict()}, place / f"{name}.ckpt")
        versions.append(module)
    np.savez(place / "data.npz", images=DATA, labels=LABELS)
    return versions


def run(place, kind, *more):
    return main([
        "audit", "--before", str(place / "a.ckpt"), "--after", str(place / "b.ckpt"), "--device", "cpu",
        "--model", f"{__name__}:{kind.__name__}", "--data", str(place / "data.npz"), *more,
    ])  # fmt: skip


def measured(place, kind, *more):
    assert run(place, kind, "--output-dir", str(place / "out"), *more) == 0
    report = json.loads((place / "out" / "audit.json").read_text())
    return np.array([report["errors_old"], report["errors_new"]])


def expected(versions, samples):
    """By denoisers that say what the training step does."""
    batch = (torch.from_numpy(samples), torch.from_numpy(LABELS))
    report = audit(*map(denoiser_of, versions), [batch])
    return np.stack([report.errors_old.numpy(), report.errors_new.numpy()])


@pytest.mark.parametrize("kind", [Plain, Manual])
def test_a_module_without_a_denoiser_is_measured_as_it_trains(tmp_path, capsys, kind):
    right = expected(saved(tmp_path, kind), DATA)
    assert np.allclose(measured(tmp_path, kind), right, rtol=1e-4)
    printed = capsys.readouterr()
    assert "measured: inferred: net predicts epsilon, abar, shown as time t" in printed.out
    assert "warn" not in printed.err.lower()


def test_what_a_module_encodes_is_what_its_network_denoises(tmp_path, capsys):
    right = expected(saved(tmp_path, Scaled), np.tanh(3 * DATA + 0.5))
    assert np.allclose(measured(tmp_path, Scaled), right, rtol=1e-4)
    assert "measured: own step: net predicts epsilon" in capsys.readouterr().out


def test_a_module_that_says_what_it_denoises_is_not_asked(tmp_path, capsys):
    right = expected(saved(tmp_path, Told), DATA)
    assert np.allclose(measured(tmp_path, Told), right, rtol=1e-4)
    assert "measured:" not in capsys.readouterr().out


def test_the_average_that_a_module_keeps_is_measured_unless_the_last_weights_are_asked_for(tmp_path, capsys):
    versions = saved(tmp_path, Averaged)
    last = expected(versions, DATA)
    for version in versions:
        version.net.load_state_dict(version.ema.module.state_dict())
    right = expected(versions, DATA)
    assert not np.allclose(last, right, rtol=0.01)
    assert np.allclose(measured(tmp_path, Averaged), right, rtol=1e-4)
    assert "a.ckpt (averaged weights in ema.module)" in capsys.readouterr().out
    assert np.allclose(measured(tmp_path, Averaged, "--weights", "state_dict"), last, rtol=1e-4)
    assert "a.ckpt (weights)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Failing,
            "none follows from its training_step (it cannot be taken here, AttributeError: 'NoneType' object has",
        ),
        (Classifier, "No denoiser was found on Classifier, and none follows from its training_step ("),
    ],
)
def test_steps_that_tell_nothing(tmp_path, capsys, kind, message):
    saved(tmp_path, kind)
    assert run(tmp_path, kind) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_versions_that_were_trained_otherwise(tmp_path, capsys):
    saved(tmp_path, Plain)
    other = torch.load(tmp_path / "b.ckpt", weights_only=True)
    other["state_dict"]["abar"] = torch.linspace(0.999, 0.01, 50)
    torch.save(other, tmp_path / "b.ckpt")
    assert run(tmp_path, Plain) == 2
    assert "noise differently" in capsys.readouterr().err


def of_a_loop():
    """The network of a loop without Lightning, and its step as a function."""
    module = nn.Module()
    module.net = Net()
    module.register_buffer("abar", ABAR.clone())

    def step(batch):
        x, y = batch
        t, noise = torch.randint(0, 50, (len(x),)), torch.randn_like(x)
        a = module.abar[t].view(-1, 1, 1, 1)
        return nn.functional.mse_loss(module.net(a.sqrt() * x + (1 - a).sqrt() * noise, t, y), noise)

    module.training_step = step
    return module


def test_a_loop_without_lightning(tmp_path, capsys):
    right = expected(saved(tmp_path, of_a_loop), DATA)
    assert np.allclose(measured(tmp_path, of_a_loop), right, rtol=1e-4)
    assert "measured: inferred: net predicts epsilon, abar, shown as time t" in capsys.readouterr().out


def test_modules_in_python(tmp_path):
    versions = saved(tmp_path, Scaled)
    batch = (torch.from_numpy(DATA), torch.from_numpy(LABELS))
    before, after = (watch_module(version, batch) for version in versions)
    report = audit(before.denoiser, after.denoiser, [batch], read=before.read)
    right = expected(versions, np.tanh(3 * DATA + 0.5))
    assert np.allclose(np.stack([report.errors_old.numpy(), report.errors_new.numpy()]), right, rtol=1e-4)
    assert report.warnings == ()
    with pytest.raises(TypeError, match="module must be a LightningModule or a torch module, got str"):
        watch_module("a.ckpt", batch)
    with pytest.raises(ValueError, match=r"no denoiser was found on Scaled.*watch_module\(module, batch\)"):
        audit(*versions, [batch])


class Found(Plain):
    """A network and a scheduler of diffusers, trained on samples of another scale."""

    scale = 4.0

    def __init__(self):
        super().__init__()
        diffusers = pytest.importorskip("diffusers")
        self.net = diffusers.UNet2DModel(
            4, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1, num_train_timesteps=50,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip
        self.scheduler = diffusers.DDPMScheduler(50, beta_start=1e-4, beta_end=0.06)

    def loss(self, batch):
        x = batch[0] * self.scale
        t, noise = torch.randint(0, 50, (len(x),)), torch.randn_like(x)
        return nn.functional.mse_loss(self.net(self.scheduler.add_noise(x, noise, t), t).sample, noise)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_what_is_found_is_held_against_the_step(tmp_path, capsys, monkeypatch, scale):
    monkeypatch.setattr(Found, "scale", scale)
    versions = saved(tmp_path, Found)
    batch = (torch.from_numpy(DATA) * scale, torch.from_numpy(LABELS))
    guessed = audit(*versions, [batch])
    assert "of Found were not held against its training_step" in guessed.warnings[0]
    right = np.stack([guessed.errors_old.numpy(), guessed.errors_new.numpy()])
    assert np.allclose(measured(tmp_path, Found), right, rtol=1e-3)
    assert ("measured: found, verified" if scale == 1.0 else "what was found is not used") in capsys.readouterr().out


def as_version(style):
    torch.manual_seed(1)
    module = style().eval()
    return Version("a.ckpt", module, None, "weights", prepare=_transfer_hooks(module))


@pytest.mark.heavy
@pytest.mark.parametrize("style", [*styles.MEASURED, *strangers.MEASURED], ids=lambda style: style.__name__)
def test_every_style_that_a_monitor_measures(style):
    if style.__name__ == "SkipsBatches":
        pytest.skip("the step that is taken skips its batch")
    version = as_version(style)
    found, told = watched(version, next(iter(styles.loader(0, style))))
    assert told.startswith(style.level)
    ids = torch.arange(6)
    x, y = samples(style, 0, ids)
    meter = ErrorMeter(found.denoiser, None, 0, lambda batch: batch, read=found.read)
    batch = next(iter(DataLoader(styles.Images(0, style.form, style.shape), batch_size=6)))
    errors, _ = meter.of_batch(version.prepare(batch), ids)
    for column, t in enumerate(meter.timesteps):
        with torch.no_grad():
            noise = paired_noise(noise_like(version.module, x), ids.tolist(), t, 0)
            right = version.module.by_hand(x, y, noise, t)
        torch.testing.assert_close(errors[:, column], right, rtol=2e-3, atol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("style", [*styles.UNMEASURED, *strangers.UNMEASURED], ids=lambda style: style.__name__)
def test_every_style_whose_errors_a_monitor_does_not_measure(style):
    with pytest.raises(ValueError, match=r"No denoiser was found on .*, and none follows from its training_step \("):
        watched(as_version(style), next(iter(styles.loader(0, style))))
