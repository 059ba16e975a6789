"""The part of a denoiser that follows from its schedule and from what its network predicts."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.denoisers.schedule import Prediction, Schedule, check_prediction, clean_from


class ScheduledDenoiser(ABC):
    """A denoiser with a schedule, for a network that predicts noise, sample, velocity or flow.

    Args:
        schedule: amounts of signal and noise at each timestep.
        prediction_type: ``"epsilon"``, ``"sample"``, ``"v_prediction"`` or ``"flow_prediction"``.

    Example:
        >>> class Zero(ScheduledDenoiser):
        ...     def predict(self, noisy, timestep, condition): return torch.zeros_like(noisy)
        >>> from hopfield_replay.denoisers import VarianceSchedule
        >>> Zero(VarianceSchedule(torch.tensor([0.9, 0.25])), "epsilon").predict_clean(torch.ones(1, 2), 1)  # x_t / a_t
        tensor([[2., 2.]])
    """

    def __init__(self, schedule: Schedule, prediction_type: Prediction) -> None:
        check_prediction(prediction_type)
        self.schedule = schedule
        self.prediction_type = prediction_type

    @property
    def num_timesteps(self) -> int | None:
        """Timesteps run over 0 <= t < num_timesteps; None if time is unbounded."""
        return self.schedule.num_timesteps

    def noise(self, clean: Tensor, timestep: float, noise: Tensor) -> Tensor:
        """Noise clean samples to a timestep: a_t x_0 + s_t eps."""
        signal, amount = self.schedule.amounts(timestep)
        return signal * clean + amount * noise

    def snr(self, timestep: float) -> float:
        """Signal-to-noise ratio a_t^2 / s_t^2; infinite without noise."""
        signal, amount = self.schedule.amounts(timestep)
        return (signal / amount) ** 2 if amount else float("inf")

    def predict_clean(self, noisy: Tensor, timestep: float, condition: Any = None) -> Tensor:
        """Estimate the clean samples, on the device of the network and in float32 or better."""
        signal, amount = self.schedule.amounts(timestep)
        prediction = self.predict(noisy, timestep, condition)
        if prediction.shape != noisy.shape:
            raise ValueError(self._misshapen(prediction, noisy))
        precise = torch.promote_types(noisy.dtype, torch.float32)
        return clean_from(
            prediction.to(precise), noisy.to(prediction.device, precise), signal, amount, self.prediction_type
        )

    @abstractmethod
    def predict(self, noisy: Tensor, timestep: float, condition: Any) -> Tensor:
        """What the network predicts for the noisy samples, in the shape of the samples."""

    @staticmethod
    def _misshapen(prediction: Tensor, noisy: Tensor) -> str:
        given, wanted = tuple(prediction.shape), tuple(noisy.shape)
        if len(given) > 1 and given == (wanted[0], 2 * wanted[1], *wanted[2:]):
            return (
                f"the network returns twice the channels of the samples ({given} for {wanted}): it also predicts a "
                "variance. Pass learned_variance=True to use the first half of the channels, the mean."
            )
        return f"the network returns shape {given} for noisy samples of shape {wanted}; they must be the same."


def first_half(prediction: Tensor, noisy: Tensor) -> Tensor:
    """Mean half of the channels of a network that also predicts its variance."""
    if prediction.shape[1] != 2 * noisy.shape[1]:
        raise ValueError(
            f"learned_variance=True, but the network returns {prediction.shape[1]} channels for samples of "
            f"{noisy.shape[1]}, not twice as many."
        )
    return prediction.chunk(2, dim=1)[0]


__all__ = ["ScheduledDenoiser"]
