"""A Gaussian mixture whose optimal denoiser and density are known in closed form, written without the library."""

import math

import torch
from torch import Tensor

from hopfield_replay.denoisers import CallableDenoiser, ContinuousSchedule


class Mixture:
    """Components N(centre, width^2 I) with weights; width 0 is the empirical distribution of patterns."""

    def __init__(self, centres: Tensor, width: float, weights: Tensor | None = None) -> None:
        self.centres, self.width = centres.double(), width
        self.weights = torch.ones(len(centres)).double() / len(centres) if weights is None else weights.double()

    def _scores(self, y: Tensor, sigma: float) -> Tensor:
        distances = (y[:, None] - self.centres).square().sum(-1)
        return self.weights.log() - distances / (2 * (self.width**2 + sigma**2))

    def log_density(self, y: Tensor, sigma: float) -> Tensor:
        """log p of data blurred by sigma."""
        variance = self.width**2 + sigma**2
        return self._scores(y, sigma).logsumexp(1) - y.shape[1] / 2 * math.log(2 * math.pi * variance)

    def clean(self, y: Tensor, sigma: float) -> Tensor:
        """Posterior mean of x_0 given y = x_0 + sigma eps."""
        share = self.width**2 / (self.width**2 + sigma**2)
        posterior = self._scores(y, sigma).softmax(1)
        return share * y + (1 - share) * posterior @ self.centres

    def exploding(self) -> CallableDenoiser:
        """The mixture as a model of continuous time: x_t = x_0 + t eps."""
        schedule = ContinuousSchedule(signal=lambda t: 1.0, noise=lambda t: t)
        return CallableDenoiser(lambda x, t: self.clean(x, float(t[0])), schedule, prediction_type="sample")

    def preserving(self, steps: int = 1000) -> CallableDenoiser:
        """The mixture as a DDPM with the linear schedule that predicts noise."""
        levels = (1 - torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)).cumprod(0)

        def epsilon(x: Tensor, t: Tensor) -> Tensor:
            a, s = levels[t[0]].sqrt(), (1 - levels[t[0]]).sqrt()
            return (x - a * self.clean(x / a, float(s / a))) / s

        return CallableDenoiser(epsilon, levels, prediction_type="epsilon")
