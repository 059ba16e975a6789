"""One pass of all patterns over all queries: which arithmetic, which tiles, and what is summed."""

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from hopfield_replay.functional._engine import split
from hopfield_replay.functional._engine.logsumexp import Accumulator, Sums, gather
from hopfield_replay.functional._engine.rescore import Best, StridedStrips
from hopfield_replay.functional._engine.scores import LOG2_E, Product, ReadyTile, Scores, TileShape, reach
from hopfield_replay.functional._engine.split_pass import sums_of as split_sums
from hopfield_replay.functional._engine.tile_sums import leave_out, own_columns, tile_mass
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.checks import Similarity
from hopfield_replay.utilities.choices import did_you_mean
from hopfield_replay.utilities.device import without_autocast

Precision = Literal["auto", "float64", "float32", "fast", "tf32", "bfloat16"]

SMALL_PROBLEM = 10**9  # n N d up to which float64 costs a fraction of a second
_NEAR = 0.05  # of the patterns' mean squared distance to their mean: its own to 0, that makes no difference to rounding
BEST = 16  # scores of each query that are computed again in float64


def check_precision(precision: str) -> None:
    """Refuse what is not a known precision."""
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision must be one of {get_args(Precision)}, got {precision!r}."
            f"{did_you_mean(precision, get_args(Precision))}"
        )


def arithmetic(x: Tensor, patterns: PatternTiles, precision: Precision) -> Product:
    """The product to compute with: float64 where the inputs have it or where it is cheap."""
    if precision in ("tf32", "bfloat16") and x.device.type != "cuda":
        raise ValueError(f"precision={precision!r} needs a GPU, got tensors on {x.device}. Use 'float32' or 'fast'.")
    if precision == "bfloat16" and torch.__version__ < "2.8":  # the first whose torch.mm takes out_dtype
        raise ValueError(f"precision='bfloat16' needs torch 2.8 or newer, this is {torch.__version__}. Use 'tf32'.")
    if precision == "fast":
        return "float32"
    if precision != "auto":
        return precision
    wide = torch.float64 in (x.dtype, patterns.dtype)
    return "float64" if wide or x.numel() * len(patterns) <= SMALL_PROBLEM else "float32"


@torch.no_grad()
def stream(
    x: Tensor,
    patterns: PatternTiles,
    beta: float,
    *,
    similarity: Similarity,
    exclude: Tensor | None = None,
    square: bool = False,
    mean: bool = False,
    precision: Precision = "auto",
    centre: Tensor | None = None,
) -> Sums:
    """Sum over the patterns tile by tile; arguments are validated by the caller.

    Args:
        x: (n, d).
        patterns: read once (twice in float32, for the best scores).
        beta: inverse temperature.
        similarity: ``"distance"`` or ``"dot"``.
        exclude: (n,) indices among all patterns, -1 for none.
        square: also sum the squares (concentration).
        mean: also sum the patterns (retrieval).
        precision: see :func:`arithmetic`.
        centre: (d,) float64; that of the patterns if None. Give one for sums whose difference is wanted.
    """
    product = arithmetic(x, patterns, precision)
    if product != "float32" or similarity != "distance" or x.device.type != "cpu":
        patterns.refuse()  # elsewhere the patterns' norms tell, for which they are read anyway
    if centre is None:
        known = patterns.centre
        centre = x.new_zeros(x.shape[1], dtype=torch.float64) if known is None else known[1]
        if product == "float32" and float(centre.square().sum()) <= _NEAR * (patterns.spread or 0.0):
            centre = torch.zeros_like(centre)  # nothing has to be moved
    if (
        product == "float32"
        and precision in ("auto", "fast")
        and split.available(x.device)
        and not is_flat(x, centre, beta)
    ):
        try:
            with without_autocast(x.device):
                result = split_sums(x, centre, beta, similarity, patterns, exclude, square, mean, precision == "fast")
            return _finished(result, patterns, similarity)
        except split.KernelError as error:
            split.give_up(x.device, error)
    rescored = BEST if product != "float64" and precision != "fast" else 0
    scores = Scores(x, centre, beta, similarity, product, TileShape.of(x), accurate=not rescored)
    with without_autocast(x.device):
        flat = sums_of_flat(scores, patterns, exclude)
        if flat is None or square or mean:
            result = sums_of(scores, patterns, exclude, square, mean, rescored)
            result = result if flat is None else replace(result, log_mean=flat.log_mean)
        else:
            result = flat
    return _finished(result, patterns, similarity)


