"""Modules that hold no denoiser: what is measured of them is read off their own training step, as a monitor does it."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hopfield_replay.checkpoints import Version


def has_step(version: "Version") -> bool:
    """Whether a version is a LightningModule that does not say itself what it denoises: its training step is seen."""
    from hopfield_replay.denoisers.discovery import is_guess

    return version.model is None and (version.denoiser is None or is_guess(version.module, version.denoiser))


def watched(version: "Version", batch: Any) -> "tuple[Version, str]":
    """A version with the denoiser that its training step is seen to train, and in words what that is.

    Args:
        version: with the weights that are measured.
        batch: of the data, before the module's transfer hooks.

    Raises:
        ValueError: no denoiser follows from the step, and none was found on the module.
    """
    from hopfield_replay.lightning import watch_module

    module: Any = version.module
    trust = watch_module(module, version.prepare(batch))
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


__all__ = ["has_step", "watched"]
