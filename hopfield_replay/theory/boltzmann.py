"""The modern-Hopfield Boltzmann machine (attention Boltzmann machine): energy, exact normaliser, exact training."""

import math

import torch
from torch import Tensor, nn

from hopfield_replay.utilities.progress import track


class HopfieldBoltzmann(nn.Module):
    r"""A Boltzmann machine whose energy is a modern Hopfield energy, so that its likelihood is exact.

    With learned patterns w_mu, log masses c_mu and offset b, and p(v) = exp(-beta E(v)) / Z,

    .. math::
        E(v) = \frac{|v - b|^2}{2} - \frac1\beta \log \sum_\mu e^{\beta \langle w_\mu, v \rangle + c_\mu}, \qquad
        \log Z = \frac d2 \log \frac{2\pi}{\beta}
                 + \log \sum_\mu e^{\beta |w_\mu|^2 / 2 + \beta \langle w_\mu, b \rangle + c_\mu}:

    a mixture of Gaussians of variance 1/beta around b + w_mu. Many machines are trained side by side by giving them
    batch dimensions.

    Args:
        hidden: number of hidden units K (learned patterns), >= 1.
        d: dimension, >= 1.
        beta: inverse temperature, > 0.
        batch: leading dimensions of independent machines, each with its own parameters.
        scale: standard deviation of the initial w, >= 0; c and b start at 0.
        seed: of the initial w.

    Raises:
        ValueError: out of range.

    Example:
        >>> machine = HopfieldBoltzmann(3, 2, beta=4.0)
        >>> machine.negative_log_likelihood(torch.zeros(5, 2, dtype=torch.float64)).shape
        torch.Size([5])

    Source: Ota and Karakida, "Attention in a family of Boltzmann machines emerging from modern Hopfield networks",
    Neural Computation 35 (2023), arXiv:2212.04692; there beta = 1.
    """

    def __init__(
        self, hidden: int, d: int, beta: float, *, batch: tuple[int, ...] = (), scale: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        if hidden < 1 or d < 1 or not beta > 0 or not scale >= 0:
            raise ValueError(
                f"need hidden >= 1, d >= 1, beta > 0 and scale >= 0, got {hidden}, {d}, {beta} and {scale}."
            )
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(*batch, hidden, d, generator=generator, dtype=torch.float64)
        self.beta = float(beta)
        self.weight = nn.Parameter(scale * start)
        self.log_masses = nn.Parameter(torch.zeros(*batch, hidden, dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros(*batch, d, dtype=torch.float64))

    def _logits(self, v: Tensor) -> Tensor:
        return self.beta * v @ self.weight.mT + self.log_masses[..., None, :]

    def energy(self, v: Tensor) -> Tensor:
        """Energy E(v), (*batch, n) float64, of points (*batch, n, d); a plain (n, d) is given to every machine."""
        confinement = 0.5 * (v - self.offset[..., None, :]).square().sum(-1)
        return confinement - self._logits(v).logsumexp(-1) / self.beta

    def log_partition(self) -> Tensor:
        """Logarithm of the normaliser Z, (*batch,) float64."""
        inner = (self.weight * (0.5 * self.weight + self.offset[..., None, :])).sum(-1)
        gaussian = 0.5 * self.weight.shape[-1] * math.log(2 * math.pi / self.beta)
        return gaussian + (self.beta * inner + self.log_masses).logsumexp(-1)

    def negative_log_likelihood(self, v: Tensor) -> Tensor:
        """-log p(v) = beta E(v) + log Z, (*batch, n) float64, in nats."""
        return self.beta * self.energy(v) + self.log_partition()[..., None]

    def gradient(self, v: Tensor) -> Tensor:
        """Gradient of the energy, v - b - sum_mu p_mu(v) w_mu, (*batch, n, d); zero at the fixed points."""
        return v - self.offset[..., None, :] - self._logits(v).softmax(-1) @ self.weight

    def train_on(self, data: Tensor, *, masses: Tensor | None = None, steps: int, lr: float = 0.01) -> None:
        """Maximise the likelihood by full-batch Adam, in place, all machines independently.

        Args:
            data: (n, d), or (*batch, n, d) for different data for each machine.
            masses: weights of the data, (n,) or (*batch, n), >= 0; ones if None.
            steps: number of updates, >= 0.
            lr: learning rate, > 0.
        """
        weights = data.new_ones(data.shape[:-1]) if masses is None else masses
        shares = weights / weights.sum(-1, keepdim=True)
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        for _ in track(range(steps), "Training machines"):
            optimizer.zero_grad()
            loss = (shares * self.negative_log_likelihood(data)).sum()
            loss.backward()
            optimizer.step()


__all__ = ["HopfieldBoltzmann"]
