"""One pass of all patterns over all queries with split products; scores that weigh much are computed again."""

import torch
from torch import Tensor

from hopfield_replay.functional._engine import split
from hopfield_replay.functional._engine.logsumexp import Accumulator, Sums
from hopfield_replay.functional._engine.near_strips import NearStrips
from hopfield_replay.functional._engine.split_scores import Plan, SplitScores
from hopfield_replay.functional._engine.tile_sums import own_columns, tile_mass
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.checks import Similarity


def sums_of(
    x: Tensor,
    centre: Tensor,
    beta: float,
    similarity: Similarity,
    patterns: PatternTiles,
    exclude: Tensor | None,
    square: bool,
    mean: bool,
    fast: bool,
    plan: Plan | None = None,
) -> Sums:
    """The sums of one pass.

    Args:
        x: (n, d).
        centre: (d,) float64.
        beta: inverse temperature.
        similarity: ``"distance"`` or ``"dot"``.
        patterns: read once, and once more where scores are computed again.
        exclude: (n,) indices among all patterns, -1 for none.
        square: also sum the squares.
        mean: also sum the patterns.
        fast: three products of parts in place of four, see :func:`._split.terms_for`.
        plan: how many are multiplied together.
    """
    terms = split.terms_for(x.shape[1], fast)
    scores = SplitScores(x, centre, beta, similarity, terms, Plan.of(x, terms, mean) if plan is None else plan)
    sums = Accumulator(x, torch.float32, square=square, mean=mean)
    near = NearStrips()
    for tile in patterns.tiles(scores.plan.columns):
        if not len(tile.patterns):
            continue
        parts, bias = scores.ready(tile)
        own = own_columns(exclude, tile)
        sums.mass += tile_mass(tile, own)
        for number, window in enumerate(scores.blocks):
            left_out = None if own is None else own[window].int()
            found, squares = scores.of(number, parts, bias, left_out, square, mean)
            _add(sums, window, found, parts if mean else None)
            near.update(sums, window, found, scores.slack(squares, parts.squares), tile.start)
        del parts
    near.correct(sums, scores, patterns, exclude)
    return sums.finish(scores.offset, scores.centre)


def _add(sums: Accumulator, window: slice, found: split.Strips, patterns: split.Parts | None) -> None:
    """Add a block's strips, relative to the largest score so far."""
    peak = sums.rise(window, found.maxima.amax(1))
    weights = (found.maxima - peak[:, None]).exp2_()
    if sums.square is not None and found.squares is not None:
        sums.square[window] += (weights.square() * found.squares).sum(1, dtype=torch.float64)
    sums.total[window] += weights.mul_(found.totals).sum(1, dtype=torch.float64)
    if sums.moment is not None and found.scores is not None and patterns is not None:
        shares = (found.scores - peak[:, None]).exp2_()
        _add_moment(sums.moment[window], shares, patterns.parts)


def _add_moment(moment: Tensor, weights: Tensor, parts: Tensor) -> None:
    """Add weights (rows, m) times the patterns: one product along three times as many of them, small parts first."""
    high = weights.bfloat16()
    low = weights.sub_(high).bfloat16()
    left = torch.cat([high, low, high], 1)
    right = torch.cat([parts[1], parts[0], parts[0]])[:, : moment.shape[1]]
    if left.device.type == "cuda":
        moment += torch.mm(left, right, out_dtype=torch.float32)
    else:
        moment += left.float() @ right.float()
