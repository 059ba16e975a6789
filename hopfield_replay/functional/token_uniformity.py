"""How alike the tokens of a sample are: what a deep transformer loses when its rank collapses."""

import torch
from torch import Tensor

from hopfield_replay.utilities.device import where_float64_is


def _tokens(x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"tokens must be a torch.Tensor (batch, n, d), got {type(x).__name__}.")
    if not x.is_floating_point():
        raise TypeError(f"tokens must be a real floating tensor, got {x.dtype}.")
    if x.ndim != 3 or x.shape[1] < 2:
        raise ValueError(f"tokens must have shape (batch, n, d) with two tokens or more, got {tuple(x.shape)}.")
    return where_float64_is(x).to(torch.float64)


def token_cosine(tokens: Tensor) -> Tensor:
    """Mean cosine similarity of all pairs of different tokens: 1 when all point the same way.

    (|sum_i u_i|^2 - sum_i |u_i|^2) / (n (n - 1)) of the unit vectors u_i. A token of zeros is orthogonal to all.

    Args:
        tokens: (batch, n, d), floating, n >= 2.

    Returns:
        (batch,) float64, in [-1 / (n - 1), 1].

    Raises:
        TypeError: not a floating tensor.
        ValueError: another shape, fewer than two tokens.

    Example:
        >>> token_cosine(torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [3.0, 3.0]]])).round(decimals=9)
        tensor([0., 1.], dtype=torch.float64)

    Source: Masumura and Taki, arXiv:2511.20698, token uniformity.
    """
    x = _tokens(tokens)
    units = torch.nn.functional.normalize(x, dim=2, eps=torch.finfo(torch.float64).tiny)
    pairs = units.sum(1).square().sum(1) - units.square().sum((1, 2))
    return pairs / (x.shape[1] * (x.shape[1] - 1))


def token_residual(tokens: Tensor) -> Tensor:
    """Relative norm of what tells tokens apart, |X - 1 m^T| / |X|: 0 when all are equal (rank collapse).

    m is the mean token, which of all vectors leaves the least Frobenius norm. No tokens but zeros: 0.

    Args:
        tokens: X, (batch, n, d), floating, n >= 2.

    Returns:
        (batch,) float64, in [0, 1].

    Raises:
        TypeError: not a floating tensor.
        ValueError: another shape, fewer than two tokens.

    Example:
        >>> token_residual(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[2.0, 1.0], [2.0, 1.0]]]))
        tensor([1., 0.], dtype=torch.float64)

    Source: Dong, Cordonnier and Loukas, arXiv:2103.03404, section 2, here in the Frobenius norm.
    """
    x = _tokens(tokens)
    norm = x.flatten(1).norm(dim=1)
    residual = (x - x.mean(1, keepdim=True)).flatten(1).norm(dim=1)
    share: Tensor = residual / torch.where(norm > 0, norm, 1.0)
    return share


__all__ = ["token_cosine", "token_residual"]
