"""Arguments of the diffusion measurements: samples, ids, timesteps and conditions, checked and cut into chunks."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional.denoiser import Denoiser
from hopfield_replay.utilities.checks import check_finite
from hopfield_replay.utilities.device import float64_device
from hopfield_replay.utilities.nested import map_leaves


def check_samples(x: Tensor) -> Tensor:
    """Return samples (n, *shape) in float32 or better; floating and finite."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor of samples (n, *shape), got {type(x).__name__}.")
    if not x.is_floating_point():
        raise TypeError(
            f"x must be a real floating tensor scaled as the model was trained on, got {x.dtype}. Convert it first."
        )
    if x.ndim < 2:
        raise ValueError(f"x must have shape (n, *shape), got {tuple(x.shape)}.")
    check_finite(x, "x")
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def check_ids(ids: Tensor | Sequence[int] | None, n: int) -> list[int]:
    """Return one whole number for each sample; 0..n-1 if None."""
    if ids is None:
        return list(range(n))
    if isinstance(ids, Tensor) and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
        raise TypeError(f"ids must be whole numbers, got {ids.dtype}.")
    listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    if not isinstance(listed, list) or len(listed) != n:
        raise ValueError(f"ids must hold one id for each of the {n} samples, got {listed if n < 5 else len(listed)}.")
    if any(isinstance(value, bool) or not isinstance(value, int) for value in listed):
        raise TypeError(f"ids must be whole numbers, got {listed[:5]}.")
    return listed


_METHODS = {
    "noise": ("clean", "timestep", "noise"),
    "predict_clean": ("noisy", "timestep", "condition"),
    "snr": ("timestep",),
}


def check_denoiser(denoiser: object) -> None:
    """Refuse what is no denoiser, name what it lacks, and say how to make one.

    Raises:
        TypeError: members that are missing, or that cannot be called as they will be.
    """
    if isinstance(denoiser, type):
        name = denoiser.__name__
        raise TypeError(f"denoiser must be an object, got the class {name}; give {name}(...).")
    known = {"num_timesteps": "num_timesteps"} | {name: f"{name}({', '.join(t)})" for name, t in _METHODS.items()}
    missing = [shown for name, shown in known.items() if not hasattr(denoiser, name)]
    got = "None" if denoiser is None else type(denoiser).__name__
    if missing:
        lacks = "" if len(missing) == len(known) else f" without {' and '.join(missing)}"
    else:
        unlike = [name for name, takes in _METHODS.items() if not _takes(getattr(denoiser, name), takes)]
        if not unlike:
            return
        lacks = f", whose {' and '.join(f'{name}{_signature(denoiser, name)}' for name in unlike)} must be called as "
        lacks += " and ".join(known[name] for name in unlike)
    raise TypeError(
        f"denoiser must have num_timesteps, noise, predict_clean and snr, got {got}{lacks}. Wrap a model with "
        "hopfield_replay.denoisers.DiffusersDenoiser or CallableDenoiser."
    )


def _takes(method: Any, names: Sequence[str]) -> bool:
    """Whether a method can be called with these, as far as can be known."""
    try:
        inspect.signature(method).bind(*names)
    except TypeError:  # also of what cannot be called
        return False
    except ValueError:  # of something compiled
        return True
    return True


def _signature(denoiser: object, name: str) -> str:
    method = getattr(denoiser, name)
    return str(inspect.signature(method)) if callable(method) else f" = {method!r}"


def check_timesteps(denoiser: Denoiser, timesteps: Sequence[float] | Tensor) -> list[float]:
    """Return the timesteps as a non-empty list of numbers inside the denoiser's range."""
    listed = timesteps.tolist() if isinstance(timesteps, Tensor) else timesteps
    if isinstance(listed, int | float):
        listed = [listed]
    values = list(listed)
    if not values:
        raise ValueError("timesteps is empty; give at least one.")
    last = denoiser.num_timesteps
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"timesteps must be numbers, got {value!r}.")
        if not math.isfinite(value) or (last is not None and not 0 <= value < last):
            raise ValueError(
                f"timestep {value} is out of range: this denoiser's timesteps are "
                + ("finite numbers." if last is None else f"0 <= t < {last}.")
            )
    return values


def amounts(denoiser: Denoiser, timestep: float, like: Tensor) -> tuple[float, float]:
    """Amounts (a_t, s_t) of signal and noise, read off how the denoiser noises a one without noise, and noise alone."""
    shape = (1, *like.shape[1:])
    # where the samples are: a denoiser may hold its schedule there
    dtype = torch.float64 if float64_device(like.device) == like.device else torch.float32
    one, zero = (torch.full(shape, value, dtype=dtype, device=like.device) for value in (1.0, 0.0))
    return float(denoiser.noise(one, timestep, zero).mean()), float(denoiser.noise(zero, timestep, one).mean())


def sigmas(denoiser: Denoiser, timesteps: Sequence[float]) -> list[float]:
    """Noise-to-signal ratios s_t / a_t = SNR^(-1/2), positive and finite."""
    ratios = {step: denoiser.snr(step) for step in timesteps}
    for step, ratio in ratios.items():
        if not (math.isfinite(ratio) and ratio > 0):
            raise ValueError(
                f"the signal-to-noise ratio at timestep {step} is {ratio}; it must be positive and finite."
            )
    return [ratios[step] ** -0.5 for step in timesteps]


def take(condition: Any, window: slice, n: int) -> Any:
    """Cut every tensor of a nested condition to the samples of a window; what is no tensor or list passes as it is."""

    def one_a_sample(item: Any) -> bool:  # captions and the like
        if not isinstance(item, list | tuple) or len(item) != n:
            return False
        return not any(isinstance(part, Tensor | Mapping | list | tuple) for part in item)

    def cut(_: str, item: Any) -> Any:
        if isinstance(item, list | tuple):
            return item[window]
        if not isinstance(item, Tensor) or item.ndim == 0:
            return item
        if len(item) != n:
            raise ValueError(
                f"condition holds a tensor of shape {tuple(item.shape)} for {n} samples; its first dimension must "
                f"be {n} (expand what all samples share)."
            )
        part = item[window]
        return part.clone() if part.is_inference() and not torch.is_inference_mode_enabled() else part

    return map_leaves(cut, condition, whole=one_a_sample)


def windows(n: int, chunk_size: int) -> Iterator[slice]:
    """Yield the windows of at most ``chunk_size`` samples."""
    for start in range(0, n, chunk_size):
        yield slice(start, min(n, start + chunk_size))
