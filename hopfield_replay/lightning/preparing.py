"""What happens to a batch on its way to a LightningModule, as it is when nothing is trained."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from hopfield_replay.lightning.namespaces import kinds
from hopfield_replay.utilities.random_states import OwnRandomness


def preparing(trainer: Trainer, module: LightningModule, convert: Callable[[], bool]) -> Callable[[Any], Any]:
    """The way of a batch from its loader to the module: device and transfer hooks, the same every time.

    The precision of the training (bf16-true) is left out, so that energies do not depend on it; functions of the user's
    get it, for they may hand batches to the module. To be used while something is measured (see
    :func:`hopfield_replay.lightning.own_step.measuring`).

    Args:
        trainer: at work.
        module: that is trained.
        convert: whether batches get the precision of the training.
    """

    def prepare(batch: Any) -> Any:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # public, but not annotated upstream
        hook = "on_before_batch_transfer"
        parent = next((kind for kind in kinds(LightningDataModule) if isinstance(data, kind)), None)
        owner = data if parent is not None and is_overridden(hook, data, parent) else module
        with OwnRandomness(0):
            batch = trainer.precision_plugin.convert_input(batch) if convert() else batch
            batch = owner.on_before_batch_transfer(batch, 0)
            return trainer.strategy.batch_to_device(batch)

    return prepare


__all__ = ["preparing"]
