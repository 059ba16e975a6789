"""A small DDPM as a LightningModule, unconditional or class-conditional, shared by the examples."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTTransformer2DModel, UNet2DModel
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import LambdaLR

from helpers.mlp import MLP

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # diffusers' names


class DDPM(LightningModule):
    """Denoising diffusion on images in [-1, 1], epsilon prediction; batches are ``(images, labels)``.

    Nothing here knows of hopfield_replay. Precision is the Trainer's (``precision="bf16-mixed"``), the average of the
    weights a callback's (``lightning.pytorch.callbacks.EMAWeightAveraging``).

    Args:
        size: height and width of the images, divisible by 2 for each level after the first.
        channels: image channels.
        width: channels of the first UNet level, divisible by 8; hidden units of the MLP; width of the DiT's tokens, 16
            for each attention head.
        learning_rate: of Adam.
        network: ``"unet"``, or ``"mlp"`` for images of a few hundred pixels, where it learns far faster on a CPU, or
            ``"dit"``, a transformer over patches of 2x2 pixels, always class-conditional. The next three arguments are
            the UNet's; of the DiT ``layers`` is the number of blocks.
        levels: channels of each UNet level as multiples of the width; each level halves the image.
        attention: index of the level with self-attention.
        layers: residual blocks of each level.
        classes: number of classes if the labels condition the network; None: unconditional, labels are ignored.
        schedule: noise schedule, "linear" (Ho et al. 2020) or "cosine" (Nichol & Dhariwal 2021).
        warmup: steps over which the learning rate rises to its value, at the start of every fit.

    Raises:
        ValueError: an unknown schedule or network; a DiT without classes.
    """

    def __init__(
        self,
        size: int,
        channels: int = 1,
        width: int = 16,
        learning_rate: float = 2e-3,
        *,
        network: Literal["unet", "mlp", "dit"] = "unet",
        levels: Sequence[int] = (1, 2),
        attention: int = -1,
        layers: int = 1,
        classes: int | None = None,
        schedule: Literal["linear", "cosine"] = "linear",
        warmup: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # a checkpoint then says how to make the module it belongs to
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {list(SCHEDULES)}, got {schedule!r}.")
        if network not in ("unet", "mlp", "dit"):
            raise ValueError(f'network must be "unet", "mlp" or "dit", got {network!r}.')
        self.conditional = classes is not None  # whether the network takes labels
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.scheduler = DDPMScheduler(beta_schedule=SCHEDULES[schedule])
        if network == "mlp":
            self.network: UNet2DModel | MLP | DiTTransformer2DModel = MLP(
                size, channels, width, num_class_embeds=classes
            )
            return
        if network == "dit":
            if classes is None:
                raise ValueError('network="dit" is class-conditional: pass the number of classes.')
            self.network = DiTTransformer2DModel(
                width // 16, 16, channels, num_layers=layers, sample_size=size, num_embeds_ada_norm=classes
            )
            return
        attends = [level == attention % len(levels) for level in range(len(levels))]
        self.network = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=layers,
            block_out_channels=tuple(width * level for level in levels),
            norm_num_groups=8,
            down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
            up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
            num_class_embeds=classes,
        )

    def forward(self, noisy: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Predicted noise; an unconditional network does not look at the labels."""
        times = timesteps.to(noisy.device).expand(len(noisy))  # schedulers keep theirs on the CPU
        predicted: Tensor = self.network(noisy, times, class_labels=labels if self.conditional else None).sample
        return predicted

    def draw_timesteps(self, count: int, device: torch.device) -> Tensor:
        """Uniform timesteps (count,) of a training batch."""
        return torch.randint(0, self.scheduler.config.num_train_timesteps, (count,), device=device)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of the predicted noise at the timesteps drawn."""
        noise = torch.randn_like(images)
        timesteps = self.draw_timesteps(len(images), images.device)
        noisy = self.scheduler.add_noise(images, noise, timesteps)
        return mse_loss(self(noisy, timesteps, labels), noise)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step of denoising."""
        loss = self.loss(*batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Denoising loss on held-out images."""
        self.log("val/loss", self.loss(*batch))

    def configure_optimizers(self) -> Any:
        """Adam, its learning rate warmed up."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        if self.warmup == 0:
            return optimizer
        warmup = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warmup, "interval": "step"}}

    @torch.no_grad()
    def sample(self, count: int, labels: Tensor | None = None, *, steps: int = 25, seed: int = 0) -> Tensor:
        """Generate images (count, channels, size, size) with DDIM.

        Args:
            count: number of images.
            labels: (count,), of which class each image is to be; only a conditional network needs them.
            steps: denoising steps.
            seed: of the initial noise.

        Raises:
            ValueError: a conditional network without labels, or not one for each image.
        """
        if labels is None and not self.conditional:
            labels = torch.zeros(count, dtype=torch.int64)
        if labels is None or labels.shape != (count,):
            given = "none" if labels is None else f"labels of shape {tuple(labels.shape)}"
            raise ValueError(f"sample needs one label for each of the {count} images, got {given}.")
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        config = self.network.config
        noise = torch.randn(
            count,
            config.in_channels,
            config.sample_size,
            config.sample_size,
            generator=torch.Generator().manual_seed(seed),
        )
        images, labels = noise.to(self.device), labels.to(self.device)
        for timestep in scheduler.timesteps:
            images = scheduler.step(self(images, timestep, labels), timestep, images).prev_sample
        return images.clamp(-1.0, 1.0)
