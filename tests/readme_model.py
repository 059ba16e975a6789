"""What the README's blocks take for granted: a module, datamodules and data of somebody else's."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Model(LightningModule):
    """A diffusion model of 8x8 images, as small as it gets."""

    def __init__(self):
        super().__init__()
        self.register_buffer("alphas_cumprod", torch.linspace(0.999, 0.01, 50))
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)))

    def forward(self, noisy, timesteps):
        return self.network(noisy)

    predict_noise = forward

    def training_step(self, batch, batch_idx):
        noise = torch.randn_like(batch[0])
        return (self.predict_noise(batch[0] + noise, None) - noise).square().mean()

    def training_step_of_ones_own(self, batch):
        self.training_step(batch, 0).backward()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    @torch.no_grad()
    def sample(self, count):
        x = torch.randn(count, 1, 8, 8)
        for timestep in range(40, -1, -10):
            signal = self.alphas_cumprod[timestep]
            clean = (x - (1 - signal).sqrt() * self(x, timestep)) / signal.sqrt()
            earlier = self.alphas_cumprod[max(timestep - 10, 0)]
            x = earlier.sqrt() * clean + (1 - earlier).sqrt() * torch.randn_like(x)
        return x


class Data(LightningDataModule):
    """Twelve images of one task.

    Args:
        task: which.
    """

    def __init__(self, task: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(task)
        images = torch.rand(12, 1, 8, 8, generator=generator) + task
        self.images = TensorDataset(images, torch.full((12,), task))

    def train_dataloader(self):
        return DataLoader(self.images, batch_size=4)
