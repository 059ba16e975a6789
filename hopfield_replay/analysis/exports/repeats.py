"""Repeats: weights as whole numbers, for trainers that can only show an image more often."""

import math
from collections.abc import Sequence

from hopfield_replay.utilities.checks import check_integer

_ROUNDING = 1e-9  # a quota of 2.9999999999 is 3


def apportion(weights: Sequence[float], total: int) -> list[int]:
    r"""Whole numbers in proportion to weights, with a given sum and at least 1 each.

    The largest remainders win (Hamilton's method): every number is its quota :math:`T w_i / \sum_j w_j` rounded down or
    up, so that it is less than 1 away from it and its share of the total less than 1/T away from its weight's. Quotas
    below 1 are raised to 1 first, and the others share what is left, in proportion.

    Args:
        weights: k numbers > 0.
        total: T, their sum, >= k.

    Returns:
        k whole numbers >= 1 with sum ``total``; of equal remainders the earlier one wins.

    Raises:
        ValueError: weights that are not positive and finite, a total below their number.

    Example:
        >>> apportion([6.0, 3.0, 1.0], 10), apportion([6.0, 3.0, 1.0], 5), apportion([98.0, 1.0, 1.0], 6)
        ([6, 3, 1], [3, 1, 1], [4, 1, 1])

    Source: Balinski and Young, *Fair Representation* (1982), the method of largest remainders.
    """
    check_integer(total, "total", 1)
    if not all(0 < weight < math.inf for weight in weights):
        raise ValueError("weights must be positive and finite.")
    if total < len(weights):
        raise ValueError(f"{len(weights)} weights cannot share a total of {total}; every one gets at least 1.")
    counts, open_ = [1] * len(weights), list(range(len(weights)))
    while True:
        left = total - (len(weights) - len(open_))
        scale = left / sum(weights[i] for i in open_)
        few = {i for i in open_ if weights[i] * scale < 1.0 - _ROUNDING}
        if not few:
            break
        open_ = [i for i in open_ if i not in few]
    quotas = {i: weights[i] * scale for i in open_}
    for i, quota in quotas.items():
        counts[i] = math.floor(quota + _ROUNDING)
    ahead = sorted(open_, key=lambda i: (counts[i] - quotas[i], i))  # the largest remainder first
    for i in ahead[: total - sum(counts)]:
        counts[i] += 1
    return counts


def largest_error(weights: Sequence[float], repeats: Sequence[int]) -> float:
    """How far the share of one image at most lies from its weight's.

    Example:
        >>> round(largest_error([6.0, 3.0, 1.0], [3, 1, 1]), 2)
        0.1
    """
    total, whole = sum(weights), sum(repeats)
    return max(abs(r / whole - w / total) for w, r in zip(weights, repeats, strict=True))
