"""Modern Hopfield attention: one layer, with the scores of the layers before it as a hidden state."""

from typing import Literal, get_args

import torch
from torch import Tensor

Start = Literal["zero", "scores"]


def check_inheritance(a: float) -> float:
    """Return ``a`` as a float; it must lie in [0, 1)."""
    if isinstance(a, bool) or not isinstance(a, int | float):
        raise TypeError(f"a (share of the carried scores) must be a number, got {type(a).__name__}.")
    if not 0.0 <= a < 1.0:
        raise ValueError(
            f"a (share of the carried scores) must lie in [0, 1), got {a}: 0 is plain attention, and at 1 no layer "
            "would look at its own queries and keys."
        )
    return float(a)


def check_start(start: str) -> None:
    """Refuse any start but "zero" and "scores"."""
    if start not in get_args(Start):
        raise ValueError(f"start must be one of {get_args(Start)}, got {start!r}.")


def hopfield_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor | None,
    a: float,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    start: Start = "zero",
) -> tuple[Tensor, Tensor]:
    """One layer of modern Hopfield attention: h' = a h + (1 - a) scale Q K^T, out = softmax(h' + mask) V.

    With a = 0 this is plain attention. The mask does not enter the state.

    Args:
        query: (batch, heads, n, d).
        key: (batch, heads, m, d).
        value: (batch, heads, m, e).
        state: h of the layer before, (batch, heads, n, m); None in the first layer. It is brought to the device and
            precision of ``query``.
        a: share of the carried scores, in [0, 1).
        scale: of Q K^T; None: 1 / sqrt(d).
        mask: what is added to the scores, or boolean, True where there is attention; broadcast to (batch, heads, n, m).
        start: h before the first layer: ``"zero"``, as the recursion has it, which makes the first layer's softmax
            softer by 1 - a; or ``"scores"``, the layer's own scale Q K^T, which leaves the first layer plain attention.

    Returns:
        out (batch, heads, n, e) and h' (batch, heads, n, m).

    Raises:
        TypeError: a is no number.
        ValueError: a outside [0, 1), an unknown start, a state of another shape.

    Example:
        >>> import torch
        >>> one, two = (torch.randn(3, 1, 2, 5, 4, generator=torch.Generator().manual_seed(i)) for i in range(2))
        >>> out, state = hopfield_attention(*one, None, 0.5)
        >>> out, state = hopfield_attention(*two, state, 0.5)
        >>> torch.allclose(state, (one[0] @ one[1].mT / 8 + two[0] @ two[1].mT / 4))  # h_0 / 4 has vanished: h_0 is 0
        True
        >>> torch.allclose(out, state.softmax(-1) @ two[2])
        True

    The same as scaled_dot_product_attention with a h as its mask and (1 - a) scale as its scale. That would compute
    Q K^T a second time, which the state needs anyway; tests/benchmarks/attention.py has the ratio.

    Source: Masumura and Taki, arXiv:2511.20698. Its abstract does not tell h before the first layer: hence start.
    """
    a = check_inheritance(a)
    check_start(start)
    batch, heads, rows, width = query.shape
    shape = (batch, heads, rows, key.shape[2])
    scale = width**-0.5 if scale is None else scale
    left, right = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    if state is None:
        new = left @ right * (scale * (1.0 if start == "scores" else 1.0 - a))
    elif state.shape != shape:
        raise ValueError(
            f"the state has shape {tuple(state.shape)} and this layer's scores {shape}; pass None to start a new one."
        )
    else:
        carried = state.to(left).flatten(0, 1)
        new = torch.baddbmm(carried, left, right, beta=a, alpha=(1.0 - a) * scale)
    new = new.view(shape)
    return (_masked(new, mask).softmax(-1).to(value.dtype) @ value), new


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


__all__ = ["Start", "hopfield_attention"]
