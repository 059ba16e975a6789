"""Denoiser of a diffusers network and its noise scheduler."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hopfield_replay.denoisers.conditioning import arguments, is_conditional, move
from hopfield_replay.denoisers.schedule import FlowSchedule, Prediction, Schedule, VarianceSchedule
from hopfield_replay.denoisers.scheduled import ScheduledDenoiser, first_half
from hopfield_replay.functional.denoiser import evaluating


def schedule_of(scheduler: Any) -> tuple[Schedule, Prediction]:
    """Schedule and prediction type of a diffusers scheduler.

    Schedulers that scale their input by sigma (Euler, Heun, LMS, ...) show the network the same samples a_t x_0 + s_t
    eps at the same timesteps as DDPM does: x_0 + sigma eps divided by sqrt(sigma^2 + 1), with sigma = s_t / a_t.

    Raises:
        ValueError: a scheduler that has neither alphas_cumprod nor a flow-matching path.
    """
    config: Any = getattr(scheduler, "config", None)
    kind: Prediction = getattr(config, "prediction_type", "epsilon")
    if kind == "flow_prediction" or hasattr(scheduler, "scale_noise"):  # the forward process of flow matching
        return FlowSchedule(config.num_train_timesteps), "flow_prediction"
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(alphas_cumprod, Tensor):
        raise ValueError(
            f"{type(scheduler).__name__} has no alphas_cumprod and is no flow-matching scheduler: its noise levels are "
            "unknown here. Use the DDPMScheduler that the model was trained with, or CallableDenoiser with a schedule."
        )
    if getattr(config, "timestep_type", "discrete") == "continuous":
        raise ValueError(
            f"{type(scheduler).__name__} has timestep_type='continuous', whose timesteps are log-sigmas; only discrete "
            "timesteps are supported. Use CallableDenoiser with a schedule."
        )
    return VarianceSchedule(alphas_cumprod), kind


class DiffusersDenoiser(ScheduledDenoiser):
    """A diffusers network with the noise scheduler it is trained with.

    Takes UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel, Transformer2DModel and any network whose forward
    takes ``sample`` or ``hidden_states`` and ``timestep``. Samples and conditions move to the network's device and
    precision; its parameters stay untouched, and it runs in eval mode.

    Args:
        model: the network.
        scheduler: its diffusers scheduler, of any kind with alphas_cumprod, or a flow-matching one.
        prediction_type: overrides the scheduler's.
        learned_variance: the network returns twice the channels, of which the first half is the prediction.
        average: a diffusers EMAModel of the network, whose averaged weights are used in place of the network's. (An
            average that is a module, such as a copy, is passed as the model itself.)

    Raises:
        ValueError: the scheduler has no known noise levels; and on use: a condition that is missing or ambiguous,
            twice the channels without learned_variance.

    Example:
        >>> from diffusers import DDPMScheduler, UNet2DModel
        >>> unet = UNet2DModel(8, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
        ...     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        >>> denoiser = DiffusersDenoiser(unet, DDPMScheduler())
        >>> denoiser.predict_clean(torch.zeros(2, 1, 8, 8), 500).shape
        torch.Size([2, 1, 8, 8])
        >>> round(denoiser.snr(500), 4)
        0.0844
    """

    def __init__(
        self,
        model: nn.Module,
        scheduler: Any,
        *,
        prediction_type: Prediction | None = None,
        learned_variance: bool = False,
        average: Any = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
        if average is not None and not hasattr(average, "shadow_params"):
            raise TypeError(
                f"average must be a diffusers EMAModel, got {type(average).__name__}; pass a copy as the model itself."
            )
        schedule, kind = schedule_of(scheduler)
        super().__init__(schedule, prediction_type or kind)
        self.model = model
        self.learned_variance = learned_variance
        self.average = average

    @property
    def conditional(self) -> bool:
        """Whether the network needs more than the samples and the timestep."""
        return is_conditional(self.model)

    def predict(self, noisy: Tensor, timestep: float, condition: Any) -> Tensor:
        """What the network predicts for the noisy samples."""
        weight = next(self.model.parameters(), noisy)
        inputs = noisy.to(weight.device, weight.dtype)
        dtype = torch.float32 if isinstance(self.schedule, FlowSchedule) else torch.int64
        times = torch.full((len(noisy),), timestep, dtype=dtype, device=inputs.device)
        extra = move(arguments(self.model, condition), inputs.device, inputs.dtype)
        extra |= {"timestep": times, "return_dict": False}
        with evaluating(self.model):
            if self.average is None:
                prediction = self.model(inputs, **extra)[0]
            else:
                names = (name for name, _ in self.model.named_parameters())
                weights = (value.to(weight.device, weight.dtype) for value in self.average.shadow_params)
                prediction = functional_call(self.model, dict(zip(names, weights, strict=True)), (inputs,), extra)[0]
        result: Tensor = prediction
        return first_half(result, inputs) if self.learned_variance else result


__all__ = ["DiffusersDenoiser"]