def _finished(result: Sums, patterns: PatternTiles, similarity: Similarity) -> Sums:
    """The sums of all ranks."""
    if similarity == "distance":
        result.log_mean.clamp_(max=0.0)  # a mean of numbers up to 1
    return result if patterns.group is None else gather(result, patterns.group)


def is_flat(x: Tensor, centre: Tensor, beta: float) -> bool:
    """Whether all scores may be so close to 0 (beta -> 0) that log(1 + e) loses the digits of e."""
    return beta < 1 and reach(x, centre, beta) <= 1


def sums_of(
    scores: Scores, patterns: PatternTiles, exclude: Tensor | None, square: bool, mean: bool, rescored: int
) -> Sums:
    """Largest score and sums relative to it, tile by tile; the ``rescored`` best are computed again in float64."""
    sums = Accumulator(scores.x, scores.dtype, square=square, mean=mean)
    best = Best(scores, rescored) if rescored else None
    fusible = scores.x.device.type == "cuda" and scores.dtype == torch.float32 and not (square or mean)
    add = add_fused if fusible and has_triton() else add_plain
    for tile in patterns.tiles(scores.shape.columns):
        ready = scores.ready(tile)
        own = own_columns(exclude, tile)
        sums.mass += tile_mass(tile, own)
        for number, window in enumerate(scores.blocks):
            add(scores, number, ready, None if own is None else own[window], sums, best)
        del ready  # before the next is made
    if best is not None:
        best.correct(sums, patterns)
    return sums.finish(scores.offset(), scores.centre)


def has_triton() -> bool:
    """Whether the fused way is there."""
    from hopfield_replay.functional._engine import fused  # imports Triton

    return fused.AVAILABLE


def add_fused(
    scores: Scores, number: int, tile: ReadyTile, own: Tensor | None, sums: Accumulator, best: Best | None
) -> None:
    """On a GPU: read the products once, for the sums alone."""
    from hopfield_replay.functional._engine.fused import FusedStrips  # imports Triton

    window = scores.blocks[number]
    strips = FusedStrips(scores.products(number, tile), tile.bias, scores.factor, own)
    if best is not None:
        best.update(window, strips, tile.source.start)
    sums.total[window] += strips.total(sums.rise(window, strips.top))


def add_plain(
    scores: Scores, number: int, tile: ReadyTile, own: Tensor | None, sums: Accumulator, best: Best | None
) -> None:
    """Turn a block of scores into weights, in place, and add their sums."""
    window = scores.blocks[number]
    block = scores.block(number, tile)
    leave_out(block, own, -torch.inf)
    if best is None:
        top = block.amax(1)
    else:
        strips = StridedStrips(block)
        best.update(window, strips, tile.source.start)
        top = strips.top
    # the smallest normal number in place of less: numbers below it cost twice as much, and a hundred times in products
    least = scores.smallest if sums.moment is None and sums.square is None else scores.negligible
    weights = block.sub_(sums.rise(window, top)[:, None]).clamp_(min=least).exp2_()
    sums.total[window] += weights.sum(1)
    if sums.square is not None:
        sums.square[window] += torch.linalg.vector_norm(weights, dim=1).to(torch.float64).square_()
    if sums.moment is not None:
        sums.moment[window].addmm_(weights[:, : tile.width], tile.centred.to(weights.dtype))


def sums_of_flat(scores: Scores, patterns: PatternTiles, exclude: Tensor | None) -> Sums | None:
    """The sums where all scores are close to 0 (beta -> 0), or None where they are not.

    log(1 + e) loses the digits of e, so sum w expm1(u) and log1p take the place of sum w exp(u) and log.
    """
    if not is_flat(scores.x, scores.centre, scores.beta):
        return None
    mass = torch.zeros(len(scores.x), dtype=torch.float64, device=scores.x.device)
    excess = torch.zeros_like(mass)
    for tile in patterns.tiles(scores.shape.columns):
        ready = scores.ready(tile, masses=False)
        own = own_columns(exclude, tile)
        mass += tile_mass(tile, own)
        for number, window in enumerate(scores.blocks):
            block = scores.block(number, ready)[:, : ready.width].div_(LOG2_E)
            if block.abs().amax() > 0.5:
                return None
            leave_out(block, None if own is None else own[window], 0.0)
            part = block.expm1_()
            excess[window] += part.sum(1) if tile.masses is None else part @ tile.masses.to(part.dtype)
    empty = mass == 0
    log_mean = (excess / mass.masked_fill(empty, 1.0)).log1p_() + scores.offset()
    return Sums(mass.log(), log_mean.masked_fill_(empty, -torch.inf))
