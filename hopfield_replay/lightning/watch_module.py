"""A module that is in no training, asked what it denoises: one training step with a Trainer that trains nothing."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from hopfield_replay.denoisers import find_denoiser
from hopfield_replay.denoisers.trust import Means, Trust, decide, take_step, watch_step
from hopfield_replay.encoders import Columns
from hopfield_replay.lightning.own_step import call, measuring, training_step


def watch_module(module: LightningModule | nn.Module, batch: Any) -> Trust:
    """How the errors of a module can be measured, read off one of its training steps outside of any training.

    As a ForgettingMonitor reads it in the first task: what is found on the module (a denoiser, a network of diffusers
    with its scheduler) is held against the step, or the denoiser is inferred from it. The step is taken in eval mode
    and undone; parameters, gradients, buffers, attributes and random states are as before. A module without a Trainer
    has one afterwards, that trains nothing.

    Args:
        module: with the weights that are to be measured. One that is no LightningModule needs a training_step, too: a
            method, or a function that was made its attribute, from a batch to a loss.
        batch: as its training_step takes it, after the transfer hooks.

    Returns:
        What to pass on: ``audit(before.denoiser, after.denoiser, data, read=before.read)``. Its denoiser is None, and
        its reasons say why, where none is found or inferred, or the step cannot be taken.

    Raises:
        TypeError: something else than a module.

    Example:
        >>> import torch
        >>> class Model(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(16, 16)
        ...     def forward(self, x, t): return self.layer(x) * t[:, None]
        ...     def training_step(self, x):
        ...         t, noise = torch.rand(len(x)), torch.randn_like(x)
        ...         return (self(x + t[:, None] * (noise - x), t) - (noise - x)).square().mean()
        >>> print(watch_module(Model(), torch.randn(8, 16)))
        inferred: the module itself predicts flow_prediction, straight path, shown as time t
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a LightningModule or a torch module, got {type(module).__name__}.")
    if not hasattr(module, "automatic_optimization"):
        return _of_a_loop(module, batch)
    watched: Any = module  # of either of Lightning's packages
    with _quiet():
        trainer = getattr(module, "_trainer", None) or _idle_trainer(watched)
        step = training_step(trainer, watched)
        means = Means(None, lambda: find_denoiser(module), Columns().split, step, None)
        try:
            with measuring(trainer, watched):
                return decide(module, take_step(step, module, batch), means)
        except Exception as error:  # somebody's step, outside of a training
            return _untaken(error)


def _of_a_loop(module: Any, batch: Any) -> Trust:
    try:
        trust = watch_step(lambda given: call(module.training_step, given), module, batch)
    except Exception as error:
        return _untaken(error)
    return trust if trust.loss is None else Trust("energies only", reasons=trust.reasons)


def _untaken(error: Exception) -> Trust:
    said = " ".join(str(error).split())
    return Trust("energies only", reasons=(f"it cannot be taken here, {type(error).__name__}: {said}",))


def _idle_trainer(module: LightningModule) -> Trainer:
    """A Trainer that trains nothing; a module that asks it for optimizers, as in manual optimization, has its own."""
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module.trainer = trainer
    trainer.strategy.connect(module)
    with suppress(Exception):  # somebody's, which may ask for the length of a training
        trainer.strategy.setup_optimizers(trainer)
    return trainer


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Lightning say nothing of a Trainer that trains nothing."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


__all__ = ["watch_module"]
