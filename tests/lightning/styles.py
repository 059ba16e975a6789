"""LightningModules in the styles of public diffusion code, each with its errors by hand.

``by_hand(images, labels, noise, t)`` is the squared error of the clean sample for one noise and one of the recorded
timesteps, written out from the style's own formulas. A style whose errors cannot be had has none, and says so.
"""

import copy
import math
import random
from collections import namedtuple
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

N, SIDE, LABELS = 24, 8, 3
Fields = namedtuple("Fields", "pixels name")


class Images(Dataset):
    """Images of one task with labels, in the form that a style expects."""

    def __init__(self, task, form, shape=(1, SIDE, SIDE)):
        generator = torch.Generator().manual_seed(50 + task)
        flip = 1 if task else -1
        ramp = torch.linspace(-1, 1, math.prod(shape)).view(shape) * flip
        self.images = (0.5 + 0.3 * ramp + 0.2 * torch.randn(N, *shape, generator=generator)).clamp(0, 1)
        self.labels = torch.randint(0, LABELS, (N,), generator=generator)
        self.form = form

    def __len__(self):
        return N

    def __getitem__(self, index):
        image, label = self.images[index], self.labels[index]
        if self.form == "hwc":
            return {"image": image.movedim(0, -1), "class_label": label}
        if self.form == "two images":  # a low resolution one first, as in super-resolution
            return {"low": F.avg_pool2d(image, 2).repeat_interleave(2, 1).repeat_interleave(2, 2), "high": image}
        if self.form == "named":
            return Fields(image, label)
        return {"tuple": (image, label), "dict": {"x": image, "y": label}, "tensor": image}[self.form]


def loader(task, style, **settings):
    return DataLoader(Images(task, style.form, style.shape), batch_size=8, **settings)


class Net(nn.Module):
    """A perceptron in the place of a UNet, with dropout; time and label come in by embeddings."""

    def __init__(self, shape=(1, SIDE, SIDE), *, labels=0, out=1, scale=1000.0, extra=0):
        super().__init__()
        d = math.prod(shape)
        self.first, self.last = nn.Linear(d + extra + 2, 48), nn.Linear(48, out * d)
        self.labels = nn.Embedding(labels, 48) if labels else None
        self.dropout, self.scale, self.out = nn.Dropout(0.3), scale, out

    def forward(self, x, t, y=None):
        t = (t.reshape(-1, 1).float() / self.scale).expand(len(x), 1)
        h = F.silu(self.first(torch.cat([x.flatten(1), t.sin(), t.cos()], 1)))
        if y is not None:
            h = h + self.labels(y)
        h = self.last(self.dropout(h))
        return h.view(len(x), self.out * x.shape[1], *x.shape[2:])


class Style(LightningModule):
    settings: ClassVar[dict] = {}  # what its user has to say to the monitor
    form, shape, level = "tuple", (1, SIDE, SIDE), "inferred"
    warns = None  # what a warning must say
    manual = False

    def __init__(self):
        super().__init__()
        self.lr = 0.05

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def by_hand(self, x, y, noise, t):
        raise NotImplementedError


def over(values, x):
    """Numbers of a batch, to be multiplied with its samples."""
    return values.view(-1, *[1] * (x.ndim - 1))


def error(guess, clean):
    return (guess.double() - clean.double()).square().flatten(1).mean(1)


class Tutorial(Style):
    """Schedules in buffers of its own, epsilon, mean squared error."""

    target, steps = "epsilon", 200

    def __init__(self):
        super().__init__()
        self.net = Net(self.shape)
        self.register_buffer("betas", torch.linspace(1e-4, 0.02, self.steps))
        self.register_buffer("bar", (1 - self.betas).cumprod(0))

    def amounts(self, t, x):
        return over(self.bar[t].sqrt(), x), over((1 - self.bar[t]).sqrt(), x)

    def wanted(self, x, noise, a, s):
        return {"epsilon": noise, "x0": x, "v": a * noise - s * x}[self.target]

    def loss(self, guess, wanted, t):
        return F.mse_loss(guess, wanted)

    def samples(self, x):
        return x

    def ask(self, noisy, t, y):
        return self.net(noisy, t)

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = self.samples(x)
        t, noise = torch.randint(0, self.steps, (len(x),)), torch.randn_like(x)
        a, s = self.amounts(t, x)
        return self.loss(self.ask(a * x + s * noise, t, y), self.wanted(x, noise, a, s), t)

    def by_hand(self, x, y, noise, t):
        x = self.samples(x)
        a = math.sqrt(float(np.prod(1 - np.linspace(1e-4, 0.02, self.steps)[: int(t) + 1])))
        s = math.sqrt(1 - a * a)
        noisy = a * x + s * noise
        guess = self.ask(noisy, torch.full((len(x),), int(t)), y)[:, : x.shape[1]]
        clean = {"epsilon": (noisy - s * guess) / a, "x0": guess, "v": a * noisy - s * guess}[self.target]
        return error(clean, x)


