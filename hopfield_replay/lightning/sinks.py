"""Where views go: TensorBoard, Weights & Biases and MLflow hold them; beside a CSVLogger alone they become files."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from hopfield_replay.lightning.namespaces import is_a
from hopfield_replay.lightning.views import Table
from hopfield_replay.utilities.files import replacing, write_figure
from hopfield_replay.utilities.tables import markdown_table
from hopfield_replay.utilities.text import printable, spreadsheet_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Sink:
    """Takes views; what it cannot hold it leaves out."""

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Show a figure."""

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Show how values (n,) are distributed."""

    def table(self, name: str, table: Table, step: int) -> None:
        """Show a table."""

    def settings(self, name: str, values: Mapping[str, Any], step: int) -> None:
        """Show what was set, all of it."""
        self.table(name, Table(["setting", "value"], [[key, str(value)] for key, value in values.items()]), step)

    def compare(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Note, before anything is logged, which settings runs differ in, and by which scalars they are compared."""

    def embedding(self, vectors: Tensor, labels: Table, pictures: Tensor | None, step: int) -> None:
        """Show vectors (n, d), the labels of each, and its picture (n, 3, h, w) in [0, 1]."""


class TensorBoardSink(Sink):
    """All views."""

    def __init__(self, logger: TensorBoardLogger) -> None:
        self.board = logger.experiment

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """On the page Images."""
        self.board.add_image(name, pixels(figure), step, dataformats="HWC")

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """On the pages Histograms and Distributions."""
        self.board.add_histogram(name, values, step)

    def table(self, name: str, table: Table, step: int) -> None:
        """On the page Text, what is new at this step: a long one would be cut off."""
        above = f"**{printable(table.title, None)}**\n\n" if table.title else ""
        self.board.add_text(name, above + markdown_table(table.columns, table.rows[: table.newest]), step)

    def compare(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """On the page HParams, with the metrics from the run's own scalars; what a run says first is what counts."""
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(settings), dict.fromkeys(metrics, 0.0)):
            self.board.file_writer.add_summary(summary)

    def embedding(self, vectors: Tensor, labels: Table, pictures: Tensor | None, step: int) -> None:
        """On the page Projector."""
        self.board.add_embedding(
            vectors, metadata=labels.rows, metadata_header=labels.columns, label_img=pictures, global_step=step,
            tag="buffer",
        )  # fmt: skip


class WandbSink(Sink):
    """Figures as images, histograms and tables; settings in the run's configuration."""

    def __init__(self, logger: WandbLogger) -> None:
        self.logger = logger

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """As an image."""
        self.logger.log_image(name, [pixels(figure)], step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """As a histogram."""
        from wandb import Histogram

        values_of: Any = {name: Histogram(values.tolist())}  # annotated upstream for numbers only
        self.logger.log_metrics(values_of, step)

    def table(self, name: str, table: Table, step: int) -> None:
        """As a table."""
        self.logger.log_table(name, columns=table.columns, data=table.rows, step=step)

    def settings(self, name: str, values: Mapping[str, Any], step: int) -> None:
        """In the run's configuration."""
        self.logger.log_hyperparams(dict(values))


class MLFlowSink(Sink):
    """Figures and tables as artifacts, settings as parameters of the run."""

    def __init__(self, logger: MLFlowLogger) -> None:
        self.logger = logger

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """As a PNG for each boundary."""
        self.logger.experiment.log_figure(self.logger.run_id, figure, f"views/{name}_step_{step}.png")

    def table(self, name: str, table: Table, step: int) -> None:
        """As CSV, written anew at each boundary."""
        self.logger.experiment.log_text(self.logger.run_id, _csv(table), f"views/{name}.csv")

    def compare(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """As parameters, which a run cannot change later."""
        self.logger.log_hyperparams(dict(settings))


class FolderSink(Sink):
    """Figures as PNG, tables as CSV, in a folder beside a logger's own files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """One file for each boundary."""
        path = self.folder / f"{name}_step_{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_figure(path, figure)

    def table(self, name: str, table: Table, step: int) -> None:
        """One file, written anew at each boundary."""
        path = self.folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(_csv(table), encoding="utf-8", newline="")


def _csv(table: Table) -> str:
    """A table as the text of a file that spreadsheets read."""
    held = io.StringIO(newline="")
    csv.writer(held).writerows([list(map(spreadsheet_cell, row)) for row in (table.columns, *table.rows)])
    return held.getvalue()


def sinks(trainer: Trainer) -> list[Sink]:
    """A sink for each logger that can hold views; where none can, a folder beside the metrics of a CSVLogger."""
    capable = [sink for logger in trainer.loggers if (sink := _sink(logger)) is not None]
    if capable:
        return capable
    return [FolderSink(Path(logger.log_dir) / "views") for logger in trainer.loggers if is_a(logger, CSVLogger)]


def _sink(logger: Logger) -> Sink | None:
    if is_a(logger, TensorBoardLogger):
        return TensorBoardSink(logger)
    if is_a(logger, MLFlowLogger):
        return MLFlowSink(logger)
    return WandbSink(logger) if is_a(logger, WandbLogger) else None


def pixels(figure: "Figure") -> Any:
    """A figure as an array (height, width, 3) of bytes, without pyplot and its global state."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
