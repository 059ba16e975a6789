"""A datamodule that a YAML file can name."""

from lightning.pytorch import LightningDataModule

from tests.lightning.small import loader


class OneTask(LightningDataModule):
    """12 images of one task.

    Args:
        task: which.
        batch_size: of the training batches.
    """

    def __init__(self, task: int, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return loader(self.hparams.task, batch_size=self.hparams.batch_size)
