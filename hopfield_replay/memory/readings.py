"""Readings: what is read off some patterns, asked under all of them, for any inverse temperature."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hopfield_replay.functional import PatternTiles, effective_patterns, energy
from hopfield_replay.functional._distances import half_squared_distances
from hopfield_replay.functional.rows import Matrix, pieces, sample_mean
from hopfield_replay.functional.shared_rows import by_share, is_shared
from hopfield_replay.utilities.checks import Similarity

_SCORES = 1 << 25  # pairwise numbers held during the calibration: 256 MB
HELD = 1 << 25  # numbers of the patterns that a copy in float64 is made of
_SMALLEST = -80.0  # log of a share that is not told from 0: smaller numbers cost ten times as much
_ASKED, _LEAST = 256, 16  # of more, patterns that are asked: as many as the scores leave room for
Reading = Callable[[float], float]


def spread_indices(count: int, most: int) -> Tensor:
    """At most ``most`` indices spread evenly over ``range(count)`` (data is often sorted by class)."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().to(torch.int64)


def _pairwise(patterns: Tensor, index: Tensor, masses: Tensor | None, similarity: Similarity) -> tuple[Tensor, Tensor]:
    """Scores at beta = 1 of some patterns against all, (q, N), and log masses (N,)."""
    stored = patterns.to(torch.float64)
    if similarity == "distance":
        stored = stored - stored.mean(0)
    queries = stored[index]
    scores = queries @ stored.T
    if similarity == "distance":
        half = 0.5 * stored.square().sum(1)
        scores = (scores - half[index, None] - half).clamp_(max=0.0)
    weights = torch.ones(len(stored), dtype=torch.float64, device=stored.device) if masses is None else masses
    return scores, weights.log()


