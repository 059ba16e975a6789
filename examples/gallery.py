"""Pictures of what a DDPM generates and reconstructs after every task, kept by a callback and drawn as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ddpm import DDPM
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from splits import Split
from torch import Tensor

from hopfield_replay.files import replacing


class Gallery(Callback):
    """Keeps pictures after every task: generated samples, and reconstructions of held-out images of every task."""

    timestep = 300

    def __init__(self, tasks: Sequence[Split]) -> None:
        self.tasks = tasks
        self.images = [split.held_out.tensors[0][:8] for split in tasks]
        self.labels = [split.held_out.tensors[1][:8] for split in tasks]
        self.generated: list[Tensor] = []
        self.reconstructed: list[list[Tensor]] = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DDPM)
        pl_module.eval()
        learned = len(self.generated) + 1
        classes = torch.tensor([label for split in self.tasks[:learned] for label in split.classes])
        labels = classes.repeat(24)[:24]  # what a class-conditional model is to draw
        self.generated.append(pl_module.sample(24, labels).cpu())
        noise = torch.randn(self.images[0].shape, generator=torch.Generator().manual_seed(1))
        a = pl_module.scheduler.alphas_cumprod[self.timestep].cpu()
        row = []
        with torch.no_grad():
            for images, labels in zip(self.images[:learned], self.labels, strict=False):
                noisy = a.sqrt() * images + (1 - a).sqrt() * noise[: len(images)]
                times = torch.full((len(images),), self.timestep, device=pl_module.device)
                predicted = pl_module(noisy.to(pl_module.device), times, labels.to(pl_module.device)).cpu()
                row.append((noisy - (1 - a).sqrt() * predicted) / a.sqrt())
        self.reconstructed.append(row)
        pl_module.train()


def tiles(axis: Any, images: Tensor, title: str = "") -> None:
    """Draw images (n, 1 or 3, h, w) as one row."""
    row = torch.cat(list(images), dim=2).clamp(-1, 1).permute(1, 2, 0)
    axis.imshow(((row + 1) / 2).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize="small", loc="left")
    axis.set_axis_off()


def draw_gallery(gallery: Gallery, policy: str, folder: Path) -> None:
    """Write samples and reconstructions, before and after, as PNG."""
    tasks, count = gallery.tasks, len(gallery.generated)
    figure = Figure(figsize=(9, 0.75 * count), layout="constrained")
    for axis, images, split in zip(figure.subplots(count, 1), gallery.generated, tasks, strict=True):
        tiles(axis, images, f"generated after training on {split.classes}")
    with replacing(folder / f"samples_{policy}.png") as partial:
        figure.savefig(partial, dpi=120)
    figure = Figure(figsize=(9, 0.85 * count), layout="constrained")
    axes = figure.subplots(count, 3)
    for task, split in enumerate(tasks):
        tiles(axes[task, 0], gallery.images[task], f"held-out images of {split.classes}")
        tiles(axes[task, 1], gallery.reconstructed[task][task], f"reconstructed at t={gallery.timestep}, just learned")
        tiles(axes[task, 2], gallery.reconstructed[-1][task], "reconstructed after the last task")
    with replacing(folder / f"reconstructions_{policy}.png") as partial:
        figure.savefig(partial, dpi=120)
