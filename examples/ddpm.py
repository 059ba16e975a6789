"""A small unconditional DDPM as a LightningModule, shared by the examples."""

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import mse_loss


class DDPM(LightningModule):
    """Denoising diffusion on images in [-1, 1], epsilon prediction; batches are ``(images, labels)``.

    Nothing here knows of hopfield_replay.

    Args:
        size: height and width of the images, even.
        channels: image channels.
        width: channels of the first UNet level; the second has twice as many.
        learning_rate: of Adam.
    """

    def __init__(self, size: int, channels: int = 1, width: int = 16, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.unet = UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=(width, 2 * width),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
        self.scheduler = DDPMScheduler()

    def loss(self, images: Tensor) -> Tensor:
        """Mean squared error of the predicted noise at uniform timesteps."""
        noise = torch.randn_like(images)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(images),), device=images.device)
        noisy = self.scheduler.add_noise(images, noise, timesteps)
        return mse_loss(self.unet(noisy, timesteps).sample, noise)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step of denoising."""
        loss = self.loss(batch[0])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Denoising loss on held-out images."""
        self.log("val/loss", self.loss(batch[0]))

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.unet.parameters(), lr=self.learning_rate)

    @torch.no_grad()
    def sample(self, count: int, *, steps: int = 25, seed: int = 0) -> Tensor:
        """Generate images (count, channels, size, size) with DDIM."""
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        config = self.unet.config
        noise = torch.randn(
            count,
            config.in_channels,
            config.sample_size,
            config.sample_size,
            generator=torch.Generator().manual_seed(seed),
        )
        images = noise.to(self.device)
        for timestep in scheduler.timesteps:
            images = scheduler.step(self.unet(images, timestep).sample, timestep, images).prev_sample
        return images.clamp(-1.0, 1.0)
