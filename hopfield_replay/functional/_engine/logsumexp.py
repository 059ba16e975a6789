"""The streaming log-sum-exp under every energy: patterns pass by in tiles, and only sums per query are kept."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Sums:
    """What one pass over the patterns leaves for n queries, all float64.

    Attributes:
        log_mass: (n,) log of the masses that were summed, log sum_mu w_mu; -inf where nothing is left.
        log_mean: (n,) log of the mean, log(sum_mu w_mu exp(s_mu) / sum_mu w_mu); -inf where nothing is left.
        concentration: (n,) sum_mu p_mu^2 of the responsibilities, 0 where nothing is left; or None.
        mean: (n, d) responsibility-weighted mean of the patterns (the retrieval), zeros where nothing is left; or None.
    """

    log_mass: Tensor
    log_mean: Tensor
    concentration: Tensor | None = None
    mean: Tensor | None = None

    @property
    def logsumexp(self) -> Tensor:
        """(n,) log sum_mu w_mu exp(s_mu)."""
        return self.log_mass + self.log_mean


class Accumulator:
    """Running sums of n queries relative to the largest score so far (in bits), of weights of the scores' dtype.

    Sums of weights are kept in float64. The weighted sum of the patterns is kept in the dtype of the weights, in which
    the product that adds to it is computed.
    """

    def __init__(self, x: Tensor, dtype: torch.dtype, *, square: bool, mean: bool) -> None:
        n, d = x.shape
        self.mass = x.new_zeros(n, dtype=torch.float64)
        self.lowest = torch.finfo(dtype).min  # stands for "no score": a difference to it is finite or -inf, never nan
        self.peak = x.new_full((n,), self.lowest, dtype=dtype)
        self.total = torch.zeros_like(self.mass)
        self.square = torch.zeros_like(self.mass) if square else None
        self.moment = x.new_zeros(n, d, dtype=dtype) if mean else None

    def rise(self, window: slice, top: Tensor) -> Tensor:
        """Take note of the largest scores (rows,) of a block; returns what its weights 2^(u - peak) are relative to."""
        peak = torch.maximum(self.peak[window], top)
        shrink = self.peak[window].to(torch.float64).sub_(peak).exp2_()
        self.total[window] *= shrink
        if self.square is not None:
            self.square[window] *= shrink.square()
        if self.moment is not None:
            rows = (shrink < 1).nonzero().flatten()  # few after the first tiles
            self.moment[window.start + rows] *= shrink[rows, None].to(peak.dtype)
        self.peak[window] = peak
        return peak

    def finish(self, offset: Tensor, centre: Tensor) -> Sums:
        """The sums of absolute scores: ``offset`` (n,) natural logarithm and the centre (d,) put back."""
        log_mass = self.mass.log()
        empty = (self.mass == 0) | (self.peak == self.lowest)
        log_total = ((self.total.log2() + self.peak) * math.log(2)).masked_fill_(empty, -torch.inf)
        log_mean = (log_total - log_mass + offset).masked_fill_(empty, -torch.inf)
        full = self.total.masked_fill(empty, 1.0)
        concentration = None if self.square is None else (self.square / full.square()).masked_fill_(empty, 0.0)
        mean = None
        if self.moment is not None:
            moment = self.moment.to(torch.float64)
            mean = moment.div_(full[:, None]).add_(centre).masked_fill_(empty[:, None], 0.0)
        return Sums(log_mass.masked_fill_(empty, -torch.inf), log_mean, concentration, mean)


def merge(parts: list[Sums]) -> Sums:
    """The sums over several sets of patterns together; the order of the parts decides the rounding only."""
    if len(parts) == 1:
        return parts[0]
    log_masses = torch.stack([part.log_mass for part in parts])
    log_means = torch.stack([part.log_mean for part in parts])
    log_mass = torch.logsumexp(log_masses, 0)
    empty = log_mass == -torch.inf
    shares = (log_masses - log_mass.masked_fill(empty, 0.0)).exp()
    # near 0 (beta -> 0) expm1 and log1p keep the digits that exp and log lose
    finite = log_means.masked_fill(shares == 0, 0.0)
    log_mean = torch.where(
        finite.abs().amax(0) < 0.5,
        (shares * finite.expm1()).sum(0).log1p(),
        torch.logsumexp(log_masses + log_means, 0) - log_mass,
    ).masked_fill_(empty, -torch.inf)
    weights = (log_masses + log_means - (log_mass + log_mean).masked_fill(empty, 0.0)).exp()
    concentrations = [part.concentration for part in parts if part.concentration is not None]
    means = [part.mean for part in parts if part.mean is not None]
    return Sums(
        log_mass,
        log_mean,
        (weights.square() * torch.stack(concentrations)).sum(0) if concentrations else None,
        (weights[:, :, None] * torch.stack(means)).sum(0) if means else None,
    )


def gather(sums: Sums, group: dist.ProcessGroup) -> Sums:
    """Merge the sums of all ranks in the order of the ranks, so that every rank gets the same bits: one all_gather."""
    columns = [sums.log_mass, sums.log_mean]
    if sums.concentration is not None:
        columns.append(sums.concentration)
    packed = torch.stack(columns, 1)
    if sums.mean is not None:
        packed = torch.cat([packed, sums.mean], 1)
    ranks = [torch.empty_like(packed) for _ in range(dist.get_world_size(group))]
    dist.all_gather(ranks, packed.contiguous(), group=group)
    first = len(columns)
    return merge(
        [
            Sums(
                part[:, 0],
                part[:, 1],
                None if sums.concentration is None else part[:, 2],
                None if sums.mean is None else part[:, first:],
            )
            for part in ranks
        ]
    )
