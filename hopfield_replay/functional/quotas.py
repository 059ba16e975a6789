"""How many picks each group of candidates gets."""

import torch
from torch import Tensor

from hopfield_replay.utilities.checks import check_integer


def equal_quotas(groups: Tensor, k: int) -> Tensor:
    r"""Equal shares of k picks for the groups; what a small group cannot use goes to the others.

    Args:
        groups: (C,) integer group of each candidate, counted from 0.
        k: number of picks, from 1 to C. With k below the number of groups the first k groups get one each.

    Returns:
        (G,) int64 with sum k; no quota exceeds its group's size, and those below it differ by at most 1.

    Raises:
        ValueError, TypeError: groups that are not integers from 0; k out of range.

    Example:
        >>> import torch
        >>> equal_quotas(torch.tensor([0, 1, 1, 1, 2, 2, 2, 2]), 6)
        tensor([1, 3, 2])
    """
    _check_group_index(groups, None)
    check_integer(k, "k", 1, len(groups), of="the number of candidates", wrong_type=TypeError)
    sizes = torch.bincount(groups)
    quotas = torch.zeros_like(sizes)
    while (left := k - int(quotas.sum())) > 0:
        unfilled = (quotas < sizes).nonzero().flatten()
        share = max(1, left // len(unfilled))
        unfilled = unfilled[:left]
        quotas[unfilled] = torch.minimum(quotas[unfilled] + share, sizes[unfilled])
    return quotas


def _check_group_index(groups: Tensor, count: int | None) -> None:
    if groups.is_floating_point() or groups.is_complex() or groups.dtype == torch.bool:
        raise TypeError(f"groups must hold integers, got {groups.dtype}.")
    if groups.ndim != 1 or (count is not None and len(groups) != count):
        expected = "one group for each candidate" if count is None else f"shape ({count},)"
        raise ValueError(f"groups must have {expected}, got {tuple(groups.shape)}.")
    if len(groups) and int(groups.min()) < 0:
        raise ValueError(f"groups must be counted from 0, got {int(groups.min())}.")


def check_quotas(groups: Tensor | None, quotas: Tensor | None, k: int, count: int) -> tuple[list[int], list[int]]:
    """Return the group of each candidate and the quota of each group as lists; one group for all if None are given."""
    if groups is None:
        if quotas is not None:
            raise ValueError("quotas need groups: pass the group of each candidate too.")
        return [0] * count, [k]
    _check_group_index(groups, count)
    if quotas is None:
        quotas = equal_quotas(groups, k)
    quotas = quotas.to(groups.device)
    sizes = torch.bincount(groups, minlength=len(quotas))
    if len(sizes) != len(quotas) or bool((quotas < 0).any()) or bool((quotas > sizes).any()) or int(quotas.sum()) != k:
        raise ValueError(
            f"quotas must be one number for each of the {len(sizes)} groups, from 0 to its size {sizes.tolist()}, "
            f"with sum k = {k}; got {quotas.tolist()}."
        )
    return groups.tolist(), quotas.tolist()
