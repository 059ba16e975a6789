"""What the measurements need to know of a diffusion model, and how a model is measured without changing it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


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
    """Put every module among ``objects`` into eval mode, and give each of its submodules its own flag back after.

    The flags are set directly: ``train()`` may be overridden, and would give all submodules one and the same flag.
    """
    modules = [module for item in objects if isinstance(item, nn.Module) for module in item.modules()]
    switched = [module for module in modules if module.training]
    for module in switched:
        module.training = False
    try:
        yield
    finally:
        for module in switched:
            module.training = True


__all__ = ["Denoiser", "evaluating"]
