"""Which samples to replay: greedy maximisation of the protected energy, with a certificate of how good it is."""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hopfield_replay.functional._gains import ProtectedEnergy
from hopfield_replay.functional._lazy import LazyGreedy
from hopfield_replay.functional._sparse_gains import SparseGains
from hopfield_replay.functional.affinity import StreamedAffinity
from hopfield_replay.functional.quotas import check_quotas
from hopfield_replay.functional.sparse_affinity import SparseAffinity
from hopfield_replay.utilities.checks import check_beta, check_integer
from hopfield_replay.utilities.drawing import draw_lines
from hopfield_replay.utilities.showing import Shown, jsonable

if TYPE_CHECKING:
    from hopfield_replay.utilities.drawing import Axes


@dataclass(frozen=True, eq=False, repr=False)
class Selection(Shown):
    """A replay set and what it is worth.

    Attributes:
        indices: (k,) candidates, best first. The first j of them are the greedy set of size j (without quotas).
        gains: (k,) float64, what each pick added to ``value``.
        protected: (n,) float64, energy that the set protects of each target: (1/beta) log(1 + sum_{r in R} a_kr).
        value: objective that was maximised.
        upper_bound: no set of this size (and these quotas) is worth more; inf where no bound is known.
        mean: weighted mean of ``protected`` over all targets, without ``importance``.
        tail: weighted mean of ``protected`` over the tail, the targets most at risk.

    Example:
        >>> import torch
        >>> chosen = greedy_replay_gain(torch.tensor([[3.0, 0.0, 1.5], [0.0, 3.0, 1.5]]), 2, beta=1.0)
        >>> chosen.indices.tolist(), chosen.gains.round(decimals=3).tolist()  # first what helps both targets
        ([2, 0], [1.833, 0.788])
        >>> chosen.value <= chosen.upper_bound
        True
    """

    indices: Tensor
    gains: Tensor
    protected: Tensor
    value: float
    upper_bound: float
    mean: float
    tail: float

    @property
    def guaranteed_share(self) -> float:
        """Certified part of the optimum that was reached: value / upper_bound, 1 if there is nothing to gain."""
        return self.value / self.upper_bound if self.upper_bound > 0 else 1.0

    def _line(self) -> str:
        bound = "of unknown share" if math.isinf(self.upper_bound) else f">= {self.guaranteed_share:.3f}"
        return (
            f"Selection({len(self.indices)} samples, protected energy {self.mean:.4g}, worst tail {self.tail:.4g}, "
            f"{bound} of the optimum)"
        )

    def rows(self) -> list[dict[str, Any]]:
        """For each pick its rank from 1, the candidate, and what it added."""
        picks = zip(self.indices.tolist(), self.gains.tolist(), strict=True)
        return [{"rank": i + 1, "candidate": at, "gain": gain} for i, (at, gain) in enumerate(picks)]

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain Python, ready for JSON; an unknown bound is None."""
        held = {part.name: getattr(self, part.name) for part in fields(self)}
        result: dict[str, Any] = jsonable(held | {"guaranteed_share": self.guaranteed_share})
        return result

    def _draw(self, axis: "Axes") -> None:
        worth = self.gains.cumsum(0).tolist()
        draw_lines(axis, {"protected energy": list(enumerate(worth, 1))})
        axis.set(xlabel="samples kept, best first", ylabel="objective (energy, squared units)")


def greedy_replay_gain(
    affinity: Tensor | StreamedAffinity | SparseAffinity,
    k: int,
    *,
    weights: Tensor | None = None,
    importance: Tensor | None = None,
    tail_weight: float = 0.0,
    tail_share: float = 0.1,
    risk: Tensor | None = None,
    groups: Tensor | None = None,
    quotas: Tensor | None = None,
    beta: float = 1.0,
    tighten: int = 0,
) -> Selection:
    r"""Greedy choice of k candidates that together protect the most energy.

    .. math:: F(R) = \sum_k w_k \frac1\beta \log\Big(1 + \sum_{r \in R} a_{kr}\Big)

    is monotone and submodular in R, so greedy reaches at least 1 - (1 - 1/k)^k > 1 - 1/e of the optimum (1/2 with
    quotas). Lazy evaluation gives the set of plain greedy; of equal gains the lowest index wins.

    **The certificate.** No set of size k is worth more than F(S) plus the k largest remaining marginal gains. More
    generally, for any c >= 0 in place of the logs log(1 + sum_S a) of the greedy set S,

    .. math:: \max_{|R| = k} F(R) \le \frac1\beta \Big[\sum_k w_k c_k
              + \text{sum of the } k \text{ largest } \sum_k w_k \log(1 + a_{kr} e^{-c_k})\Big],

    since 1 + sum_R a <= e^c prod_R (1 + a e^-c). It is convex in c: ``tighten`` subgradient steps lower it, each for
    the price of one evaluation of all candidates. ``upper_bound`` is the smallest bound met.

    **The objectives.** The tail are the ceil(tail_share n) targets of highest risk. It is fixed beforehand: then every
    blend of mean and tail is a weighting of the targets, w_k = u_k [(1 - t) + t 1_tail(k) sum u / sum_tail u], and
    stays submodular, which the mean over the worst targets *after* replay would not. ``importance`` multiplies these
    weights, as by the rises that :func:`rise_weights` tells of. ``value``, ``gains`` and the certificate are of what
    was maximised; mean and tail are reported of the u_k alone, whatever that was.

    Args:
        affinity: (targets, candidates) matrix a_kr >= 0 (see :func:`affinity`); a :class:`StreamedAffinity` for sets
            whose matrix does not fit; or a :class:`SparseAffinity`, of which the choice sees what is kept. What is
            reported with a sparse one that has ``bounds`` is of all affinities; without them it is of those that are
            kept, and there is no upper bound (inf).
        k: number of candidates to pick, from 1 to C.
        weights: (n,) weight u_k >= 0 of each target; ones if None, so that ``value`` is a total.
        importance: (n,) >= 0, how much more each target counts in what is maximised; ones if None.
        tail_weight: t in [0, 1]: 0 maximises the total over all targets, 1 over the tail only.
        tail_share: share of the targets that make up the tail, in (0, 1].
        risk: (n,) how badly each target would fare without replay, for instance :func:`energy_rise`; only its order
            matters. If None the affinity to all candidates together, which is m exp(beta dE_k) when the candidates are
            the old patterns with equal masses: the tail then are the targets with the largest rise.
        groups: (C,) integer group of each candidate, counted from 0, to pick from every group its quota.
        quotas: (G,) picks from each group, with sum k; :func:`equal_quotas` if None.
        beta: inverse temperature of the affinity, by which values are divided; with 1 they are in nats.
        tighten: subgradient steps on the upper bound, >= 0; none with a sparse affinity. Some 20 often halve the gap.

    Returns:
        A :class:`Selection`.

    Raises:
        ValueError: affinities that are negative or not finite, k out of range, shapes or quotas that do not fit.
        TypeError: an affinity that is no floating tensor.

    Example:
        >>> import torch
        >>> a = torch.tensor([[9.0, 8.0, 0.0], [9.0, 8.0, 0.0], [0.0, 0.0, 3.0]])
        >>> chosen = greedy_replay_gain(a, 2)
        >>> chosen.indices  # candidate 1 is second best alone, but adds little to candidate 0
        tensor([0, 2])
        >>> round(chosen.value, 3), round(chosen.upper_bound, 3)
        (5.991, 7.167)

    Source: Nemhauser, Wolsey, Fisher (1978) for the guarantee; Minoux (1978) for lazy evaluation.
    """
    n, count = _check_affinity(affinity) if isinstance(affinity, Tensor) else _known_shape(affinity)
    check_integer(k, "k", 1, count, of="the number of candidates", wrong_type=TypeError)
    beta = check_beta(beta)
    check_integer(tighten, "tighten", 0)
    weights = _check_weights(weights, n, affinity.device)
    tail = _tail(affinity, weights, tail_share, risk)
    blend = _blend(weights, tail, tail_weight)
    if importance is not None:
        blend = _check_weights(blend * _check_weights(importance, n, affinity.device, "importance"), n, affinity.device)
    group_of, left = check_quotas(groups, quotas, k, count)

    if isinstance(affinity, SparseAffinity):
        return _sparse(affinity, k, weights, tail, blend, group_of, list(left), beta)
    function = ProtectedEnergy(affinity, blend)
    greedy = LazyGreedy(function, group_of, list(left))
    greedy.run(k)
    a_priori = 1 - (1 - 1 / k) ** k if len(left) == 1 else 0.5
    upper = min(function.value / a_priori, function.value + greedy.largest(left))
    if tighten:
        upper = min(upper, _dual_bound(function, group_of, left, tighten))
    protected = function.totals / beta
    return Selection(
        indices=torch.tensor(greedy.picks, device=affinity.device),
        gains=torch.tensor(greedy.values, dtype=torch.float64, device=affinity.device) / beta,
        protected=protected,
        value=function.value / beta,
        upper_bound=upper / beta,
        mean=_average(protected, weights),
        tail=_average(protected[tail], weights[tail]),
    )


def _sparse(
    affinity: SparseAffinity,
    k: int,
    weights: Tensor,
    tail: Tensor,
    blend: Tensor,
    groups: list[int],
    quotas: list[int],
    beta: float,
) -> Selection:
    """Choose by what is kept; what the choice is worth is computed of all affinities where bounds are asked for."""
    function = SparseGains(affinity, blend)
    greedy = LazyGreedy(function, groups, list(quotas))
    greedy.run(k)
    picks, totals, upper = torch.tensor(greedy.picks), function.totals, math.inf
    if affinity.dropped is not None:
        totals = softplus(affinity.rows.log_sums(picks), threshold=40.0)
        upper = function.upper_bound(picks, totals, torch.tensor(groups), quotas)
    protected = totals / beta
    return Selection(
        indices=picks.to(affinity.device),
        gains=torch.tensor(greedy.values, dtype=torch.float64) / beta,
        protected=protected,
        value=float(blend @ protected),
        upper_bound=upper / beta,
        mean=_average(protected, weights),
        tail=_average(protected[tail], weights[tail]),
    )


def protected_energy(affinity: Tensor | StreamedAffinity, indices: Tensor, *, beta: float = 1.0) -> Tensor:
    r"""Energy that a replay set protects of each target: (1/beta) log(1 + sum_{r in R} a_kr).

    Args:
        affinity: (targets, candidates) matrix or :class:`StreamedAffinity`.
        indices: (m,) distinct candidates in the set.
        beta: inverse temperature of the affinity; with 1 the result is in nats.

    Returns:
        (n,) float64.

    Raises:
        ValueError, TypeError: as :func:`greedy_replay_gain`; an index given twice or out of range.

    Example:
        >>> import torch
        >>> protected_energy(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([0, 2]))  # log 4
        tensor([1.3863], dtype=torch.float64)

    Source: the identity of :func:`replay_gain`.
    """
    n, count = _check_affinity(affinity) if isinstance(affinity, Tensor) else _known_shape(affinity)
    beta = check_beta(beta)
    chosen = indices.tolist()
    if indices.ndim != 1 or len(set(chosen)) < len(chosen) or not all(0 <= i < count for i in chosen):
        raise ValueError(f"indices must be distinct candidates in [0, {count}), got a tensor {tuple(indices.shape)}.")
    function = ProtectedEnergy(affinity, torch.ones(n, dtype=torch.float64, device=affinity.device))
    for i in chosen:
        function.add(i)
    return function.totals / beta


def _dual_bound(function: ProtectedEnergy, groups: list[int], quotas: list[int], steps: int) -> float:
    """Smallest of the bounds above along subgradient steps on c, from the greedy set's own logs."""
    every, best = list(range(function.candidates)), math.inf
    totals = function.totals.clone()
    group = torch.tensor(groups)
    for step in range(steps):
        gains = torch.tensor(function.bound(every, totals), dtype=torch.float64)
        top = [members[gains[members].topk(quota).indices] for members, quota in _members(group, quotas)]
        chosen = torch.cat(top)
        best = min(best, float(function.weights @ totals) + float(gains[chosen].sum()))
        # d/dc_k of the bound is w_k (1 - sum over the chosen of a / (e^c + a)); w_k is left out: a step in units of c
        slope = 1 - function.shares(chosen.tolist(), totals)
        totals = (totals - 0.5 / math.sqrt(1 + step) * slope).clamp_(min=0.0)
    return best


