"""The protected energy as a set function of sparse affinities, and a bound on what any set can reach."""

import copy

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hopfield_replay.functional.sparse_affinity import SparseAffinity

_ENTRIES = 1 << 20  # evaluated at a time


class SparseGains:
    r"""F(R) = sum_k w_k log(1 + sum_{r in R} a_kr) over the affinities that are kept; see :class:`ProtectedEnergy`.

    Attributes:
        totals: log(1 + sum_{r in R} a_kr) of each target under the present set R, (n,) float64.
        weights: weight of each target, (n,) float64.
    """

    exact_bounds = True

    def __init__(self, affinity: SparseAffinity, weights: Tensor) -> None:
        self.weights = weights
        self.totals = torch.zeros_like(weights)
        self._affinity = affinity

    @property
    def candidates(self) -> int:
        """Number of candidates."""
        return self._affinity.shape[1]

    @property
    def value(self) -> float:
        """F(R) of the present set."""
        return float(self.weights @ self.totals)

    def exact(self, index: list[int]) -> list[float]:
        """Marginal gains under the present set."""
        return list(self._gains(torch.tensor(index), self.totals).tolist())

    bound = exact

    def gains(self, totals: Tensor) -> Tensor:
        """Marginal gains of all candidates under any ``totals`` (n,), (C,) float64."""
        return self._gains(torch.arange(self.candidates), totals)

    def shares(self, index: Tensor, totals: Tensor) -> Tensor:
        """Sum over the candidates ``index`` of a_kr / (exp(totals_k) + a_kr) for every target, (n,) float64."""
        found = torch.zeros_like(totals)
        for begin, end in torch.stack([self._affinity.starts[index], self._affinity.starts[index + 1]], 1).tolist():
            targets = self._affinity.targets[begin:end]
            found.index_add_(0, targets, (self._affinity.logs[begin:end] - totals[targets]).sigmoid_())
        return found

    def add(self, candidate: int) -> None:
        """Put a candidate into the set."""
        begin, end = self._affinity.starts[candidate : candidate + 2].tolist()
        targets = self._affinity.targets[begin:end]
        self.totals[targets] += softplus(self._affinity.logs[begin:end] - self.totals[targets], threshold=40.0)

    def upper_bound(self, picks: Tensor, totals: Tensor, groups: Tensor, quotas: list[int]) -> float:
        r"""No set R with these quotas is worth more than this, whatever was dropped.

        With the picks S, their true c_k = log(1 + sum_S a_kr) in ``totals`` (n,), and a bound d_k on what the dropped
        candidates of a set can add up to,

        .. math:: F(R) \le F(S \cup R) \le \sum_k w_k \big[c_k + \log(1 + d_k e^{-c_k})\big]
                  + \text{the largest } \sum_k w_k \log(1 + a_{kr} e^{-c_k}) \text{ of the others}.
        """
        dropped = self._affinity.dropped
        assert dropped is not None
        most = torch.minimum(dropped.total, dropped.largest + torch.tensor(float(sum(quotas))).log())
        gains = self._gains(torch.arange(self.candidates), totals, dropped.excess).index_fill_(0, picks, 0.0)
        best = sum(float(gains[groups == group].topk(quota).values.sum()) for group, quota in enumerate(quotas))
        return float(self.weights @ (totals + softplus(most - totals, threshold=40.0))) + best

    @staticmethod
    def _terms(logs: Tensor, totals: Tensor) -> Tensor:
        """What each entry would add to its target's total."""
        return softplus(logs - totals, threshold=40.0)

    def _gains(self, index: Tensor, totals: Tensor, excess: Tensor | None = None) -> Tensor:
        """Marginal gains (b,) of the candidates ``index`` under any ``totals`` (n,)."""
        affinity = self._affinity
        begins, ends = affinity.starts[index], affinity.starts[index + 1]
        counts = ends - begins
        edges = counts.cumsum(0)
        gains = torch.empty(len(index), dtype=torch.float64)
        first = 0
        while first < len(index):  # as many candidates as have a bounded number of entries
            before = int(edges[first - 1]) if first else 0
            last = max(first + 1, int(torch.searchsorted(edges, before + _ENTRIES, right=True)))
            if bool((begins[first + 1 : last] == ends[first : last - 1]).all()):  # they lie side by side
                spans = [slice(int(begins[first]), int(ends[last - 1]))]
            else:
                spans = [slice(*span) for span in torch.stack([begins, ends], 1)[first:last].tolist()]
            targets, logs = _cut(affinity.targets, spans), _cut(affinity.logs, spans)
            logs = logs if excess is None else logs + _cut(excess, spans)
            terms = self._terms(logs, totals.index_select(0, targets))
            terms *= self.weights.index_select(0, targets)
            gains[first:last] = torch.segment_reduce(terms, "sum", lengths=counts[first:last], initial=0.0)
            first = last
        return gains


class SparseCloseness(SparseGains):
    r"""Fall of sum_i min(r_i, min_{s in R} |x_i - x_s|), where r_i is the distance to the farthest that is kept of i.

    Attributes:
        totals: the minima themselves, (n,) float64.
    """

    def __init__(self, affinity: SparseAffinity) -> None:
        super().__init__(affinity, torch.ones(affinity.shape[0], dtype=torch.float64))
        self._affinity = copy.copy(affinity)
        self._affinity.logs = affinity.distances()
        self.totals.scatter_reduce_(0, affinity.targets.long(), self._affinity.logs.double(), "amax")

    def add(self, candidate: int) -> None:
        """Put a candidate into the set."""
        begin, end = self._affinity.starts[candidate : candidate + 2].tolist()
        targets = self._affinity.targets[begin:end]
        self.totals[targets] = torch.minimum(self.totals[targets], self._affinity.logs[begin:end].double())

    @staticmethod
    def _terms(logs: Tensor, totals: Tensor) -> Tensor:
        return (totals - logs).clamp_(min=0.0)


def _cut(values: Tensor, spans: list[slice]) -> Tensor:
    """The values in these spans, one after the other."""
    return values[spans[0]] if len(spans) == 1 else torch.cat([values[span] for span in spans])


__all__ = ["SparseCloseness", "SparseGains"]
