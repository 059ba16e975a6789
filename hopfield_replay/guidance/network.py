"""A network's forward pass, seen from a hook: what it got, and what it returns with another prediction."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

_SAMPLES = ("sample", "hidden_states")  # what diffusers networks call the noisy samples


def call_of(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, float]:
    """The noisy samples (n, *shape) and the timestep of a call of the network.

    Raises:
        ValueError: samples at different timesteps.
        TypeError: a network that takes no samples and timesteps.
    """
    original = getattr(network, "_orig_mod", network)  # torch.compile hides the signature
    given = inspect.signature(original.forward).bind(*args, **kwargs).arguments
    values = list(given.values())
    noisy = next((given[name] for name in _SAMPLES if name in given), values[0] if values else None)
    times = given.get("timestep", values[1] if len(values) > 1 else None)
    if not isinstance(noisy, Tensor) or not isinstance(times, Tensor | int | float):
        raise TypeError(
            f"{type(original).__name__} was called with {', '.join(given) or 'nothing'}: guidance needs the noisy "
            "samples and the timestep, called sample (or hidden_states) and timestep, or in the first two places."
        )
    distinct = torch.as_tensor(times).detach().unique()
    if len(distinct) != 1:
        raise ValueError(
            f"the network was called with {len(distinct)} different timesteps: guidance is for sampling, where a batch "
            "is at one timestep. Leave the steering context before training or measuring."
        )
    return noisy, float(distinct)


def prediction_of(output: Any) -> Tensor:
    """The prediction in what a network returns: a tensor, a tuple whose first item it is, or a diffusers output."""
    prediction = output if isinstance(output, Tensor) else output[0]
    if not isinstance(prediction, Tensor):
        raise TypeError(f"the network returned {type(output).__name__}, in which no prediction is found.")
    return prediction


def replaced(output: Any, prediction: Tensor) -> Any:
    """What the network returned, with another prediction."""
    if isinstance(output, Tensor):
        return prediction
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    output.sample = prediction
    return output


__all__ = ["call_of", "prediction_of", "replaced"]
