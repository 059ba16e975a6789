"""Checked arguments of the functions that sum over patterns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional._engine.stream import Precision, check_precision
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.checks import (
    Similarity,
    as_matrix,
    check_beta,
    check_exclude,
    check_finite,
    check_masses,
    check_same_space,
    check_similarity,
    flatten,
)


@dataclass(frozen=True)
class Arguments:
    """Queries (n, d), patterns, inverse temperature, leave-one-out indices, all as the engine takes them."""

    queries: Tensor
    patterns: PatternTiles
    beta: float
    similarity: Similarity
    exclude: Tensor | None
    precision: Precision


def check(
    x: Tensor,
    patterns: Tensor | PatternTiles,
    beta: float,
    masses: Tensor | None,
    similarity: Similarity,
    exclude: Tensor | None = None,
    precision: Precision = "auto",
    names: str = "",
) -> Arguments:
    """Check everything that a caller can get wrong; ``names`` is put before "masses" in messages.

    But for NaN in patterns, which :func:`~hopfield_replay.functional._engine.stream.stream` meets on its way.
    """
    check_similarity(similarity)
    check_precision(precision)
    beta = check_beta(beta)
    if isinstance(patterns, PatternTiles):
        if masses is not None:
            raise TypeError(f"{names}masses belong into PatternTiles when the patterns are given as PatternTiles.")
        queries, tiles = as_matrix(x, "x"), patterns
        if tiles.dimension is not None and tiles.device is not None:
            check_same_space(queries, tiles.dimension, tiles.device)
    else:
        queries, stored = flatten(x, "x"), flatten(patterns, "patterns")
        check_same_space(queries, stored.shape[1], stored.device)
        check_finite(queries, "x")
        tiles = PatternTiles.of_unchecked(stored, check_masses(masses, stored, f"{names}masses"))
    return Arguments(queries, tiles, beta, similarity, check_exclude(exclude, len(queries), tiles), precision)


def common_centre(old: PatternTiles, new: PatternTiles) -> Tensor | None:
    """Mean of two sets of patterns together, so that the rounding of one score is that of the other."""
    centres = [centre for centre in (old.centre, new.centre) if centre is not None]
    if not centres:
        return None
    counts = torch.tensor([count for count, _ in centres], dtype=torch.float64)
    weights = (counts / counts.sum()).tolist()
    centre = torch.stack([weight * centre for weight, (_, centre) in zip(weights, centres, strict=True)]).sum(0)
    if not bool(torch.isfinite(centre).all()):
        old.refuse()
        new.refuse()
    return centre