class PredictsX0(Tutorial):
    """x0 with its own alphas; the loss is an absolute error."""

    target = "x0"

    def loss(self, guess, wanted, t):
        return F.l1_loss(guess, wanted)


class MinSNR(Tutorial):
    """Velocity, weighted with min-SNR; samples are moved to [-1, 1] inside of the step."""

    target = "v"

    def samples(self, x):
        return 2 * x - 1

    def loss(self, guess, wanted, t):
        snr = self.bar[t] / (1 - self.bar[t])
        weight = snr.clamp(max=5) / (snr + 1)
        return (weight * (guess - wanted).square().flatten(1).mean(1)).mean()


class Masked(Tutorial):
    """Only a part of each image counts (inpainting), as a Huber loss."""

    level, warns = "paired loss", r"its loss leaves out 75% of what its network answers"

    def loss(self, guess, wanted, t):
        mask = torch.zeros_like(guess)
        mask[..., 2:6, 2:6] = 1
        return (F.smooth_l1_loss(guess, wanted, reduction="none") * mask).sum() / mask.sum()


class Padded(Tutorial):
    """Sequences of different lengths: what is behind the end of each is not learned."""

    level, warns = "paired loss", r"its loss leaves out \d\d% of what its network answers"
    target = "x0"

    def training_step(self, batch, batch_idx):
        x, y = batch
        t, noise = torch.randint(0, self.steps, (len(x),)), torch.randn_like(x)
        a, s = self.amounts(t, x)
        inside = (torch.arange(SIDE) < 4 + y[:, None])[:, None, :, None].expand_as(x)
        x = x * inside
        return F.mse_loss(self.ask(a * x + s * noise, t, y)[inside], x[inside])


class Clamped(Tutorial):
    """What lies outside of the range of images is cut off before it is compared."""

    level, warns = "paired loss", r"its loss leaves out \d+% of what its network answers"
    target = "x0"

    def loss(self, guess, wanted, t):
        return F.mse_loss(guess.clamp(0, 1), wanted)


class ZeroStart(Tutorial):
    """The last layer begins at zero, as in OpenAI's UNets and in DiTs: the first answer is 0 everywhere."""

    target = "v"

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.net.last.weight)
        nn.init.zeros_(self.net.last.bias)


class Labelled(Tutorial):
    """Class-conditional; the label is the network's third argument; NamedTuple batches."""

    form = "named"

    def __init__(self):
        super().__init__()
        self.net = Net(labels=LABELS)

    def ask(self, noisy, t, y):
        return self.net(noisy, t, y=y)


class LearnedVariance(Tutorial):
    """Twice the channels: the second half is a variance with a loss of its own."""

    def __init__(self):
        super().__init__()
        self.net = Net(out=2)

    def loss(self, guess, wanted, t):
        mean, variance = guess.chunk(2, 1)
        return F.mse_loss(mean, wanted) + 0.1 * (variance - (mean.detach() - wanted).square()).square().mean()


class PointCloud(Tutorial):
    """Points (n, 16, 3)."""

    shape = (16, 3)


class Signal(Tutorial):
    """One-dimensional signals (n, 1, 32), t from 1 to T."""

    shape = (1, 32)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t, noise = torch.randint(1, self.steps + 1, (len(x),)), torch.randn_like(x)
        a, s = self.amounts(t - 1, x)
        return F.mse_loss(self.net(a * x + s * noise, t), noise)

    def ask(self, noisy, t, y):
        return self.net(noisy, t + 1)


class Table(Tutorial):
    """Rows of a table (n, 6), time as t / T."""

    shape = (6,)

    def __init__(self):
        super().__init__()
        self.net = Net(self.shape, scale=1.0)

    def ask(self, noisy, t, y):
        return self.net(noisy, t[:, None] / self.steps)


