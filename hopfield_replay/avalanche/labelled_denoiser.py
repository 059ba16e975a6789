"""The denoiser of an Avalanche strategy, conditioned on what minibatches hold."""

import warnings
from typing import Any

from torch import Tensor

from hopfield_replay.denoisers import Denoiser, find_denoiser
from hopfield_replay.denoisers.delegating import DelegatingDenoiser
from hopfield_replay.denoisers.discovery import is_guess


class LabelledDenoiser(DelegatingDenoiser):
    """A denoiser whose conditions are minibatches ``[x, y, ...]``: y is passed on as ``{"class_labels": y}``.

    Task labels would otherwise be a second candidate for a class-conditional network's labels.

    Args:
        denoiser: the model.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def predict_clean(self, noisy: Tensor, timestep: float, condition: Any = None) -> Tensor:
        """Estimate the clean samples, given their labels."""
        return self.denoiser.predict_clean(noisy, timestep, labels_of(condition))


def labels_of(batch: Any) -> Any:
    """What a network may take of a minibatch ``[x, y, ...]`` besides the samples."""
    if isinstance(batch, list | tuple):
        return {"class_labels": batch[1]} if len(batch) > 1 else None
    return batch


def strategy_denoiser(strategy: Any) -> LabelledDenoiser | None:
    """The denoiser of a strategy: its own, or the one that is found on its model; None if there is none."""
    own = vars(strategy).get("denoiser")
    denoiser = own if isinstance(own, Denoiser) else find_denoiser(strategy.model)
    if denoiser is not own and is_guess(strategy.model, denoiser):
        warnings.warn(
            f"The network and the scheduler of {type(strategy.model).__name__} were found, and not held against its "
            "training_step, which may denoise something else (latents, scaled samples): give it an attribute that is "
            "the denoiser, or compare with hopfield_replay.lightning.watch_module(module, batch).",
            stacklevel=2,
        )
    return None if denoiser is None else LabelledDenoiser(denoiser)


def default_timesteps(denoiser: LabelledDenoiser) -> list[int]:
    """10, 20, 30, 40 and 50 % of the denoiser's range."""
    if denoiser.num_timesteps is None:
        raise ValueError("This denoiser has no number of timesteps; pass timesteps=(...).")
    return [round(share * denoiser.num_timesteps) for share in (0.1, 0.2, 0.3, 0.4, 0.5)]
