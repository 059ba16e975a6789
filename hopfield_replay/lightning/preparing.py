"""What happens to a batch on its way to a LightningModule, as it is when nothing is trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from hopfield_replay.functional.denoiser import evaluating
from hopfield_replay.utilities.randomness import OwnRandomness


@contextmanager
def measuring(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Evaluation mode of the module and of the trainer's flags: what hooks do in training alone (augmentation) is off.

    Args:
        trainer: whose ``training`` is False inside, and ``validating`` True.
        module: with all of its parts.
    """
    trained = trainer.training
    if trained:
        trainer.validating = True
    try:
        with evaluating(module):
            yield
    finally:
        if trained:
            trainer.training = True


def preparing(trainer: Trainer, module: LightningModule) -> Callable[[Any], Any]:
    """The way of a batch from its loader to the module: precision, device and transfer hooks, the same every time.

    Args:
        trainer: at work.
        module: that is trained.
    """

    def prepare(batch: Any) -> Any:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # public, but not annotated upstream
        hook = "on_before_batch_transfer"
        owner = data if data is not None and is_overridden(hook, data) else module
        with measuring(trainer, module), OwnRandomness(0):
            batch = trainer.precision_plugin.convert_input(batch)
            batch = owner.on_before_batch_transfer(batch, 0)
            return trainer.strategy.batch_to_device(batch)

    return prepare


__all__ = ["measuring", "preparing"]