class LatentDiffusionDDPM(Style):
    """latent-diffusion's DDPM: channels last, numpy schedules, a wrapper around the network, LitEma."""

    form = "hwc"

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.diffusion_model = Net()

        def forward(self, x, t, c_concat=None, c_crossattn=None):
            return self.diffusion_model(x, t)

    class LitEma(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.m_name2s_name = {}
            self.register_buffer("decay", torch.tensor(0.5))
            for name, weight in model.named_parameters():
                self.m_name2s_name[name] = name.replace(".", "")
                self.register_buffer(name.replace(".", ""), weight.clone().detach().data)

        def forward(self, model):
            for name, weight in model.named_parameters():
                getattr(self, self.m_name2s_name[name]).lerp_(weight.data, 0.5)

    def __init__(self):
        super().__init__()
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
        bar = torch.tensor(np.cumprod(1 - betas), dtype=torch.float32)
        self.register_buffer("sqrt_alphas_cumprod", bar.sqrt())
        self.register_buffer("sqrt_one_minus_alphas_cumprod", (1 - bar).sqrt())
        self.register_buffer("lvlb_weights", torch.ones(1000))
        self.model = self.Wrapper()
        self.model_ema = self.LitEma(self.model)

    def forward(self, x):
        t = torch.randint(0, 1000, (len(x),)).long()
        noise = torch.randn_like(x)
        noisy = over(self.sqrt_alphas_cumprod[t], x) * x + over(self.sqrt_one_minus_alphas_cumprod[t], x) * noise
        loss = F.mse_loss(noise, self.model(noisy, t), reduction="none").mean(dim=[1, 2, 3])
        total = loss.mean() + 0.1 * (self.lvlb_weights[t] * loss).mean()
        return total, {"train/loss_simple": loss.mean(), "train/loss": total}

    def training_step(self, batch, batch_idx):
        x = batch["image"].permute(0, 3, 1, 2).to(memory_format=torch.contiguous_format).float()
        loss, losses = self(x)
        self.log_dict(losses, prog_bar=True, on_step=True, on_epoch=True)
        self.log("lr_abs", self.optimizers().param_groups[0]["lr"], on_step=True)
        return loss

    def on_train_batch_end(self, *args, **kwargs):
        self.model_ema(self.model)

    def by_hand(self, x, y, noise, t):
        x = x.permute(0, 3, 1, 2)
        bar = float(np.prod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000)[: int(t) + 1] ** 2))
        a, s = math.sqrt(bar), math.sqrt(1 - bar)
        average = copy.deepcopy(self.model)
        for name, weight in average.named_parameters():
            weight.data = getattr(self.model_ema, name.replace(".", ""))
        noisy = a * x + s * noise
        return error((noisy - s * average.eval()(noisy, torch.full((len(x),), int(t)))) / a, x)


class TextToImage(Style):
    """Stable Diffusion's way: latents of a frozen autoencoder, text embeddings, dropped captions, a random flip."""

    form, level = "dict", "own step"

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Conv2d(1, 4, 2, 2)
            self.requires_grad_(False)

        def draw(self, x):
            mean = self.encoder(x)
            return mean + 0.2 * torch.randn_like(mean)

    def __init__(self):
        super().__init__()
        self.vae, self.text_encoder = self.VAE(), nn.Embedding(LABELS + 1, 12)
        self.unet = Net((4, 4, 4), extra=0)
        self.project = nn.Linear(12, 48)
        self.unet.labels = self.project
        self.scheduler = Scheduler(np.linspace(1e-4, 0.02, 1000))

    def training_step(self, batch, batch_idx):
        x, y = batch["x"], batch["y"]
        if torch.rand(1) < 0.3:
            x = x.flip(-1)
        latents = self.vae.draw(x) * 0.7
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (len(x),), device=x.device).long()
        noisy = self.scheduler.add_noise(latents, noise, t)
        captions = torch.where(torch.rand(len(y)) < 0.1, LABELS, y)
        with torch.no_grad():
            hidden = self.text_encoder(captions)
        return F.mse_loss(self.unet(noisy, t, hidden), noise)

    def by_hand(self, x, y, noise, t):
        z = 0.7 * self.vae.encoder(x)
        bar = float(np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: int(t) + 1]))
        a, s = math.sqrt(bar), math.sqrt(1 - bar)
        noisy = a * z + s * noise
        guess = self.unet(noisy, torch.full((len(x),), int(t)), self.text_encoder(y))
        return error((noisy - s * guess) / a, z)


