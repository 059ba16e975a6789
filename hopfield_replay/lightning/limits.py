"""How many batches a task has, as far as a Trainer's limits say so."""

import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from hopfield_replay.lightning.namespaces import is_a


def batches_of_task(trainer: Trainer, first_step: int) -> tuple[int | None, int | None]:
    """Batches of the first epoch, and of all epochs of the task together, in this process; None: not known.

    Args:
        trainer: when training starts.
        first_step: the global step at which the task began.
    """
    length = trainer.num_training_batches
    epoch = None if math.isinf(length) else int(length)
    bounds = []
    if epoch is not None and trainer.max_epochs is not None and trainer.max_epochs >= 0:
        bounds.append(epoch * trainer.max_epochs)
    if trainer.max_steps >= 0 and (batches := _batches_of_steps(trainer, trainer.max_steps - first_step, epoch)):
        bounds.append(batches)
    total = min(bounds) if bounds else None
    if total is None or epoch is None:
        return (total if epoch is None else epoch), total
    return min(epoch, total), total


def _batches_of_steps(trainer: Trainer, steps: int, epoch: int | None) -> int | None:
    """How many batches so many optimizer steps take; None where that is for the module or a callback to say."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # public, but not annotated upstream
    if not trainer.lightning_module.automatic_optimization:
        return None
    if any(is_a(callback, GradientAccumulationScheduler) for callback in callbacks):
        return None
    size = trainer.accumulate_grad_batches
    if epoch is None:
        return steps * size
    per_epoch = math.ceil(epoch / size)  # the last step of an epoch may have fewer batches
    return steps // per_epoch * epoch + steps % per_epoch * size


__all__ = ["batches_of_task"]
