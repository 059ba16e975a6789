"""The protected energy as a set function: marginal gains of replay candidates, from a matrix or from vectors."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hopfield_replay.functional.affinity import StreamedAffinity

_CHUNK_ELEMENTS = 1 << 18  # affinities evaluated at a time; in float32 they stay in a core's cache
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
        screen = _transposed_float32(affinity) if isinstance(affinity, Tensor) and n * count > _SMALL else None
        if screen is not None and screen.max().item() < 1e30:
            self._screen = screen
            # rounding of one logarithm, and of a float32 sum of n of them
            self._slack = 4 * _UNIT * float(weights.sum())
            self._growth = 1 + (n / 8 + 16) * _UNIT
            self._weights32 = weights.float()
            self._inverse32 = torch.ones_like(self._weights32)

    @property
    def candidates(self) -> int:
        """Number of candidates."""
        return self._affinity.shape[1]

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
        step = max(1, _CHUNK_ELEMENTS // max(1, len(totals)))
        parts = [self.log_factors(index[i : i + step], totals) @ self.weights for i in range(0, len(index), step)]
        return torch.cat(parts).tolist() if parts else []

    def shares(self, index: list[int], totals: Tensor) -> Tensor:
        """Sum over ``index`` of a_kr / (exp(totals_k) + a_kr) for every target, (n,) float64."""
        result = torch.zeros_like(totals)
        step = max(1, _CHUNK_ELEMENTS // max(1, len(totals)))
        for i in range(0, len(index), step):
            result -= self.log_factors(index[i : i + step], totals).neg_().expm1_().sum(0)
        return result

    def bound(self, index: list[int], totals: Tensor | None = None) -> list[float]:
        """Upper bounds on the marginal gains, through float32 where the matrix is large: two times faster."""
        if self._screen is None:
            return self.exact(index, totals)
        inverse = self._inverse32 if totals is None else (-totals).exp().float()
        step = max(1, _CHUNK_ELEMENTS // max(1, len(self.weights)))
        one, factors = inverse.new_ones(1), inverse.new_empty(min(step, len(index)), len(inverse))
        gains = []
        for i in range(0, len(index), step):
            part = index[i : i + step]
            # 1 + x and its logarithm: log1p costs three times as much, and the slack covers the difference
            for row, candidate in zip(factors, part, strict=False):  # one by one: gathering the rows costs more
                torch.addcmul(one, self._screen[candidate], inverse, out=row)
            gains.append(factors[: len(part)].log_() @ self._weights32)
        return torch.cat(gains).to(torch.float64).mul_(self._growth).add_(self._slack).tolist() if gains else []


def _transposed_float32(affinity: Tensor) -> Tensor:
    if affinity.dtype == torch.float32 and affinity.T.is_contiguous():
        return affinity.T
    result = torch.empty(affinity.shape[1], affinity.shape[0], dtype=torch.float32, device=affinity.device)
    for start in range(0, len(affinity), 1024):  # in blocks: five times faster than one transposition
        result[:, start : start + 1024] = affinity[start : start + 1024].T
    return result