class Scheduler:
    """A plain object with a schedule, such as MONAI's or diffusers'."""

    def __init__(self, betas):
        self.alphas_cumprod = torch.tensor(np.cumprod(1 - betas), dtype=torch.float32)

    def add_noise(self, x, noise, t):
        bar = over(self.alphas_cumprod[t], x)
        return bar.sqrt() * x + (1 - bar).sqrt() * noise


class VQLatents(Style):
    """Quantised latents: the nearest entries of a codebook; x0 is predicted."""

    level = "own step"

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(1, 2, 2, 2).requires_grad_(False)
        self.register_buffer("codebook", torch.randn(16, 2, generator=torch.Generator().manual_seed(3)))
        self.net, self.scheduler = Net((2, 4, 4)), Scheduler(np.linspace(1e-4, 0.02, 300))

    def latents(self, x):
        z = self.encoder(x).movedim(1, -1)
        nearest = torch.cdist(z.reshape(-1, 2), self.codebook).argmin(1)
        return self.codebook[nearest].view(z.shape).movedim(-1, 1)

    def training_step(self, batch, batch_idx):
        z = self.latents(batch[0])
        t, noise = torch.randint(300, (len(z),)), torch.randn(z.shape)
        return F.mse_loss(self.net(self.scheduler.add_noise(z, noise, t), t), z)

    def by_hand(self, x, y, noise, t):
        z = self.latents(x)
        bar = float(np.prod(1 - np.linspace(1e-4, 0.02, 300)[: int(t) + 1]))
        noisy = math.sqrt(bar) * z + math.sqrt(1 - bar) * noise
        return error(self.net(noisy, torch.full((len(x),), int(t))), z)


class DiffusionEngine(Style):
    """Stability's engine: a denoiser with scalings around the network, log-normal sigmas, the batch is written into."""

    form = "dict"

    class Denoiser(nn.Module):
        def forward(self, network, x, sigma, cond):
            s = over(sigma, x)
            c_in, c_skip, c_out = 1 / (s**2 + 1).sqrt(), 1 / (s**2 + 1), -s / (s**2 + 1).sqrt()
            return network(x * c_in, 0.25 * sigma.log(), cond["vector"]) * c_out + x * c_skip

    def __init__(self):
        super().__init__()
        self.model, self.denoiser = Net(labels=LABELS, scale=1.0), self.Denoiser()

    def training_step(self, batch, batch_idx):
        x = batch["x"]
        batch["global_step"] = self.global_step
        sigmas = (torch.randn(len(x)) * 1.2 - 1.2).exp()
        noised = x + torch.randn_like(x) * over(sigmas, x)
        out = self.denoiser(self.model, noised, sigmas, {"vector": batch["y"]})
        weight = over(sigmas**-2.0 + 1, x)
        loss = (weight * (out - x) ** 2).reshape(len(x), -1).mean(1).mean()
        self.log_dict({"loss": loss}, prog_bar=True, on_step=True, on_epoch=False)
        self.log("global_step", self.global_step, on_step=True, on_epoch=False)
        return loss

    def by_hand(self, x, y, noise, t):
        out = self.denoiser(self.model, x + t * noise, torch.full((len(x),), float(t)), {"vector": y})
        return error(out, x)


class EDM(Style):
    """k-diffusion: the step itself scales what goes in and what comes out, with sigma_data = 0.5; time is sigma."""

    def __init__(self):
        super().__init__()
        self.inner_model = Net(scale=1.0)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        sigma = (torch.randn(len(x)) * 1.2 - 1.2).exp()
        s, noise = over(sigma, x), torch.randn_like(x)
        c_skip, c_out, c_in = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt(), 1 / (s**2 + 0.25).sqrt()
        noised = x + noise * s
        target = (x - c_skip * noised) / c_out
        return ((self.inner_model(noised * c_in, sigma) - target) ** 2).flatten(1).mean(1).mean()

    def by_hand(self, x, y, noise, t):
        s = float(t)
        noised = x + noise * s
        out = self.inner_model(noised / math.sqrt(s**2 + 0.25), torch.full((len(x),), s))
        return error(0.25 / (s**2 + 0.25) * noised + s * 0.5 / math.sqrt(s**2 + 0.25) * out, x)


