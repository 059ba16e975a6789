"""Grids of what a text-to-image model draws for captions of every task, before the first task and after each."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from tqdm.auto import tqdm

from helpers.captioned import Captioned
from helpers.files import replacing
from helpers.latent_diffusion import Drawing, LatentDiffusion
from helpers.pipeline_diffusion import PipelineDiffusion
from hopfield_replay import ForgettingMonitor


class Gallery(Callback):
    """Draws the same captions of every task before the first task and after each.

    Args:
        monitor: listed before this one; knows how many tasks are learned.
        tasks: whose captions are drawn, a row for each.
        folder: of the grids.
        drawing: how they are drawn.
    """

    def __init__(self, monitor: ForgettingMonitor, tasks: Sequence[Captioned], folder: Path, drawing: Drawing) -> None:
        self.monitor = monitor
        self.tasks = tasks
        self.folder = folder
        self.drawing = drawing

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw unless it is drawn: a boundary that is repeated after an interruption needs no second grid."""
        learned = len(self.monitor.history)
        path = self.folder / f"{learned}_{f'after_{self.tasks[learned - 1].name}' if learned else 'before'}.png"
        if path.exists():
            return
        assert isinstance(pl_module, LatentDiffusion | PipelineDiffusion)
        before = pl_module.device
        pl_module.to(trainer.strategy.root_device)  # at on_fit_end Lightning has taken it away already
        captions = [task.distinct_captions(self.drawing.count) for task in self.tasks]
        with trainer.precision_plugin.forward_context():  # the precision that is trained in
            shown = tqdm(captions, desc="Drawing pictures", leave=False, delay=1.0)
            save_grid(path, [pl_module.sample(row, self.drawing) for row in shown])
        pl_module.to(before)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw(trainer, pl_module)


def save_grid(path: Path, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Write rows of pictures of one size as one PNG, which appears only when it is complete."""
    width, height = rows[0][0].size
    grid = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            grid.paste(picture, (x * width, y * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        grid.save(partial, format="PNG")
