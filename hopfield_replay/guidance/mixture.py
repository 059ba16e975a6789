"""Two sets of samples, stored and current, as one mixture of densities at every noise level."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hopfield_replay.functional import PatternTiles, energy, energy_and_retrieval
from hopfield_replay.guidance.calibration import Probes, calibrated_offset
from hopfield_replay.utilities.checks import flatten

_LARGE = 10**6  # numbers in a memory from which converting them to float64 at every step costs more than it gives
_MANY = 10**9  # products from which on "auto" converts none, and takes a GPU's fastest way
_NO_SIGNAL = 1e-30  # inverse temperature at which every sample counts alike


class Share(NamedTuple):
    """What the memory says of n noisy samples.

    Attributes:
        responsibility: (n,) float64, in [0, 1]: how far each noisy sample comes from the memory.
        clean: (n, d) float64, the memory's estimate of the clean samples.
    """

    responsibility: Tensor
    clean: Tensor


class SampleMixture:
    r"""The mixture :math:`s\, p_\mathrm{mem} + (1 - s)\, p_\mathrm{cur}` at :math:`x_t = a_t x_0 + s_t \epsilon`.

    Both densities are those of samples: :math:`p(x_t) = \sum_\mu w_\mu N(x_t; a_t \xi_\mu, s_t^2 I)`, so that
    :math:`\log p = -\beta E_d(x_t / a_t)` up to a constant they share, with the distance-form energy at
    :math:`\beta = a_t^2 / s_t^2`. A noisy sample comes from the memory with probability

    .. math:: r = \sigma(\mathrm{logit}\, s + \delta_t + \log p_\mathrm{mem}(x_t) - \log p_\mathrm{cur}(x_t))

    and the score of the mixture is (1 - r) times that of p_cur plus r times that of p_mem.

    The memory's density is exact. The current one is that of finitely many samples, which underrates what the model
    newly generates; without correction the memory would get more than its share, the more so the higher the dimension.
    The mean of r under the mixture itself must be s: :math:`\delta_t` is the smallest correction with which it is, over
    noised samples of both sets, current ones being left out of their own density.

    Args:
        memory: stored samples.
        current: samples of the distribution that the model generates; two at least.
        probes: noised samples of each set that the correction is computed from, once for each noise level; 0: none.

    Example:
        >>> old, new = torch.tensor([[-1.0], [-1.2]]), torch.tensor([[1.0], [1.2]])
        >>> mixture = SampleMixture(PatternTiles(old), PatternTiles(new), probes=0)
        >>> share = mixture.share(torch.tensor([[-1.0], [0.0], [1.0]]), signal=1.0, noise=0.5, strength=0.5)
        >>> share.responsibility.round(decimals=2).tolist()
        [1.0, 0.5, 0.0]
        >>> share.clean[1].round(decimals=2).tolist()
        [-1.06]

    Source: Bayes' rule; the score of a set of samples as in Karras et al., arXiv:2206.00364, appendix B.3.
    """

    def __init__(self, memory: PatternTiles, current: PatternTiles, probes: int = 512) -> None:
        self.memory, self.current, self.probes = memory, current, probes
        self._drawn: tuple[Probes, Probes] | None = None
        self._offsets: dict[tuple[float, float], float] = {}

    def share(self, noisy: Tensor, signal: float, noise: float, strength: float) -> Share:
        """What the memory says of noisy samples (n, *shape) at amounts (a_t, s_t), at strength s in [0, 1]."""
        points = flatten(noisy, "the noisy samples").detach()
        beta = (signal / noise) ** 2 if signal else _NO_SIGNAL
        points = points / signal if signal else torch.zeros_like(points)
        if strength == 0:
            return Share(*(points.new_zeros(shape, dtype=torch.float64) for shape in (len(points), points.shape)))
        numbers = len(self.memory) * points.shape[1]
        many = points.is_cuda and numbers * len(points) > _MANY
        single = points.dtype == torch.float32 and numbers >= _LARGE and not many
        stored = energy_and_retrieval(points, self.memory, beta, precision="float32" if single else "auto")
        if strength == 1:
            return Share(torch.ones_like(stored.energy), stored.retrieval)
        odds = beta * (energy(points, self.current, beta) - stored.energy)
        odds += math.log(strength / (1 - strength)) + self._offset(beta, strength)
        return Share(odds.sigmoid(), stored.retrieval)

    def _offset(self, beta: float, strength: float) -> float:
        """The correction of the log-odds."""
        if not self.probes or beta == _NO_SIGNAL:
            return 0.0
        if self._drawn is None:
            draw = torch.Generator().manual_seed(0)
            self._drawn = Probes.of(self.memory, self.probes, draw), Probes.of(self.current, self.probes, draw)
        if (beta, strength) not in self._offsets:
            old, new = self._drawn
            old_odds = self._log_odds(old.noised(beta**-0.5), beta, None)
            new_odds = self._log_odds(new.noised(beta**-0.5), beta, new.index)
            self._offsets[beta, strength] = calibrated_offset(old, old_odds, new, new_odds, strength)
        return self._offsets[beta, strength]

    def _log_odds(self, points: Tensor, beta: float, index: Tensor | None) -> Tensor:
        """Log-odds of the memory; ``index``: which current sample a point is, to be left out."""
        return beta * (energy(points, self.current, beta, exclude=index) - energy(points, self.memory, beta))
