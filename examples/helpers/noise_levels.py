"""Which noise levels a DDPM forgets, and replay that draws its timesteps there."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from helpers.ddpm import DDPM
from helpers.splits import Split

LEVELS = 10  # equal parts of the timesteps


class LevelledDDPM(DDPM):
    """A DDPM whose replayed samples, those after the first ``own`` of a batch, draw timesteps by ``shares``.

    ``shares`` (LEVELS,) are the chances of the parts of the timesteps, within which all are alike; None: uniform.
    """

    own = 0
    shares: Tensor | None = None

    def draw_timesteps(self, count: int, device: torch.device) -> Tensor:
        times = super().draw_timesteps(count, device)
        if self.shares is not None and count > self.own:
            width = self.scheduler.config.num_train_timesteps // LEVELS
            parts = torch.multinomial(self.shares, count - self.own, replacement=True).to(device)
            times[self.own :] = parts * width + torch.randint(0, width, parts.shape, device=device)
        return times

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.network.parameters(), lr=self.learning_rate, fused=True)


@torch.no_grad()
def loss_by_level(model: DDPM, split: Split) -> Tensor:
    """The mean training loss of a task's held-out images in each part of the timesteps (LEVELS,).

    At the middle of each part, with the same noise for every model.
    """
    images, labels = (column.to(model.device) for column in split.held_out.tensors)
    generator = torch.Generator().manual_seed(13)
    width = model.scheduler.config.num_train_timesteps // LEVELS
    found = []
    for level in range(LEVELS):
        noise = torch.randn(images.shape, generator=generator).to(images)
        times = torch.full((len(images),), level * width + width // 2, device=images.device)
        noisy = model.scheduler.add_noise(images, noise, times)
        found.append((model(noisy, times, labels) - noise).square().mean().cpu())
    return torch.stack(found)


class ForgettingLevels(Callback):
    """After every task: how much more of the timesteps that forget a LevelledDDPM draws for replayed samples.

    A part of the timesteps has the chance (1 - share) / LEVELS + share max(0, rise) / sum of them, with the rise of the
    loss of all earlier tasks' held-out images there since each was learned. Until something has risen, uniform. List it
    after the average of the weights.

    Args:
        tasks: the sequence.
        share: of the draws that follow the rises, in [0, 1].
    """

    def __init__(self, tasks: Sequence[Split], share: float) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share must lie in [0, 1], got {share}.")
        self.tasks, self.share = tasks, share
        self.learned: list[Tensor] = []  # losses of each task when it had been learned

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LevelledDDPM)
        was = pl_module.training
        pl_module.eval()
        with torch.random.fork_rng(devices=[]):
            now = [loss_by_level(pl_module, split) for split in self.tasks[: len(self.learned) + 1]]
        pl_module.train(was)
        rises = torch.zeros(LEVELS)
        for before, after in zip(self.learned, now, strict=False):
            rises += (after - before).clamp(min=0.0)
        self.learned.append(now[-1])
        pl_module.own = self.tasks[0].batch_size
        if float(rises.sum()) > 0.0:
            pl_module.shares = (1.0 - self.share) / LEVELS + self.share * rises / rises.sum()
