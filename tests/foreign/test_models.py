"""Packages that others wrote, installed and trained for real: our errors are those of their own clean estimates.

pip install "hopfield-replay[foreign]"; what is not installed is skipped. k-diffusion needs setuptools below 81.
"""

import warnings

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from hopfield_replay import ForgettingMonitor, fit_tasks
from hopfield_replay.functional._paired_noise import paired_noise
from tests.lightning.small import trainer
from tests.lightning.styles import LABELS, Images, Net, loader, over

pytestmark = [
    pytest.mark.slow,
    pytest.mark.foreign,
    pytest.mark.filterwarnings("ignore"),  # of packages of all ages
]


class Foreign(LightningModule):
    form, shape, level, lr = "tuple", (1, 8, 8), "inferred", 0.02

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)

    def network_space(self, x):
        return x


class DenoisingDiffusionPytorch(Foreign):
    """lucidrains' GaussianDiffusion: moves samples to [-1, 1], min-SNR weights, velocity."""

    def __init__(self):
        super().__init__()
        package = pytest.importorskip("denoising_diffusion_pytorch")
        unet = package.Unet(dim=8, dim_mults=(1, 2), channels=1, flash_attn=False)
        self.diffusion = package.GaussianDiffusion(
            unet, image_size=8, timesteps=100, objective="pred_v", min_snr_loss_weight=True
        )

    def training_step(self, batch, batch_idx):
        return self.diffusion(batch[0])

    def network_space(self, x):
        return self.diffusion.normalize(x)

    def theirs(self, z, y, noise, t):
        times = torch.full((len(z),), int(t))
        noisy = self.diffusion.q_sample(z, times, noise)
        return self.diffusion.model_predictions(noisy, times).pred_x_start


class DenoisingDiffusionPytorch1D(Foreign):
    shape = (1, 32)

    def __init__(self):
        super().__init__()
        package = pytest.importorskip("denoising_diffusion_pytorch")
        unet = package.Unet1D(dim=8, dim_mults=(1, 2), channels=1)
        self.diffusion = package.GaussianDiffusion1D(unet, seq_length=32, timesteps=50, objective="pred_noise")

    def training_step(self, batch, batch_idx):
        return self.diffusion(batch[0])

    def network_space(self, x):
        return self.diffusion.normalize(x)

    def theirs(self, z, y, noise, t):
        times = torch.full((len(z),), int(t))
        return self.diffusion.model_predictions(self.diffusion.q_sample(z, times, noise), times).pred_x_start


class Elucidated(Foreign):
    """lucidrains' EDM: the network is shown log(sigma) / 4."""

    def __init__(self):
        super().__init__()
        package = pytest.importorskip("denoising_diffusion_pytorch")
        unet = package.Unet(dim=8, dim_mults=(1, 2), channels=1, flash_attn=False, random_fourier_features=True)
        unet.random_or_learned_sinusoidal_cond = True
        self.diffusion = package.ElucidatedDiffusion(unet, image_size=8, channels=1)

    def training_step(self, batch, batch_idx):
        return self.diffusion(batch[0])

    def network_space(self, x):
        return 2 * x - 1

    def theirs(self, z, y, noise, t):
        return self.diffusion.preconditioned_network_forward(z + t * noise, float(t), clamp=False)


class TorchCFM(Foreign):
    """torchcfm's conditional flow matching, as its tutorial trains it."""

    matcher = "ConditionalFlowMatcher"

    class Net(Net):
        def forward(self, t, x):
            return super().forward(x, t)

    def __init__(self):
        super().__init__()
        package = pytest.importorskip("torchcfm")
        self.net = self.Net(scale=1.0)
        self.flow = getattr(package, self.matcher)(sigma=0.0)

    def training_step(self, batch, batch_idx):
        x1 = batch[0]
        t, xt, ut = self.flow.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        return torch.mean((self.net(t, xt) - ut) ** 2)

    def theirs(self, z, y, noise, t):
        time = torch.full((len(z),), 1.0 - t)
        xt = self.flow.compute_mu_t(noise, z, time)
        return xt + t * self.net(time, xt)


