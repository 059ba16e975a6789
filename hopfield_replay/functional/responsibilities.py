"""Which patterns share a query, and how many do."""

import torch
from torch import Tensor

from hopfield_replay.functional._engine.arguments import check
from hopfield_replay.functional._engine.scores import LOG2_E, Scores, TileShape
from hopfield_replay.functional._engine.stream import Precision, stream
from hopfield_replay.functional._engine.tile_sums import leave_out, own_columns
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.checks import Similarity


def responsibilities(
    x: Tensor,
    patterns: Tensor,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    exclude: Tensor | None = None,
) -> Tensor:
    r"""Responsibility of each pattern for each query: :math:`p_\mu(x) = \mathrm{softmax}_\mu(\log w_\mu + s_\mu(x))`.

    The only function here whose result, and memory, is (n, N).

    Args:
        x: queries, (n, d) or (n, *shape).
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        exclude: (n,) index of the pattern that x[i] itself is (its responsibility is 0), -1 for none.

    Returns:
        (n, N) float64; rows sum to 1, or are all 0 where no mass is left.

    Raises:
        ValueError, TypeError: as :func:`energy`.

    Example:
        >>> import torch
        >>> responsibilities(torch.zeros(1, 2), torch.eye(2), beta=1.0)
        tensor([[0.5000, 0.5000]], dtype=torch.float64)

    Source: arXiv:2008.02217, equation 3 (the softmax of the update rule).
    """
    if isinstance(patterns, PatternTiles):
        raise TypeError("responsibilities has a column for each pattern: pass the patterns as one tensor.")
    arguments = check(x, patterns, beta, masses, similarity, exclude)
    queries, tiles = arguments.queries.detach(), arguments.patterns
    sums = stream(queries, tiles, arguments.beta, similarity=similarity, exclude=arguments.exclude, precision="float64")
    result = torch.zeros(len(queries), len(tiles), dtype=torch.float64, device=queries.device)
    if tiles.centre is None:
        return result
    scores = Scores(
        queries,
        tiles.centre[1],
        arguments.beta,
        similarity,
        "float64",
        TileShape.of(queries),
    )
    level = ((sums.logsumexp - scores.offset()) * LOG2_E).masked_fill_(sums.log_mean == -torch.inf, torch.inf)
    for tile in tiles.tiles(scores.shape.columns):
        ready = scores.ready(tile)
        own = own_columns(arguments.exclude, tile)
        for number, window in enumerate(scores.blocks):
            block = scores.block(number, ready)
            leave_out(block, None if own is None else own[window], -torch.inf)
            block.sub_(level[window, None]).exp2_()
            result[window, tile.start : tile.start + ready.width] = block[:, : ready.width]
    return result


def effective_patterns(
    x: Tensor,
    patterns: Tensor | PatternTiles,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    exclude: Tensor | None = None,
    precision: Precision = "auto",
) -> Tensor:
    r"""Effective number of patterns that share a query: :math:`n_\mathrm{eff}(x) = 1 / \sum_\mu p_\mu(x)^2`.

    Args:
        x: queries, (n, d) or (n, *shape).
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        exclude: (n,) index of the pattern that x[i] itself is, -1 for none.
        precision: as in :func:`energy`.

    Returns:
        (n,) float64 in [1, N]; 0 where no mass is left.

    Raises:
        ValueError, TypeError: as :func:`energy`.

    Example:
        >>> import torch
        >>> effective_patterns(torch.zeros(1, 4), torch.eye(4), beta=1.0).round(decimals=6)
        tensor([4.], dtype=torch.float64)

    Source: inverse participation ratio; Kish's effective sample size of the responsibilities.
    """
    arguments = check(x, patterns, beta, masses, similarity, exclude, precision)
    sums = stream(
        arguments.queries.detach(),
        arguments.patterns,
        arguments.beta,
        similarity=similarity,
        exclude=arguments.exclude,
        square=True,
        precision=precision,
    )
    assert sums.concentration is not None
    return torch.where(sums.concentration > 0, sums.concentration.reciprocal(), 0.0)


__all__ = ["effective_patterns", "responsibilities"]