def held(patterns: Tensor, masses: Tensor | None, similarity: Similarity) -> tuple[Reading, Reading, float]:
    """Median leave-one-out n_eff and median self-responsibility as functions of beta, and the span of the scores."""
    most = max(64, min(512, _SCORES // len(patterns)))
    index = spread_indices(len(patterns), most).to(patterns.device)
    scores, log_masses = _pairwise(patterns, index, masses, similarity)
    rows = torch.arange(len(index), device=index.device)

    def n_eff(beta: float) -> float:
        logits = torch.add(log_masses, scores, alpha=beta)
        logits[rows, index] = -torch.inf
        p = logits.sub_(logits.amax(1, keepdim=True)).exp_()
        total = p.sum(1).square()
        return float((total / p.square_().sum(1)).median())

    def own(beta: float) -> float:
        logits = beta * scores + log_masses
        return float((logits[rows, index] - logits.logsumexp(1)).exp().median())

    return n_eff, own, float((scores.amax(1) - scores.amin(1)).median())


def many(patterns: Matrix, masses: Tensor | None, similarity: Similarity) -> tuple[Reading, Reading, float]:
    """As :func:`held`, of fewer patterns that are asked under all of them, in float32 and in one pass.

    Memory: 4 bytes for each of up to 256 times N scores, up to 128 MiB for N up to two million.
    """
    count = len(patterns)
    index = spread_indices(count, max(_LEAST, min(_ASKED, _SCORES // count))).to(patterns.device)
    centre = sample_mean(patterns)
    if similarity == "dot":
        centre.zero_()
    dtype = torch.promote_types(patterns.dtype, torch.float32)
    centre = centre.to(dtype)
    queries = patterns[index].to(dtype).sub(centre).float()

    def against(some: Matrix) -> Tensor:
        found = queries.new_empty(len(index), len(some))
        for start, piece in pieces(some):
            near = piece.to(dtype).sub(centre).float()
            block = found[:, start : start + len(near)]
            torch.mm(queries, near.T, out=block)
            if similarity == "distance":
                block -= 0.5 * near.square().sum(1)
        return found

    if is_shared(patterns):  # only the scores travel
        scores = by_share(patterns, torch.arange(count), lambda some: against(some).T.contiguous()).T.contiguous()
    else:
        scores = against(patterns)
    if similarity == "distance":
        scores -= 0.5 * queries.square().sum(1, keepdim=True)
        scores.clamp_(max=0.0)
    log_masses = None if masses is None else masses.log().float()
    rows = torch.arange(len(index), device=index.device)
    span = float((scores.amax(1) - scores.amin(1)).double().median())
    logits = torch.empty_like(scores[0])

    def shares(row: int, beta: float, *, leave_out: bool) -> Tensor:
        torch.mul(scores[row], beta, out=logits)
        if log_masses is not None:
            logits.add_(log_masses)
        if leave_out:
            logits[index[row]] = -torch.inf
        return logits.sub_(logits.max()).clamp_(min=_SMALLEST).exp_()

    def n_eff(beta: float) -> float:
        sizes = torch.empty(len(rows), dtype=torch.float64)
        for row in range(len(rows)):
            p = shares(row, beta, leave_out=True)
            sizes[row] = p.sum(dtype=torch.float64).square() / torch.linalg.vector_norm(p, dtype=torch.float64).square()
        return float(sizes.median())

    def own(beta: float) -> float:
        own_shares = torch.empty(len(rows), dtype=torch.float64)
        for row in range(len(rows)):
            p = shares(row, beta, leave_out=False)
            own_shares[row] = p[index[row]].double() / p.sum(dtype=torch.float64)
        return float(own_shares.median())

    return n_eff, own, span


def streamed(patterns: PatternTiles, similarity: Similarity) -> tuple[Reading, Reading, float]:
    """The same for patterns that are read batch by batch, once for each value of beta."""
    index = spread_indices(len(patterns), 64)
    queries, masses = rows_of(patterns, index)

    def n_eff(beta: float) -> float:
        counts = effective_patterns(queries, patterns, beta, similarity=similarity, exclude=index.to(queries.device))
        return float(counts.median())

    def own(beta: float) -> float:
        return float(self_responsibility(queries, masses, patterns, beta, similarity).median())

    spread = (
        float(queries.double().square().sum(1).mean())
        if similarity == "dot"
        else float((queries.double() - queries.double().mean(0)).square().sum(1).mean())
    )
    return n_eff, own, spread


def rows_of(patterns: PatternTiles, index: Tensor) -> tuple[Tensor, Tensor]:
    """The patterns at these positions (counted over all ranks), and their masses; one pass over the batches."""
    own, masses, at = [], [], []
    for tile in patterns.tiles(4096):
        inside = ((index >= tile.start) & (index < tile.start + len(tile.patterns))).nonzero().flatten()
        here = (index[inside] - tile.start).to(tile.patterns.device)
        own.append(tile.patterns[here])
        weights = torch.ones(len(tile.patterns), dtype=torch.float64) if tile.masses is None else tile.masses.cpu()
        masses.append(weights[here.cpu()])
        at.append(inside)
    share: list[Any] = [(torch.cat(own), torch.cat(masses), torch.cat(at))] if own else [None]
    if patterns.group is not None:
        shares: list[Any] = [None] * dist.get_world_size(patterns.group)
        dist.all_gather_object(shares, share[0], group=patterns.group)
        share = shares
    parts = [part for part in share if part is not None]
    order = torch.cat([part[2] for part in parts]).argsort()
    nearest = torch.cat([part[0].to(parts[0][0].device) for part in parts])
    return nearest[order.to(nearest.device)], torch.cat([part[1] for part in parts])[order].to(nearest.device)


def self_responsibility(
    x: Tensor, masses: Tensor, patterns: Tensor | PatternTiles, beta: float, similarity: Similarity, **options: Any
) -> Tensor:
    """Responsibility (n,) that each stored pattern x[i], of mass masses[i], has for itself."""
    total = energy(x, patterns, beta, similarity=similarity, normalize=False, **options)
    half = 0.5 * x.to(torch.float64).square().sum(1)
    score = beta * (half + total) if similarity == "dot" else beta * total  # score of itself less log-sum-exp
    return (masses.log() + score).exp()


def nearby(queries: Tensor, patterns: PatternTiles, similarity: Similarity, count: int = 64) -> PatternTiles:
    """The patterns that are among the ``count`` of the largest scores of any query, with their masses."""
    best = torch.full((len(queries), count), -torch.inf, dtype=torch.float64, device=queries.device)
    index = torch.zeros(len(queries), count, dtype=torch.int64, device=queries.device)
    centre = queries.to(torch.float64).mean(0)
    x = queries.to(torch.float64) - centre
    for tile in patterns.tiles(4096):
        near = tile.patterns.to(queries.device, torch.float64) - centre
        if similarity == "distance":
            scores = half_squared_distances(x, near).neg_()
        else:
            scores = queries.to(torch.float64) @ (near + centre).T
        together = torch.cat([best, scores], 1)
        places = torch.arange(tile.start, tile.start + len(near), device=queries.device).expand(len(queries), -1)
        best, which = together.topk(count, dim=1)
        index = torch.cat([index, places], 1).gather(1, which)
    vectors, masses = rows_of(patterns, index[best > -torch.inf].unique().cpu())
    return PatternTiles(vectors, masses=masses)


def median_error(values: Tensor) -> float:
    """Standard error of the median of a sample (n,): half of the interval that its ranks at +- sqrt(n) / 2 span.

    Example:
        >>> median_error(torch.arange(100.0))
        5.0
    """
    ordered, n = values.sort().values, len(values)
    reach = 0.5 * n**0.5
    low, high = (min(n - 1, max(0, round(0.5 * (n - 1) + sign * reach))) for sign in (-1, 1))
    return 0.5 * float(ordered[high] - ordered[low])
