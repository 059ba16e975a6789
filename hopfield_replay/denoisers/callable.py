"""Denoiser of a plain ``model(x, t)`` with a noise schedule."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.conditioning import move
from hopfield_replay.denoisers.schedule import Prediction, Schedule, VarianceSchedule
from hopfield_replay.denoisers.scheduled import ScheduledDenoiser, first_half
from hopfield_replay.functional.denoiser import evaluating


class CallableDenoiser(ScheduledDenoiser):
    """Any ``model(x, t)`` or ``model(x, t, condition)`` with its noise schedule.

    ``x`` is (n, *shape) and ``t`` is (n,): int64 where the schedule has whole timesteps, else of x's type. A model that
    counts time otherwise, or takes its condition otherwise, is wrapped in a function that says so. A module, or a bound
    method of one, gets its inputs on its own device and in its own precision, and runs in eval mode.

    Args:
        model: the network, or any callable.
        schedule: ``alphas_cumprod`` (T,), or any object with ``num_timesteps`` and ``amounts(t) -> (a_t, s_t)``.
        prediction_type: what the model predicts: ``"epsilon"``, ``"sample"``, ``"v_prediction"`` (a eps - s x_0) or
            ``"flow_prediction"`` (eps - x_0).
        conditional: the model takes the condition as its third argument, and needs it.
        learned_variance: the model returns twice the channels, of which the first half is the prediction.

    Raises:
        TypeError: ``model`` is not callable.
        ValueError: on use: no condition for a conditional model; a result of another shape than x.

    Example:
        >>> denoiser = CallableDenoiser(lambda x, t: x / 2, torch.tensor([0.9, 0.5]), prediction_type="sample")
        >>> denoiser.predict_clean(torch.ones(1, 2), 1)
        tensor([[0.5000, 0.5000]])
        >>> round(denoiser.snr(1), 6)
        1.0
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        schedule: Schedule | Tensor,
        *,
        prediction_type: Prediction = "epsilon",
        conditional: bool = False,
        learned_variance: bool = False,
    ) -> None:
        if not callable(model):
            raise TypeError(f"model must be callable as model(x, t), got {type(model).__name__}.")
        if not (isinstance(schedule, Tensor) or callable(getattr(schedule, "amounts", None))):
            raise TypeError(
                "schedule must be alphas_cumprod (a tensor) or an object with num_timesteps and amounts(t), got "
                f"{type(schedule).__name__}."
            )
        super().__init__(VarianceSchedule(schedule) if isinstance(schedule, Tensor) else schedule, prediction_type)
        self.model = model
        self.conditional = conditional
        self.learned_variance = learned_variance

    def predict(self, noisy: Tensor, timestep: float, condition: Any) -> Tensor:
        """What the model predicts for the noisy samples."""
        owner = self.model if isinstance(self.model, nn.Module) else getattr(self.model, "__self__", None)
        weight = next(owner.parameters(), noisy) if isinstance(owner, nn.Module) else noisy
        inputs = noisy.to(weight.device, weight.dtype)
        whole = isinstance(self.schedule, VarianceSchedule)
        times = torch.full((len(inputs),), timestep, dtype=torch.int64 if whole else inputs.dtype, device=inputs.device)
        extra = []
        if self.conditional:
            if condition is None:
                raise ValueError("the model is conditional and got no condition; pass condition=...")
            extra.append(move(condition, inputs.device, inputs.dtype))
        with evaluating(owner):
            prediction = self.model(inputs, times, *extra)
        return first_half(prediction, inputs) if self.learned_variance else prediction


__all__ = ["CallableDenoiser"]
