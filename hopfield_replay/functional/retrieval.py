"""Retrieval: the update that moves a query towards the patterns that share it, and where it ends."""

import warnings

import torch
from torch import Tensor

from hopfield_replay.functional._engine.arguments import Arguments, check
from hopfield_replay.functional._engine.stream import Precision, stream
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.checks import Similarity, check_integer


def retrieve(
    x: Tensor,
    patterns: Tensor | PatternTiles,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    steps: int = 1,
    precision: Precision = "auto",
) -> Tensor:
    r"""Retrieval: ``steps`` times :math:`x \leftarrow \sum_\mu p_\mu(x)\, \xi_\mu`, which never raises the energy.

    In the distance form one step is the optimal denoiser's estimate of the clean sample at signal-to-noise ratio beta.

    Args:
        x: queries, (n, d) or (n, *shape).
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        steps: number of updates, >= 1.
        precision: as in :func:`energy`.

    Returns:
        (n, d) float64; zeros where no mass is left (so that the gradient x - retrieval is x).

    Raises:
        ValueError, TypeError: as :func:`energy`; steps below 1.

    Example:
        >>> import torch
        >>> retrieve(torch.tensor([[0.9, 0.0]]), torch.eye(2), beta=50.0).round(decimals=6)
        tensor([[1., 0.]], dtype=torch.float64)

    Source: arXiv:2008.02217, equation 3.
    """
    check_integer(steps, "steps", 1)
    arguments = check(x, patterns, beta, masses, similarity, None, precision)
    points = arguments.queries.detach()
    for _ in range(steps):
        points = retrieve_once(points, arguments)
    return points


def retrieve_once(points: Tensor, arguments: Arguments) -> Tensor:
    """One retrieval of ``points`` (n, d) under checked patterns."""
    sums = stream(
        points,
        arguments.patterns,
        arguments.beta,
        similarity=arguments.similarity,
        mean=True,
        precision=arguments.precision,
    )
    assert sums.mean is not None
    return sums.mean


def fixed_points(
    x: Tensor,
    patterns: Tensor | PatternTiles,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    tol: float = 1e-10,
    max_iter: int = 1000,
) -> Tensor:
    r"""Fixed point of the retrieval that is reached from each query.

    Iterates until every coordinate moves by at most ``tol``. Several queries may end in one (merged) fixed point: then
    beta is too small to tell their patterns apart.

    Args:
        x: start points, (n, d) or (n, *shape).
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        tol: largest change of a coordinate in the last step, > 0, in units of x.
        max_iter: largest number of retrievals, >= 1. Points that still move then are returned as is, with a warning.

    Returns:
        (n, d) float64.

    Raises:
        ValueError, TypeError: as :func:`energy`; ``tol`` or ``max_iter`` out of range.

    Example:
        >>> import torch
        >>> fixed_points(torch.eye(2), torch.eye(2), beta=1.0).round(decimals=4)  # merged: both end in the mean
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]], dtype=torch.float64)

    Source: arXiv:2008.02217, theorems 1 and 2 (convergence of the update).
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}.")
    check_integer(max_iter, "max_iter", 1)
    arguments = check(x, patterns, beta, masses, similarity, None, "float64")
    points = arguments.queries.detach().to(torch.float64, copy=True)
    moving = torch.arange(len(points), device=points.device)
    for _ in range(max_iter):
        following = retrieve_once(points[moving], arguments)
        change = (following - points[moving]).abs().amax(1)
        points[moving] = following
        moving = moving[change > tol]
        if not len(moving):
            return points
    warnings.warn(
        f"{len(moving)} of {len(points)} points still moved by more than tol={tol} after max_iter={max_iter} "
        "retrievals; raise max_iter or tol.",
        stacklevel=2,
    )
    return points


__all__ = ["fixed_points", "retrieve"]
