"""Tests of several hypotheses: Student's t, and Holm's correction."""

import math
from collections.abc import Sequence
from functools import lru_cache

_STEPS = 500  # of the continued fraction, which needs some tens of them


def student_tail(t: float, freedom: int) -> float:
    r"""Probability that Student's t with this many degrees of freedom is above ``t``.

    :math:`P(T > t) = \tfrac12 I_{\nu / (\nu + t^2)}(\nu/2, 1/2)` for :math:`t \ge 0`, with the regularised incomplete
    beta function I.

    Args:
        t: the statistic; infinite values are allowed.
        freedom: degrees of freedom, >= 1.

    Raises:
        ValueError: freedom below 1, or a statistic that is no number.

    Example:
        >>> round(student_tail(2.093, 19), 4), student_tail(0.0, 3), student_tail(float("inf"), 3)
        (0.025, 0.5, 0.0)

    Source: Abramowitz and Stegun 26.7.1 and 26.5.8.
    """
    if freedom < 1 or math.isnan(t):
        raise ValueError(f"Student's t needs a number and freedom >= 1, got {t} and {freedom}.")
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    half = 0.5 * _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)
    return half if t >= 0 else 1.0 - half


@lru_cache(maxsize=1024)
def student_quantile(tail: float, freedom: int) -> float:
    """The number above which Student's t lies with this probability, by bisection of :func:`student_tail`.

    Args:
        tail: probability, in (0, 0.5].
        freedom: degrees of freedom, >= 1.

    Example:
        >>> round(student_quantile(0.025, 1), 3), round(student_quantile(0.025, 19), 3)
        (12.706, 2.093)
    """
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > tail:
        low, high = high, 2 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if student_tail(middle, freedom) > tail else (low, middle)
    return high


def holm(chances: Sequence[float]) -> list[float]:
    """Adjusted p-values: rejecting those that are at most alpha makes a false rejection with chance alpha or less.

    Holds for any dependence between the tests.

    Args:
        chances: p-value of each test.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    order = sorted(range(len(chances)), key=lambda at: chances[at])
    adjusted, largest = [0.0] * len(chances), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[at]))
        adjusted[at] = largest
    return adjusted


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function by its continued fraction (Lentz's method)."""
    if x <= 0.0 or x >= 1.0:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1.0 - _incomplete_beta(1.0 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    tiny, c = 1e-300, 1.0
    d = 1.0 / max(1.0 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, _STEPS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / (1.0 + step * d or tiny)
            c = 1.0 + step / c or tiny
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * fraction


__all__ = ["holm", "student_quantile", "student_tail"]
