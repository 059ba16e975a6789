"""A denoiser that is another one in all but what it changes."""

from typing import Any

from torch import Tensor

from hopfield_replay.functional.denoiser import Denoiser


class DelegatingDenoiser:
    """Passes everything on to :attr:`denoiser`; derived classes override what they change, such as predict_clean.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> import torch
        >>> class Halved(DelegatingDenoiser):
        ...     denoiser = CallableDenoiser(lambda x, t: x, torch.tensor([0.9, 0.5]), prediction_type="sample")
        ...     def predict_clean(self, noisy, timestep, condition=None):
        ...         return super().predict_clean(noisy, timestep, condition) / 2
        >>> Halved().num_timesteps, Halved().predict_clean(torch.ones(1, 2), 1)
        (2, tensor([[0.5000, 0.5000]]))
    """

    denoiser: Denoiser

    @property
    def num_timesteps(self) -> int | None:
        """Timesteps run over 0 <= t < num_timesteps; None if time is unbounded."""
        return self.denoiser.num_timesteps

    def noise(self, clean: Tensor, timestep: float, noise: Tensor) -> Tensor:
        """Noise clean samples to a timestep."""
        return self.denoiser.noise(clean, timestep, noise)

    def predict_clean(self, noisy: Tensor, timestep: float, condition: Any = None) -> Tensor:
        """Estimate the clean samples."""
        return self.denoiser.predict_clean(noisy, timestep, condition)

    def snr(self, timestep: float) -> float:
        """Signal-to-noise ratio."""
        return self.denoiser.snr(timestep)


__all__ = ["DelegatingDenoiser"]
