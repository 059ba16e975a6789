"""The streaming log-sum-exp under every energy: patterns pass by in tiles, and only sums per query are kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional._validate import Similarity

_TILE_ELEMENTS = 1 << 20  # scores held at a time: 8 MB in float64, whatever the number of patterns


@dataclass(frozen=True)
class Sums:
    """What one pass over the patterns leaves for n queries, all float64.

    Attributes:
        log_mass: (n,) log of the masses that were summed, log sum_mu w_mu; -inf where nothing is left.
        logsumexp: (n,) log sum_mu w_mu exp(score_mu); -inf where nothing is left.
        log_square: (n,) log sum_mu (w_mu exp(score_mu))^2.
        mean: (n, d) responsibility-weighted mean of the patterns (the retrieval), zeros where nothing is left; or None.
    """

    log_mass: Tensor
    logsumexp: Tensor
    log_square: Tensor
    mean: Tensor | None


def scores(x: Tensor, patterns: Tensor, beta: float, similarity: Similarity) -> Tensor:
    """Scores (n, N) in float64: beta <x, xi> (dot) or -beta |x - xi|^2 / 2 (distance)."""
    if similarity == "dot":
        return beta * (x @ patterns.T)
    # -|x - xi|^2 / 2 through the product; exact zeros for x = xi are restored by the clamp up to rounding
    half = x @ patterns.T - 0.5 * x.square().sum(1, keepdim=True) - 0.5 * patterns.square().sum(1)
    return beta * half.clamp_(max=0.0)


def remaining_log_mass(masses: Tensor | None, exclude: Tensor | None, n: int, patterns: Tensor) -> Tensor:
    """Log of the total mass without the excluded pattern, (n,), without subtracting (which would cancel)."""
    count = len(patterns)
    weights = torch.ones(count, dtype=torch.float64, device=patterns.device) if masses is None else masses
    if exclude is None:
        return weights.sum().log().expand(n)
    zero = weights.new_zeros(1)
    before = torch.cat([zero, weights.cumsum(0)])
    after = torch.cat([weights.flip(0).cumsum(0).flip(0), zero])
    without = before[:-1] + after[1:] if count else before[:-1]
    return torch.cat([without, before[-1:]])[exclude].log()  # index -1 picks the whole


@torch.no_grad()
def stream(
    x: Tensor,
    patterns: Tensor,
    beta: float,
    *,
    masses: Tensor | None,
    similarity: Similarity,
    exclude: Tensor | None,
    mean: bool = False,
) -> Sums:
    """Sum over the patterns tile by tile; arguments are validated by the caller."""
    n, d = x.shape
    centre = patterns.mean(0, dtype=torch.float64) if similarity == "distance" and len(patterns) else None
    peak = torch.full((n,), -torch.inf, dtype=torch.float64, device=x.device)
    total, square = torch.zeros_like(peak), torch.zeros_like(peak)
    moment = torch.zeros(n, d, dtype=torch.float64, device=x.device) if mean else None
    rows = max(1, min(n, 1024))
    columns = max(1, _TILE_ELEMENTS // max(rows, d))
    for row in range(0, n, rows):
        queries = x[row : row + rows].to(torch.float64)
        if centre is not None:
            queries = queries - centre
        window = slice(row, row + rows)
        for column in range(0, len(patterns), columns):
            tile = patterns[column : column + columns].to(torch.float64)
            logits = scores(queries, tile if centre is None else tile - centre, beta, similarity)
            if masses is not None:
                logits += masses[column : column + columns].log()
            if exclude is not None:
                inside = exclude[window] - column
                hit = ((inside >= 0) & (inside < len(tile)) & (exclude[window] >= 0)).nonzero().flatten()
                logits[hit, inside[hit]] = -torch.inf
            top = torch.maximum(peak[window], logits.max(1).values)
            safe = top.masked_fill(top == -torch.inf, 0.0)
            weights = (logits - safe[:, None]).exp_()
            decay = (peak[window] - safe).exp_()
            total[window] = total[window] * decay + weights.sum(1)
            square[window] = square[window] * decay.square() + weights.square().sum(1)
            if moment is not None:
                moment[window] = moment[window] * decay[:, None] + weights @ tile
            peak[window] = top
    shift = peak.masked_fill(peak == -torch.inf, 0.0)
    retrieval = None if moment is None else moment / total.masked_fill(total == 0, 1.0)[:, None]
    return Sums(
        log_mass=remaining_log_mass(masses, exclude, n, patterns),
        logsumexp=total.log() + shift,
        log_square=square.log() + 2 * shift,
        mean=retrieval,
    )
