"""Noise schedules: how much of the signal and of the noise a noisy sample holds at a timestep."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from hopfield_replay.utilities.choices import did_you_mean

Prediction = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]


class Schedule(Protocol):
    r"""The amounts a_t and s_t of :math:`x_t = a_t x_0 + s_t \epsilon`.

    Example:
        >>> class Halves:  # any object with these two members is one
        ...     num_timesteps = 2
        ...     def amounts(self, timestep): return 0.5**timestep, 1 - 0.5**timestep
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> CallableDenoiser(lambda x, t: x, Halves()).snr(1)
        1.0
    """

    @property
    def num_timesteps(self) -> int | None:
        """Timesteps run over 0 <= t < num_timesteps; None if time is unbounded."""
        ...

    def amounts(self, timestep: float) -> tuple[float, float]:
        """Return (a_t, s_t) at a timestep."""
        ...


@dataclass(frozen=True)
class VarianceSchedule:
    r"""Variance-preserving discrete schedule: :math:`a_t^2 = \bar\alpha_t,\ s_t^2 = 1 - \bar\alpha_t`.

    Args:
        alphas_cumprod: (T,) the products :math:`\bar\alpha_t`, in [0, 1], not rising.

    Example:
        >>> VarianceSchedule(torch.tensor([0.64, 0.36], dtype=torch.float64)).amounts(1)
        (0.6, 0.8)
    """

    alphas_cumprod: Tensor

    def __post_init__(self) -> None:
        values = self.alphas_cumprod
        if not isinstance(values, Tensor):
            raise TypeError(f"alphas_cumprod must be a torch.Tensor of shape (T,), got {type(values).__name__}.")
        if values.ndim != 1 or not len(values):
            raise ValueError(f"alphas_cumprod must have shape (T,), got {tuple(values.shape)}.")
        values = values.detach().to("cpu", torch.float64)
        if not bool(((values >= 0) & (values <= 1)).all()) or bool((values.diff() > 0).any()):
            raise ValueError("alphas_cumprod must lie in [0, 1] and not rise (it is the product of 1 - beta_t).")
        object.__setattr__(self, "alphas_cumprod", values)

    @property
    def num_timesteps(self) -> int:
        """Number T of timesteps."""
        return len(self.alphas_cumprod)

    def amounts(self, timestep: float) -> tuple[float, float]:
        """Return (a_t, s_t) at a whole timestep."""
        if isinstance(timestep, bool) or timestep != int(timestep):
            raise ValueError(f"this schedule has whole timesteps 0 <= t < {self.num_timesteps}, got {timestep!r}.")
        if not 0 <= timestep < self.num_timesteps:
            raise ValueError(f"timestep {timestep} is out of range: 0 <= t < {self.num_timesteps}.")
        signal = float(self.alphas_cumprod[int(timestep)])
        return math.sqrt(signal), math.sqrt(1 - signal)

    def interpolated(self, timestep: float) -> tuple[float, float]:
        """Return (a_t, s_t) also between two whole timesteps, where samplers of the Euler family go.

        log(s_t / a_t) is linear in between, as where such samplers look for the timestep of a given noise level. Where
        they look for the noise level of a given timestep it is s_t / a_t itself that is linear, which differs by
        (1/8) (log ratio of the neighbours)^2 at most: 2e-5 for 20 steps of Stable Diffusion.

        Raises:
            ValueError: a timestep out of range; between two of which one has no noise or no signal.

        Example:
            >>> schedule = VarianceSchedule(torch.tensor([0.8, 0.2], dtype=torch.float64))
            >>> signal, noise = schedule.interpolated(0.5)  # signal-to-noise ratios of 4 and 1/4
            >>> round(signal**2, 9), round(noise**2, 9)
            (0.5, 0.5)

        Source: Karras et al., arXiv:2206.00364, as implemented in diffusers.
        """
        below = math.floor(timestep)
        if below == timestep:
            return self.amounts(below)
        neighbours = [self.amounts(below), self.amounts(below + 1)]
        if min(min(pair) for pair in neighbours) == 0:
            raise ValueError(
                f"timestep {timestep} lies between two of which one has no noise or no signal: its noise level is "
                "unknown. Use a sampler with whole timesteps."
            )
        first, second = (math.log(noise / signal) for signal, noise in neighbours)
        ratio = math.exp(first + (timestep - below) * (second - first))
        return 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)


@dataclass(frozen=True)
class FlowSchedule:
    r"""Straight path of flow matching: :math:`a_t = 1 - t/T,\ s_t = t/T`, t any number in [0, T).

    Args:
        num_timesteps: T, the number that the model's time runs up to (diffusers: 1000).

    Example:
        >>> FlowSchedule(1000).amounts(250)
        (0.75, 0.25)
    """

    num_timesteps: int = 1000

    def amounts(self, timestep: float) -> tuple[float, float]:
        """Return (a_t, s_t) at a timestep."""
        if not 0 <= timestep < self.num_timesteps:
            raise ValueError(f"timestep {timestep} is out of range: 0 <= t < {self.num_timesteps}.")
        share = timestep / self.num_timesteps
        return 1 - share, share


@dataclass(frozen=True)
class ContinuousSchedule:
    r"""Schedule of continuous time from two functions, e.g. variance exploding: a = 1, s = t.

    Args:
        signal: a_t of a time t.
        noise: s_t of a time t.

    Example:
        >>> ContinuousSchedule(signal=lambda t: 1.0, noise=lambda t: t).amounts(0.5)
        (1.0, 0.5)
    """

    signal: Callable[[float], float]
    noise: Callable[[float], float]

    @property
    def num_timesteps(self) -> None:
        """None: time is unbounded."""
        return

    def amounts(self, timestep: float) -> tuple[float, float]:
        """Return (a_t, s_t) at a time."""
        return self.signal(timestep), self.noise(timestep)


def check_prediction(prediction_type: str) -> None:
    """Refuse what is no known parametrisation."""
    if prediction_type not in get_args(Prediction):
        raise ValueError(
            f"prediction_type must be one of {get_args(Prediction)}, got {prediction_type!r}."
            f"{did_you_mean(prediction_type, get_args(Prediction))}"
        )


def clean_from(prediction: Tensor, noisy: Tensor, signal: float, noise: float, kind: Prediction) -> Tensor:
    r"""Clean sample from what the network predicts at amounts (a, s).

    ``epsilon``: (x_t - s eps) / a; ``sample``: the prediction; ``v_prediction``: a x_t - s v, with v = a eps - s x_0;
    ``flow_prediction``: (x_t - s u) / (a + s), with u = eps - x_0.

    Source: Salimans and Ho, arXiv:2202.00512, section 4 (v); Lipman et al., arXiv:2210.02747 (flow).
    """
    if kind == "sample":
        return prediction
    if kind == "epsilon":
        if signal == 0:
            raise ValueError(
                "at this timestep the signal-to-noise ratio is 0: a noise prediction says nothing about the clean "
                "sample. Use a smaller timestep."
            )
        return (noisy - noise * prediction) / signal
    if kind == "v_prediction":
        return (signal * noisy - noise * prediction) / (signal**2 + noise**2)
    return (noisy - noise * prediction) / (signal + noise)


def prediction_from(clean: Tensor, noisy: Tensor, signal: float, noise: float, kind: Prediction) -> Tensor:
    """What a network would have predicted at amounts (a, s > 0) for this clean sample: the inverse of clean_from."""
    if kind == "sample":
        return clean
    if kind == "epsilon":
        return (noisy - signal * clean) / noise
    if kind == "v_prediction":
        return (signal * noisy - (signal**2 + noise**2) * clean) / noise
    return (noisy - (signal + noise) * clean) / noise


__all__ = ["ContinuousSchedule", "FlowSchedule", "Prediction", "Schedule", "VarianceSchedule"]