class KDiffusion(Foreign):
    """k-diffusion's Denoiser.loss."""

    def __init__(self):
        super().__init__()
        package = pytest.importorskip("k_diffusion")
        self.model = package.layers.Denoiser(Net(scale=1.0), sigma_data=0.5)

    def training_step(self, batch, batch_idx):
        x = batch[0]
        sigma = (torch.randn(len(x)) * 1.2 - 1.2).exp()
        return self.model.loss(x, torch.randn_like(x), sigma).mean()

    def theirs(self, z, y, noise, t):
        return self.model(z + t * noise, torch.full((len(z),), float(t)))


class KDiffusionSimple(KDiffusion):
    """Its loss in terms of the noise, whose outermost call is the preconditioned one."""

    def __init__(self):
        super().__init__()
        self.model = pytest.importorskip("k_diffusion").layers.SimpleLossDenoiser(Net(scale=1.0), sigma_data=0.5)


class AzulaKarras(Foreign):
    schedule = "VPSchedule"

    def __init__(self):
        super().__init__()
        denoise, noise = pytest.importorskip("azula.denoise"), pytest.importorskip("azula.noise")
        self.denoiser = denoise.KarrasDenoiser(Net(scale=1.0), getattr(noise, self.schedule)())

    def training_step(self, batch, batch_idx):
        return self.denoiser.loss(batch[0], torch.rand(len(batch[0])))

    def theirs(self, z, y, noise, t):
        """At the time of its own schedule at which the noise level is t."""
        low, high = torch.zeros(()), torch.ones(())
        for _ in range(60):
            middle = (low + high) / 2
            alpha, sigma = self.denoiser.schedule(middle)
            low, high = (middle, high) if sigma / alpha < t else (low, middle)
        alpha, sigma = self.denoiser.schedule(low)
        return self.denoiser(alpha * z + sigma * noise, low.expand(len(z))).mean


class AzulaSimple(AzulaKarras):
    schedule = "RectifiedSchedule"

    def __init__(self):
        super().__init__()
        denoise, noise = pytest.importorskip("azula.denoise"), pytest.importorskip("azula.noise")
        self.denoiser = denoise.SimpleDenoiser(Net(scale=1.0), getattr(noise, self.schedule)())


class Monai(Foreign):
    """MONAI's inferer and scheduler, as its tutorials train them; conditional by cross attention."""

    prediction = "epsilon"

    def __init__(self):
        super().__init__()
        pytest.importorskip("einops")  # monai's networks need it
        inferers = pytest.importorskip("monai.inferers")
        networks = pytest.importorskip("monai.networks.nets")
        schedulers = pytest.importorskip("monai.networks.schedulers")
        self.model = networks.DiffusionModelUNet(
            spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 8), attention_levels=(False, False),
            num_res_blocks=1, norm_num_groups=4,
        )  # fmt: skip
        self.scheduler = schedulers.DDPMScheduler(num_train_timesteps=100, prediction_type=self.prediction)
        self.inferer = inferers.DiffusionInferer(self.scheduler)

    def training_step(self, batch, batch_idx):
        images, noise = batch[0], torch.randn_like(batch[0])
        timesteps = torch.randint(0, self.inferer.scheduler.num_train_timesteps, (len(images),)).long()
        guess = self.inferer(inputs=images, diffusion_model=self.model, noise=noise, timesteps=timesteps)
        wanted = noise if self.prediction == "epsilon" else self.scheduler.get_velocity(images, noise, timesteps)
        return nn.functional.mse_loss(guess.float(), wanted.float())

    def theirs(self, z, y, noise, t):
        times = torch.full((len(z),), int(t))
        noisy = self.scheduler.add_noise(z, noise, times)
        bar = self.scheduler.alphas_cumprod[int(t)]
        out = self.model(noisy, times)
        if self.prediction == "epsilon":
            return (noisy - (1 - bar).sqrt() * out) / bar.sqrt()
        return bar.sqrt() * noisy - (1 - bar).sqrt() * out


class MonaiVelocity(Monai):
    prediction = "v_prediction"