def _members(group: Tensor, quotas: list[int]) -> list[tuple[Tensor, int]]:
    return [((group == g).nonzero().flatten(), quota) for g, quota in enumerate(quotas)]


def _blend(weights: Tensor, tail: Tensor, tail_weight: float) -> Tensor:
    if not 0 <= tail_weight <= 1:
        raise ValueError(f"tail_weight must lie in [0, 1], got {tail_weight}.")
    blend = (1 - tail_weight) * weights
    blend[tail] += tail_weight * weights[tail] * (weights.sum() / weights[tail].sum())
    return blend


def _tail(
    affinity: Tensor | StreamedAffinity | SparseAffinity, weights: Tensor, share: float, risk: Tensor | None
) -> Tensor:
    """The targets of positive weight with the highest risk; of equal risk those with the lowest index."""
    if not 0 < share <= 1:
        raise ValueError(f"tail_share must lie in (0, 1], got {share}.")
    if risk is None:
        risk = affinity.sum(1) if isinstance(affinity, Tensor) else affinity.log_totals()
    elif risk.shape != weights.shape or bool(risk.isnan().any()):
        raise ValueError(
            f"risk must be ({len(weights)},), one number for each target and no NaN, got {tuple(risk.shape)}."
        )
    counted = (weights > 0).nonzero().flatten()
    size = math.ceil(round(share * len(counted), 9))  # 0.1 x 30 is 3.0000000000000004
    return counted[risk.to(weights.device)[counted].argsort(descending=True, stable=True)[:size]]


