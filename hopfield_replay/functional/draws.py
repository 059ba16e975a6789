"""Random draws of samples from given uniform numbers."""

import torch
from torch import Tensor

from hopfield_replay.utilities.checks import check_integer


def proportional(weights: Tensor, k: int, uniforms: Tensor) -> Tensor:
    r"""Draw k samples without replacement, each draw with probability proportional to the weights that are left.

    The k largest keys log w_i - log(-log u_i) (Gumbel top-k), in falling order. The same uniforms give the same draw.

    Args:
        weights: (n,) >= 0.
        k: number of draws, from 1 to the number of positive weights.
        uniforms: (n,) independent uniform numbers in [0, 1); float64 for large n.

    Returns:
        (k,) int64 in the order of drawing.

    Raises:
        ValueError: shapes that differ, weights that are negative or not finite, more draws than positive weights.

    Example:
        >>> import torch
        >>> proportional(torch.tensor([1.0, 0.0, 3.0]), 2, torch.tensor([0.5, 0.9, 0.2]))  # keys .37, -inf, .62
        tensor([2, 0])

    Source: Kool, van Hoof, Welling, arXiv:1903.06059 (equivalent to Efraimidis, Spirakis, 2006).
    """
    if weights.ndim != 1 or weights.shape != uniforms.shape:
        raise ValueError(
            "weights and uniforms must be vectors of one length, "
            f"got shapes {tuple(weights.shape)} and {tuple(uniforms.shape)}."
        )
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError("weights must be finite and not negative.")
    if not bool(((uniforms >= 0) & (uniforms <= 1)).all()):
        raise ValueError("uniforms must lie in [0, 1).")
    check_integer(k, "k", 1, int((weights > 0).sum()), of="the number of positive weights", wrong_type=TypeError)
    tiny = torch.finfo(torch.float64).tiny  # a uniform of exactly 0 draws last, but before every weight of 0
    keys = weights.to(torch.float64).log() - (-uniforms.to(torch.float64).clamp(min=tiny).log()).log()
    keys[weights == 0] = -torch.inf
    return keys.argsort(descending=True, stable=True)[:k]
