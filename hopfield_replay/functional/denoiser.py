"""What the measurements need to know of a diffusion model, and how a model is measured without changing it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hopfield_replay.utilities.holdings import modules_of
from hopfield_replay.utilities.random_states import random_states_kept


@runtime_checkable
class Denoiser(Protocol):
    r"""A diffusion model as a denoiser: :math:`x_t = a_t x_0 + s_t \epsilon` and an estimate of x_0 from x_t.

    Any object with these four members is one; it need not inherit, and num_timesteps may be a plain attribute.

    Example:
        >>> class Shrink:  # knows that the data is standard normal
        ...     num_timesteps = 10
        ...     def noise(self, clean, timestep, noise): return (clean + noise) / 2**0.5
        ...     def predict_clean(self, noisy, timestep, condition=None): return noisy / 2**0.5
        ...     def snr(self, timestep): return 1.0
        >>> isinstance(Shrink(), Denoiser)
        True
    """

    @property
    def num_timesteps(self) -> int | None:
        """Timesteps run over 0 <= t < num_timesteps; None for a model of continuous time without bounds."""
        ...

    def noise(self, clean: Tensor, timestep: float, noise: Tensor) -> Tensor:
        """Noise clean samples (n, *shape) to one timestep with the given standard normal noise (n, *shape)."""
        ...

    def predict_clean(self, noisy: Tensor, timestep: float, condition: Any = None) -> Tensor:
        """Estimate the clean samples (n, *shape) from noisy ones at one timestep; differentiable in ``noisy``.

        ``condition`` is what the batch holds besides the samples: None, or any nesting of tensors.
        """
        ...

    def snr(self, timestep: float) -> float:
        """Signal-to-noise ratio a_t^2 / s_t^2, which is the inverse temperature beta of the energies at that time."""
        ...


@contextmanager
def evaluating(*objects: object) -> Iterator[None]:
    """Put every module that ``objects`` are or hold into eval mode, and give each submodule its own flag back after.

    Closures, bound methods and wrappers count as what they refer to. The flags are set directly: ``train()`` may be
    overridden, and would give all submodules one and the same flag.
    """
    roots = [item for given in objects for item in ([given] if isinstance(given, nn.Module) else modules_of(given))]
    flags = [(part, part.training) for module in roots for part in module.modules()]
    for module, _ in flags:
        module.training = False
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def undisturbed(*objects: object, seed: int | None = None) -> Iterator[None]:
    """As :func:`evaluating`; buffers and the random states of torch, Python and NumPy come back as they were, too.

    Whatever is called within: what runs in eval mode changes no buffer, but functions of unknown make may do anything.

    Args:
        objects: modules, and what holds or refers to them.
        seed: of all random states meanwhile; None: they go on from where they are.
    """
    held = [
        (part, name, value, value.detach().clone())
        for module in modules_of(*objects)
        for part in module.modules()
        for name, value in part._buffers.items()
        if value is not None
    ]
    with random_states_kept(seed), evaluating(*objects):
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, before in held:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)
                    if module._buffers.get(name) is not buffer:
                        module._buffers[name] = buffer


__all__ = ["Denoiser", "evaluating", "undisturbed"]