class Azula(Style):
    """azula: alpha and sigma of a time in [0, 1], the network is shown log(sigma / alpha) and unit variance."""

    class Posterior:
        def __init__(self, mean):
            self.mean = mean

    class Karras(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Net(scale=1.0)

        def schedule(self, t):
            alpha = (t**2 * math.log(1e-3)).exp()
            return alpha, (1 - alpha**2 + 1e-6).sqrt()

        def forward(self, x_t, t):
            alpha, sigma = self.schedule(t)
            a, s = over(alpha, x_t), over(sigma, x_t)
            out = self.backbone(x_t / (a**2 + s**2).sqrt(), (sigma / alpha).log())
            return Azula.Posterior(a / (a**2 + s**2) * x_t + s / (a**2 + s**2).sqrt() * out)

    def __init__(self):
        super().__init__()
        self.denoiser = self.Karras()

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t, z = torch.rand(len(x)), torch.randn_like(x)
        alpha, sigma = (over(v, x) for v in self.denoiser.schedule(t))
        posterior = self.denoiser(alpha * x + sigma * z, t)
        return (((alpha / sigma) ** 2 + 1) * (posterior.mean - x).square()).mean()

    def by_hand(self, x, y, noise, t):
        a, s = 1 / math.hypot(1, t), t / math.hypot(1, t)
        noisy = a * x + s * noise
        out = self.denoiser.backbone(noisy, torch.full((len(x),), math.log(t)))
        return error(a * noisy + s * out, x)


class FlowMatching(Style):
    """torchcfm: model(t, x), time runs from noise to samples, the target is samples minus noise."""

    class Net(Net):
        def forward(self, t, x):
            return super().forward(x, t)

    def __init__(self):
        super().__init__()
        self.model = self.Net(scale=1.0)

    def training_step(self, batch, batch_idx):
        x1, _ = batch
        x0 = torch.randn_like(x1)
        t = torch.rand(len(x1)).type_as(x0)
        xt = over(t, x1) * x1 + (1 - over(t, x1)) * x0 + 0.0 * torch.randn_like(x0)
        return torch.mean((self.model(t, xt) - (x1 - x0)) ** 2)

    def by_hand(self, x, y, noise, t):
        xt = (1 - t) * x + t * noise
        return error(xt + t * self.model(torch.full((len(x),), 1 - t), xt), x)


class RectifiedFlow(Style):
    """Rectified flow as in Stable Diffusion 3: logit-normal times, shown as 1000 t."""

    def __init__(self):
        super().__init__()
        self.transformer = Net()

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t = torch.sigmoid(torch.randn(len(x)))
        noise = torch.randn_like(x)
        noisy = (1 - over(t, x)) * x + over(t, x) * noise
        return {"loss": F.mse_loss(self.transformer(noisy, t * 1000), noise - x), "log": {}}

    def by_hand(self, x, y, noise, t):
        noisy = (1 - t) * x + t * noise
        return error(noisy - t * self.transformer(noisy, torch.full((len(x),), 1000 * t)), x)


class SimpleDiffusion(Style):
    """A continuous cosine schedule that is only computed, never kept; v; time in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.net = Net(scale=1.0)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t, noise = torch.rand(len(x)), torch.randn_like(x)
        a, s = over((t * math.pi / 2).cos(), x), over((t * math.pi / 2).sin(), x)
        return F.mse_loss(self.net(a * x + s * noise, t), a * noise - s * x)

    def by_hand(self, x, y, noise, t):
        a, s = math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)
        noisy = a * x + s * noise
        return error(a * noisy - s * self.net(noisy, torch.full((len(x),), t)), x)


class ScoreMatching(Style):
    """NCSN: ten sigmas, the network is shown which; it predicts the score."""

    def __init__(self):
        super().__init__()
        self.net = Net(scale=10.0)
        self.sigmas = torch.tensor(np.geomspace(1, 0.01, 10), dtype=torch.float32)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        which = torch.randint(0, 10, (len(x),))
        s = over(self.sigmas[which], x)
        noise = torch.randn_like(x) * s
        return (0.5 * (self.net(x + noise, which) + noise / s**2).square().flatten(1).sum(1) * s.flatten() ** 2).mean()

    def by_hand(self, x, y, noise, t):
        sigma = np.geomspace(0.01, 1, 10)[int(t)]  # t rises with the noise
        noisy = x + sigma * noise
        return error(noisy + sigma**2 * self.net(noisy, torch.full((len(x),), 9 - int(t))), x)


class SuperResolution(Tutorial):
    """The denoised tensor is the second of the batch; the first is shown to the network beside it."""

    form = "two images"
    settings: ClassVar[dict] = {"samples": "high"}  # the batch holds two

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net((1, SIDE, SIDE), extra=SIDE * SIDE)

        def forward(self, x, t, low):
            h = torch.cat([x.flatten(1), low.flatten(1)], 1)
            t = (t[:, None] / 1000).float()
            h = F.silu(self.net.first(torch.cat([h, t.sin(), t.cos()], 1)))
            return self.net.last(self.net.dropout(h)).view_as(x)

    def __init__(self):
        super().__init__()
        self.net = self.Net()

    def training_step(self, batch, batch_idx):
        x = batch["high"]
        t, noise = torch.randint(0, self.steps, (len(x),)), torch.randn_like(x)
        a, s = self.amounts(t, x)
        return F.mse_loss(self.net(a * x + s * noise, t, low=batch["low"]), noise)

    def ask(self, noisy, t, low):
        return self.net(noisy, t, low=low)


class Crops(Tutorial):
    """Random crops, made in the step: errors are those of the crop in the middle."""

    level = "own step"

    def __init__(self):
        super().__init__()
        self.net = Net((1, 6, 6))

    def crop(self, x):
        i, j = torch.randint(0, 3, (2,)).tolist()
        return x[..., i : i + 6, j : j + 6]

    def training_step(self, batch, batch_idx):
        return super().training_step((self.crop(batch[0]), batch[1]), batch_idx)

    def by_hand(self, x, y, noise, t):
        return super().by_hand(x[..., 1:7, 1:7], y, noise, t)


class Manual(Tutorial):
    """Manual optimization with two optimizers, of which one is the network's; in_place changes of the batch."""

    manual = True

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(4, 1)

    def configure_optimizers(self):
        return [torch.optim.SGD(self.net.parameters(), self.lr), torch.optim.SGD(self.critic.parameters(), self.lr)]

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        batch[0].mul_(0)
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        second.zero_grad()
        self.manual_backward(self.critic(torch.randn(3, 4)).square().mean())
        second.step()


class NeedsTrainer(Tutorial):
    """The step asks the Trainer for its state, counts, remembers its losses and draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.count, self.seen, self.generator = 0, [], torch.Generator().manual_seed(5)
        self.norm = nn.BatchNorm2d(1)

    def samples(self, x):
        if self._trainer is not None and self.trainer.training:
            self.count += 1
            self.norm(x)
        return x

    def training_step(self, batch, batch_idx):
        x, _ = batch
        self.samples(x)
        ramp = min(1.0, 0.5 + self.trainer.global_step)
        t = torch.randint(0, self.steps, (len(x),), generator=self.generator)
        noise = torch.randn(x.shape, generator=self.generator)
        a, s = self.amounts(t, x)
        loss = ramp * self.loss(self.net(a * x + s * noise, t), noise, t)
        self.seen.append(float(loss.detach()))
        if self.logger is not None:
            self.logger.experiment.add_scalar("own", loss)
        return loss


# where there are no reconstruction errors -----------------------------------------------------------------------------


class SelfConditioning(Tutorial):
    """The network is called twice: what it said first is shown to it again."""

    level, warns = "paired loss", "calls its network .* 2 times"

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net((2, SIDE, SIDE))

        def forward(self, x, t, before):
            return self.net(torch.cat([x, before], 1), t)[:, :1]

    def __init__(self):
        super().__init__()
        self.net = self.Net()

    def ask(self, noisy, t, y):
        with torch.no_grad():
            before = self.net(noisy, t, torch.zeros_like(noisy))
        return self.net(noisy, t, before)


class ClassifierFree(Labelled):
    """Conditional and unconditional in one step."""

    level, warns, form = "paired loss", "calls its network .* 2 times", "tuple"

    def ask(self, noisy, t, y):
        return 0.5 * (self.net(noisy, t, y) + self.net(noisy, t, torch.zeros_like(y)))


class LabelOutside(Tutorial):
    """A label embedding is added outside of the network to what it is shown."""

    level, warns = "paired loss", "no network was shown a mixture"

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(LABELS, SIDE * SIDE)

    def ask(self, noisy, t, y):
        return self.net(noisy + self.embedding(y).view_as(noisy), t)


class TwoNetworks(Tutorial):
    """Two networks are trained on the same noisy samples."""

    level, warns = "paired loss", "trains 2 networks"

    def __init__(self):
        super().__init__()
        self.other = Net()

    def ask(self, noisy, t, y):
        return 0.5 * (self.net(noisy, t) + self.other(noisy, t))


class Consistency(Tutorial):
    """The target is what an average of the network says of the same noise one step before."""

    level, warns = "paired loss", "none of the known targets"

    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t, noise = torch.randint(1, self.steps, (len(x),)), torch.randn_like(x)
        (a, s), (b, r) = self.amounts(t, x), self.amounts(t - 1, x)
        with torch.no_grad():
            target = self.teacher(b * x + r * noise, t - 1)
        return F.mse_loss(self.net(a * x + s * noise, t), target)


class NumpyNoise(Tutorial):
    """Noise is made by NumPy, times by Python."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t = torch.tensor([random.randrange(self.steps) for _ in x])
        noise = torch.from_numpy(np.random.randn(*x.shape)).float()  # noqa: NPY002  # as public code does
        a, s = self.amounts(t, x)
        return F.mse_loss(self.net(a * x + s * noise, t), noise)


class NumpyNoiseOfX0(NumpyNoise):
    """As above, but x0 is predicted: the gradient says nothing of the noise."""

    target = "x0"
    level, warns = "paired loss", "no network was shown a mixture"

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t, noise = torch.randint(0, self.steps, (len(x),)), torch.from_numpy(np.random.randn(*x.shape)).float()  # noqa: NPY002
        a, s = self.amounts(t, x)
        return F.mse_loss(self.net(a * x + s * noise, t), x)


class OffsetNoise(Tutorial):
    """The noise has an offset for each channel, as in later Stable Diffusion training."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t, noise = torch.randint(0, self.steps, (len(x),)), torch.randn_like(x)
        noise = noise + 0.1 * torch.randn(*x.shape[:2], 1, 1)
        a, s = self.amounts(t, x)
        return F.mse_loss(self.net(a * x + s * noise, t), noise)


class TimeOutside(Tutorial):
    """The network is shown an embedding of the time that is made outside of it."""

    level, warns = "paired loss", "no network was called with samples and a time"

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(self.steps, SIDE * SIDE), nn.Linear(2 * SIDE * SIDE, SIDE * SIDE)

    def ask(self, noisy, t, y):
        return self.mix(torch.cat([noisy.flatten(1), self.embed(t)], 1)).view_as(noisy)


class SplitLoss(Style):
    """No diffusion at all: an autoencoder."""

    level, warns = "paired loss", "no network was called with samples and a time"

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 64)

    def training_step(self, batch, batch_idx):
        x = batch[0].flatten(1)
        return {"loss": (self.net(x + 0.1 * torch.randn_like(x)) - x).square().mean()}


class LogsItsLoss(Manual):
    """Manual optimization whose network is called twice; validation_step logs a loss and returns nothing."""

    level, warns = "paired loss", "calls its network .* 2 times"

    def ask(self, noisy, t, y):
        return 0.5 * (self.net(noisy, t) + self.net(noisy, t))

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", Tutorial.training_step(self, batch, batch_idx))


class GivesNone(Tutorial):
    """The step gives no loss at all."""

    level, warns = "energies only", "returned no loss"

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)


MEASURED = [
    Tutorial, PredictsX0, MinSNR, ZeroStart, Labelled, LearnedVariance, PointCloud, Signal, Table,
    LatentDiffusionDDPM, TextToImage, VQLatents, DiffusionEngine, EDM, Azula, FlowMatching, RectifiedFlow,
    SimpleDiffusion, ScoreMatching, SuperResolution, Crops, Manual, NeedsTrainer, NumpyNoise, OffsetNoise,
]  # fmt: skip
UNMEASURED = [
    Masked, Padded, Clamped, SelfConditioning, ClassifierFree, LabelOutside, TwoNetworks, Consistency, NumpyNoiseOfX0,
    TimeOutside, SplitLoss, LogsItsLoss, GivesNone,
]  # fmt: skip