class BionemoFlow(Foreign):
    """bionemo-moco's continuous flow matching, on points; it draws times and noise by itself."""

    shape, prediction = (10, 3), "velocity"

    def __init__(self):
        super().__init__()
        moco = pytest.importorskip("bionemo.moco.interpolants")
        priors = pytest.importorskip("bionemo.moco.distributions.prior")
        times = pytest.importorskip("bionemo.moco.distributions.time")
        self.net = Net(self.shape, scale=1.0)
        self.flow = moco.ContinuousFlowMatcher(
            time_distribution=times.UniformTimeDistribution(), prior_distribution=priors.GaussianPrior(),
            prediction_type=self.prediction,
        )  # fmt: skip

    def training_step(self, batch, batch_idx):
        x1 = batch[0]
        t, x0 = self.flow.sample_time(len(x1)), self.flow.sample_prior(x1.shape)
        xt = self.flow.interpolate(x1, t, x0)
        target = self.flow.calculate_target(x1, x0)
        return self.flow.loss(self.net(xt, t), target, t, target_type=self.prediction).mean()

    def theirs(self, z, y, noise, t):
        time = torch.full((len(z),), 1.0 - t)
        xt = self.flow.interpolate(z, time, noise)
        return self.flow.process_data_prediction(self.net(xt, time), xt=xt, t=time)


class BionemoData(BionemoFlow):
    prediction = "data"


class DiffusersText(Foreign):
    """The step of diffusers' text-to-image script, with tiny models of the same classes."""

    level = "own step"

    def __init__(self):
        super().__init__()
        diffusers = pytest.importorskip("diffusers")
        from tests.denoisers.networks import text_unet

        self.vae = diffusers.AutoencoderKL(
            in_channels=1, out_channels=1, block_out_channels=(4, 4), norm_num_groups=2, latent_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ).requires_grad_(False)  # fmt: skip
        self.text_encoder = nn.Embedding(LABELS, 12).requires_grad_(False)
        self.unet = text_unet(sample_size=4)
        self.noise_scheduler = diffusers.DDPMScheduler()

    def training_step(self, batch, batch_idx):
        latents = self.vae.encode(batch[0]).latent_dist.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.noise_scheduler.config.num_train_timesteps, (len(latents),)).long()
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        hidden = self.text_encoder(batch[1][:, None])
        guess = self.unet(noisy, timesteps, hidden, return_dict=False)[0]
        return nn.functional.mse_loss(guess.float(), noise.float(), reduction="mean")

    def network_space(self, x):
        return self.vae.encode(x).latent_dist.mode() * self.vae.config.scaling_factor

    def theirs(self, z, y, noise, t):
        times = torch.full((len(z),), int(t))
        noisy = self.noise_scheduler.add_noise(z, noise, times)
        out = self.unet(noisy, times, self.text_encoder(y[:, None])).sample
        bar = over(self.noise_scheduler.alphas_cumprod[times], z)
        return (noisy - (1 - bar).sqrt() * out) / bar.sqrt()


EVERY = [
    DenoisingDiffusionPytorch, DenoisingDiffusionPytorch1D, Elucidated, TorchCFM, KDiffusion, KDiffusionSimple,
    AzulaKarras, AzulaSimple, Monai, MonaiVelocity, BionemoFlow, BionemoData, DiffusersText,
]  # fmt: skip


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_errors_are_those_of_the_package(kind, caplog):
    torch.manual_seed(0)
    module = kind()
    monitor = ForgettingMonitor(probe_size=4, loss_draws=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_tasks(trainer(monitor, max_epochs=1), module, [loader(task, kind) for task in range(2)])
    told = [str(w.message) for w in caught if "denoiser" in str(w.message) or "found on" in str(w.message)]
    assert monitor.history[-1].trust.startswith(kind.level), (monitor.history[-1].trust, told)
    module.eval()
    for probe in monitor.history[-1].probes:
        data = Images(probe.task, kind.form, kind.shape)
        where = probe.ids - (probe.task << 40)
        for column, t in enumerate(monitor.history[-1].timesteps):
            with torch.no_grad():
                z = module.network_space(data.images[where])
                noise = paired_noise(z, probe.ids.tolist(), t, 0)
                guess = module.theirs(z, data.labels[where], noise, t)
            expected = (guess.double() - z.double()).square().flatten(1).mean(1)
            torch.testing.assert_close(probe.error[:, column], expected, rtol=5e-3, atol=1e-5)
