"""Modules that hold no denoiser: what is measured of them is read off their own training step, as a monitor does it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hopfield_replay.checkpoints import Version


def has_step(version: "Version") -> bool:
    """Whether a version is a LightningModule that does not say itself what it denoises: its training step is seen."""
    from hopfield_replay.denoisers import find_denoiser

    if version.model is not None or not hasattr(version.module, "training_step"):
        return False
    # an attribute that is a denoiser is what its author says; one put together of a network and a scheduler is a guess
    return version.denoiser is None or find_denoiser(version.module) is not version.denoiser


def watched(version: "Version", batch: Any) -> "tuple[Version, str]":
    """A version with the denoiser that its training step is seen to train, and in words what that is.

    One step is taken outside of any training, with a Trainer that does nothing, and undone.

    Args:
        version: with the weights that are measured.
        batch: of the data, before the module's transfer hooks.

    Raises:
        ValueError: no denoiser follows from the step, and none was found on the module.
    """
    from hopfield_replay.denoisers import find_denoiser
    from hopfield_replay.denoisers.trust import Means, Trust, decide, take_step
    from hopfield_replay.encoders import Columns
    from hopfield_replay.lightning.own_step import measuring, training_step

    module: Any = version.module
    with _quiet():
        trainer = _idle_trainer(module)
        step = training_step(trainer, module)
        means = Means(None, lambda: find_denoiser(module), Columns().split, step, None)
        try:
            with measuring(trainer, module):
                ready = version.prepare(batch)
                trust = decide(module, take_step(step, module, ready), means)
        except Exception as error:  # somebody's step, outside of a training
            said = " ".join(str(error).split())
            trust = Trust("energies only", reasons=(f"it cannot be taken here, {type(error).__name__}: {said}",))
    because = "; ".join(trust.reasons)
    if trust.denoiser is not None:
        told = f"{trust}; what was found is not used ({because})" if because else str(trust)
        return replace(version, denoiser=trust.denoiser, read=trust.read), told
    if version.denoiser is not None:
        return version, f"found, not verified against training_step ({because})"
    name = type(module).__name__
    raise ValueError(
        f"No denoiser was found on {name}, and none follows from its training_step ({because}). Give it an attribute "
        "that is one (hopfield_replay.denoisers.DiffusersDenoiser or CallableDenoiser), or name a function that "
        "returns it so; data in the form of its own batches is package.module:DataModule."
    )


def _idle_trainer(module: Any) -> Any:
    """A Trainer that trains nothing; a module that asks it for optimizers, as in manual optimization, has its own."""
    from lightning.pytorch import Trainer

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


__all__ = ["has_step", "watched"]