def _average(values: Tensor, weights: Tensor) -> float:
    return float((values * weights).sum() / weights.sum())


def _known_shape(affinity: StreamedAffinity | SparseAffinity) -> tuple[int, int]:
    if not isinstance(affinity, StreamedAffinity | SparseAffinity):
        kind = type(affinity).__name__
        raise TypeError(
            f"affinity must be a floating tensor (targets, candidates), a StreamedAffinity or a SparseAffinity, got "
            f"{kind}."
        )
    return affinity.shape


def _check_affinity(affinity: Tensor) -> tuple[int, int]:
    if not isinstance(affinity, Tensor) or not affinity.is_floating_point():
        kind = affinity.dtype if isinstance(affinity, Tensor) else type(affinity).__name__
        raise TypeError(f"affinity must be a floating tensor (targets, candidates) or a StreamedAffinity, got {kind}.")
    if affinity.ndim != 2 or not affinity.numel():
        raise ValueError(
            f"affinity must be (targets, candidates) with at least one of each, got {tuple(affinity.shape)}."
        )
    low, high = (float(bound) for bound in (affinity.T if affinity.T.is_contiguous() else affinity).aminmax())
    if not (low >= 0 and high * affinity.shape[1] < math.inf):  # NaN fails the first comparison
        raise ValueError(
            f"affinity must be finite and not negative, got values from {low} to {high}. Affinities that overflow "
            "can be given by their logarithms, as a StreamedAffinity."
        )
    return affinity.shape[0], affinity.shape[1]


def _check_weights(weights: Tensor | None, n: int, device: torch.device, name: str = "weights") -> Tensor:
    if weights is None:
        return torch.ones(n, dtype=torch.float64, device=device)
    if weights.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one for each target, got {tuple(weights.shape)}.")
    weights = weights.to(device=device, dtype=torch.float64)
    if not (float(weights.min()) >= 0 and 0 < float(weights.sum()) < math.inf):
        raise ValueError(f"{name} must be finite and not negative, and not all zero.")
    return weights
