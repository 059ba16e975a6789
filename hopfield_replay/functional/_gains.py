"""The protected energy as a set function: marginal gains of replay candidates, from a matrix or from vectors."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hopfield_replay.functional.affinity import StreamedAffinity
from hopfield_replay.utilities.device import without_autocast

_CHUNK_ELEMENTS = 1 << 18  # affinities evaluated at a time; in float32 they stay in a core's cache
_STREAM_ELEMENTS = 1 << 21  # the same where they come from a matrix product, which is slow for few rows: 16 MB
_SMALL = 1 << 20  # affinity matrices up to this size are evaluated in float64 throughout
_UNIT = 2.0**-24  # relative rounding of float32


class ProtectedEnergy:
    r"""F(R) = sum_k w_k log(1 + sum_{r in R} a_kr), whose marginal gains are sum_k w_k log(1 + a_kr / (1 + sum_R a_k)).

    Attributes:
        totals: log(1 + sum_{r in R} a_kr) of each target under the present set R, (n,) float64.
        weights: weight of each target, (n,) float64.
    """

    def __init__(self, affinity: Tensor | StreamedAffinity, weights: Tensor) -> None:
        self.weights = weights
        self.totals = torch.zeros_like(weights)
        self._affinity = affinity
        self._screen: Tensor | None = None
        n, count = affinity.shape
        held = _STREAM_ELEMENTS if isinstance(affinity, StreamedAffinity) else _CHUNK_ELEMENTS
        self._step = max(1, held // n)
        screen = _transposed_float32(affinity) if isinstance(affinity, Tensor) and n * count > _SMALL else None
        if screen is not None and screen.max().item() < 1e30:
            self._screen = screen
            # rounding of one logarithm, and of a float32 sum of n of them
            self._slack = 6 * _UNIT * float(weights.sum())
            self._growth = 1 + (n / 8 + 16) * _UNIT
            self._weights32 = weights.float()
            self._folds = _folds(screen.max().item()) if n > 8 and bool((weights == weights[0]).all()) else 0
            self._inverse32 = torch.ones_like(self._weights32)

    @property
    def candidates(self) -> int:
        """Number of candidates."""
        return self._affinity.shape[1]

    @property
    def exact_bounds(self) -> bool:
        """Whether :meth:`bound` gives the gains themselves: it does where nothing is screened."""
        return self._screen is None

    @property
    def value(self) -> float:
        """F(R) of the present set."""
        return float(self.weights @ self.totals)

    def add(self, candidate: int) -> None:
        """Put a candidate into the set."""
        self.totals += self.log_factors([candidate], self.totals)[0]
        if self._screen is not None:
            self._inverse32 = (-self.totals).exp().float()

    def log_factors(self, index: list[int], totals: Tensor) -> Tensor:
        """log(1 + a_kr exp(-totals_k)) of the candidates ``index`` for every target, (b, n) float64."""
        if isinstance(self._affinity, StreamedAffinity):
            rows = self._affinity.log_rows(torch.tensor(index, device=totals.device))
            return softplus(rows.sub_(totals), threshold=40.0)
        if self._screen is not None and self._affinity.dtype == torch.float32:
            rows = self._screen[index].to(torch.float64)  # the same numbers, side by side
        else:
            rows = torch.stack([self._affinity[:, i] for i in index]).to(torch.float64)
        return rows.mul_((-totals).exp()).log1p_()

    def exact(self, index: list[int], totals: Tensor | None = None) -> list[float]:
        """Marginal gains under the present set, or under any other ``totals`` (n,)."""
        totals = self.totals if totals is None else totals
        gains = torch.empty(len(index), dtype=torch.float64, device=totals.device)
        for i in range(0, len(index), self._step):  # into one tensor: small ones kept between large ones split the heap
            part = index[i : i + self._step]
            gains[i : i + len(part)] = self.log_factors(part, totals) @ self.weights
        return list(gains.tolist())

    def shares(self, index: list[int], totals: Tensor) -> Tensor:
        """Sum over ``index`` of a_kr / (exp(totals_k) + a_kr) for every target, (n,) float64."""
        result = torch.zeros_like(totals)
        for i in range(0, len(index), self._step):
            result -= self.log_factors(index[i : i + self._step], totals).neg_().expm1_().sum(0)
        return result

    def bound(self, index: list[int], totals: Tensor | None = None) -> list[float]:
        """Upper bounds on the marginal gains, through float32 where the matrix is large: two times faster."""
        if self._screen is None:
            return self.exact(index, totals)
        inverse = self._inverse32 if totals is None else (-totals).exp().float()
        one, factors = inverse.new_ones(1), inverse.new_empty(min(self._step, len(index)), len(inverse))
        gains = torch.empty(len(index), dtype=torch.float64, device=inverse.device)
        with without_autocast(inverse.device):
            for i in range(0, len(index), self._step):
                part = index[i : i + self._step]
                # 1 + x and its logarithm: log1p costs three times as much, and the slack covers the difference
                for row, candidate in zip(factors, part, strict=False):  # one by one: gathering the rows costs more
                    torch.addcmul(one, self._screen[candidate], inverse, out=row)
                gains[i : i + len(part)] = self._weighted_log(factors[: len(part)])
        return list(gains.mul_(self._growth).add_(self._slack).tolist())

    def _weighted_log(self, factors: Tensor) -> Tensor:
        """Weighted sum of the logs of (b, n) factors, which are overwritten; (b,) float32."""
        for _ in range(self._folds):  # under equal weights, halves are multiplied first: one logarithm for both
            half = factors.shape[1] // 2
            product = factors[:, :half].mul_(factors[:, half : 2 * half])
            if factors.shape[1] % 2:
                product[:, :1].mul_(factors[:, -1:])
            factors = product
        return factors.log_() @ self._weights32[: factors.shape[1]]


def _folds(largest: float) -> int:
    """How often factors up to 1 + largest can be multiplied, up to three at a time, within the range of float32."""
    power = math.log10(1 + largest)
    return 2 if 9 * power < 38 else int(3 * power < 38)


def _transposed_float32(affinity: Tensor) -> Tensor:
    if affinity.dtype == torch.float32 and affinity.T.is_contiguous():
        return affinity.T
    result = torch.empty(affinity.shape[1], affinity.shape[0], dtype=torch.float32, device=affinity.device)
    for start in range(0, len(affinity), 1024):  # in blocks: five times faster than one transposition
        result[:, start : start + 1024] = affinity[start : start + 1024].T
    return result
