"""Timesteps of a denoiser by their noise level, and those that are measured by default."""

import math
from itertools import pairwise

from hopfield_replay.functional.denoiser import Denoiser

_CLOSE = 0.02  # relative difference of signal-to-noise ratios that counts as none
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
_RATIOS = (0.34, 0.72, 1.23, 2.03, 3.44)  # s / a of DDPM's linear schedule at these shares of its range


def timestep_of(denoiser: Denoiser, snr: float) -> float | None:
    """The timestep at which a denoiser has a signal-to-noise ratio; None if it has it nowhere.

    Args:
        denoiser: its ratios rise or fall with its timesteps.
        snr: a_t^2 / s_t^2 > 0.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser, FlowSchedule
        >>> round(timestep_of(CallableDenoiser(lambda x, t: x, FlowSchedule(1000)), 9.0), 6)
        250.0
    """
    end = denoiser.num_timesteps
    if end is None:
        grid = [10 ** (exponent / 4) for exponent in range(-24, 25)]
    else:
        grid = [float(step) for step in range(int(end))] if end > 1 else [end * index / 100 for index in range(100)]
    known = [(step, ratio) for step in grid if (ratio := _snr(denoiser, step)) is not None]
    for (low, above), (high, below) in pairwise(known):
        if (above - snr) * (below - snr) <= 0:
            return _between(denoiser, low, high, snr)
    last = known[-1] if known else None
    return last[0] if last is not None and _near(last[1], snr) else None


def _snr(denoiser: Denoiser, step: float) -> float | None:
    try:
        return denoiser.snr(step)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def _between(denoiser: Denoiser, low: float, high: float, snr: float) -> float | None:
    """Bisection; where broken timesteps are refused the nearer of both."""
    falls = denoiser.snr(low) > denoiser.snr(high)
    ends = [step for step in (low, high) if _near(denoiser.snr(step), snr)]
    nearest = min(ends, key=lambda step: abs(denoiser.snr(step) - snr), default=None)
    for _ in range(60):
        middle = (low + high) / 2
        ratio = _snr(denoiser, middle)
        if ratio is None:
            return nearest
        low, high = (middle, high) if (ratio > snr) == falls else (low, middle)
    return low if _near(denoiser.snr(low), snr) else nearest


def _near(ratio: float, snr: float) -> bool:
    return math.isfinite(ratio) and abs(ratio - snr) <= _CLOSE * snr


def default_timesteps(denoiser: Denoiser) -> list[float]:
    """10, 20, 30, 40 and 50 % of a denoiser's range; of one without bounds those with DDPM's noise levels there.

    Raises:
        ValueError: a denoiser without bounds has none of these noise levels.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser, FlowSchedule
        >>> default_timesteps(CallableDenoiser(lambda x, t: x, FlowSchedule(1000)))
        [100, 200, 300, 400, 500]
        >>> default_timesteps(CallableDenoiser(lambda x, t: x, FlowSchedule(1)))
        [0.1, 0.2, 0.3, 0.4, 0.5]
    """
    end = denoiser.num_timesteps
    if end is None:
        candidates = [timestep_of(denoiser, ratio**-2) for ratio in _RATIOS]
        steps = [step for step in candidates if step is not None]
        if not steps:
            raise ValueError("This denoiser has no number of timesteps; pass timesteps=(...).")
        return steps
    if end < 2 and _snr(denoiser, _SHARES[0] * end) is not None:
        return [share * end for share in _SHARES]
    return [round(share * end) for share in _SHARES]


__all__ = ["default_timesteps", "timestep_of"]
