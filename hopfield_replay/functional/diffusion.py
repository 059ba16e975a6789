"""How well a diffusion model reconstructs given samples, with noise that is paired between measurements."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional._batches import (
    check_chunk_size,
    check_denoiser,
    check_ids,
    check_samples,
    check_timesteps,
    take,
    windows,
)
from hopfield_replay.functional._paired import paired_noise
from hopfield_replay.functional.denoiser import Denoiser, evaluating


def squared_error(clean: Tensor, predicted: Tensor) -> Tensor:
    """Mean squared error of each sample (n,) in float64, over its elements."""
    if predicted.shape != clean.shape:
        raise ValueError(
            f"the denoiser returned clean samples of shape {tuple(predicted.shape)} for samples of shape "
            f"{tuple(clean.shape)}."
        )
    difference = predicted.detach().to(clean.device, torch.float64) - clean.to(torch.float64)
    return difference.square().flatten(1).mean(1)


@torch.no_grad()
def reconstruction_error(
    denoiser: Denoiser,
    x: Tensor,
    timesteps: Sequence[float] | Tensor,
    noise_seed: int,
    *,
    ids: Tensor | Sequence[int] | None = None,
    condition: Any = None,
    chunk_size: int = 128,
) -> Tensor:
    r"""One-step reconstruction error :math:`|x_0 - \hat x_0(a_t x_0 + s_t \epsilon)|^2 / d` at each timestep.

    The noise of a sample depends only on (noise_seed, its id, the timestep), so two measurements of one sample - before
    and after a task, in other batches, on other devices or ranks - differ by the model alone. Their difference is the
    reconstruction forgetting. The model keeps its parameters, its gradients and its training flags.

    Args:
        denoiser: the diffusion model.
        x: clean samples, floating, (n, *shape), scaled as the model was trained on.
        timesteps: T timesteps, each in 0 <= t < denoiser.num_timesteps.
        noise_seed: whole number; the same before and after.
        ids: (n,) whole numbers that name the samples; 0..n-1 if None.
        condition: None, or any nesting of tensors whose first dimension is n.
        chunk_size: samples that go through the model at a time, >= 1.

    Returns:
        (n, T) float64 on x's device, in squared units of x. Not finite where the model's prediction is not.

    Raises:
        TypeError: ``denoiser`` is none; ``x``, ``ids`` or ``timesteps`` of a wrong type.
        ValueError: timesteps out of range; shapes that do not fit.

    Example:
        >>> import torch
        >>> class Shrink:  # knows that the data is standard normal
        ...     num_timesteps = 10
        ...     def noise(self, clean, timestep, noise): return (clean + noise) / 2**0.5
        ...     def predict_clean(self, noisy, timestep, condition=None): return noisy / 2**0.5
        ...     def snr(self, timestep): return 1.0
        >>> x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
        >>> reconstruction_error(Shrink(), x, [3, 7], noise_seed=0).mean().round(decimals=1)  # 1 / (1 + SNR)
        tensor(0.5000, dtype=torch.float64)

    Source: Ho, Jain, Abbeel, arXiv:2006.11239, equations 4 and 15.
    """
    check_denoiser(denoiser)
    clean = check_samples(x)
    steps = check_timesteps(denoiser, timesteps)
    named = check_ids(ids, len(clean))
    check_chunk_size(chunk_size)
    errors = torch.empty(len(clean), len(steps), dtype=torch.float64, device=clean.device)
    with evaluating(denoiser):
        for window in windows(len(clean), chunk_size):
            part, given = clean[window], take(condition, window, len(clean))
            for column, step in enumerate(steps):
                noisy = denoiser.noise(part, step, paired_noise(part, named[window], step, noise_seed))
                errors[window, column] = squared_error(part, denoiser.predict_clean(noisy, step, given))
    return errors


__all__ = ["reconstruction_error"]
