"""Pictures of what a DDPM generates and reconstructs after every task, kept by a callback and drawn as PNG."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from helpers.ddpm import DDPM
from helpers.files import write_figure
from helpers.splits import Split
from hopfield_replay.figures import picture_rows


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


def draw_gallery(gallery: Gallery, policy: str, folder: Path) -> None:
    """Write samples and reconstructions, before and after, as PNG."""
    tasks = gallery.tasks
    rows = [
        (f"generated after training on {split.classes}", images)
        for split, images in zip(tasks, gallery.generated, strict=True)
    ]
    save(picture_rows(rows, title=f"replay policy: {policy}"), folder / f"samples_{policy}.png")
    rows = []
    for task, split in enumerate(tasks):
        rows += [
            (f"held-out images of {split.classes}", gallery.images[task]),
            ("when just learned", gallery.reconstructed[task][task]),
            ("after the last task", gallery.reconstructed[-1][task]),
        ]
    title = f"replay policy: {policy}; held-out images, and their reconstructions from noise at t = {gallery.timestep}"
    save(picture_rows(rows, beside=3, title=title), folder / f"reconstructions_{policy}.png")


def save(figure: Figure | None, path: Path) -> None:
    if figure is not None:
        write_figure(path, figure)
