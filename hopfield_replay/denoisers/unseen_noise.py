"""Noise that nobody saw being drawn (by NumPy, in several parts): what is left of noisy samples is tested for it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.doors import Call
from hopfield_replay.denoisers.mixing import looks_like_noise
from hopfield_replay.denoisers.targets import Teaching, read_target
from hopfield_replay.denoisers.timetable import Reading, Timetable, known_timetables

_ROWS = 64  # samples of a batch that are looked at
_LEAST = 256  # numbers that a statistical test needs
_LEAST_SHARE = 0.05  # of the answer in what is taught, beside which rounding is small
_SCALES = ((1.0, 0.0), (2.0, -1.0))  # what samples are usually scaled and shifted by on their way
_WRONG = 0.01  # relative error of the amount of noise that must be told


@dataclass(frozen=True, eq=False)
class Inference:
    """A mixture that was inferred without its noise.

    Attributes:
        reading: schedule, clock and scale.
        time: which argument of the network is the time.
        clean: (n, *shape) float64 in the space of the network.
        noise: (n, *shape) float64.
        teaching: what the gradient points to.
    """

    reading: Reading
    time: int | str
    clean: Tensor
    noise: Tensor
    teaching: Teaching


def infer_noise(module: nn.Module, call: Call, clean: Tensor) -> Inference | None:
    """The mixture of clean samples and unseen noise that a network was shown.

    A schedule is accepted if (x_t - a x_0) / s is standard normal and uncorrelated with x_0, by statistical tests, and
    if the gradient points, element by element, to a target that holds this noise: a schedule that is wrong by one per
    cent passes the first on small batches, but not the second.

    Args:
        module: where schedules are looked for.
        call: of the network.
        clean: (n, *shape) samples of the batch.

    Returns:
        None if there is no such schedule.
    """
    if call.gradient is None or call.answer is None or clean.numel() < _LEAST:
        return None
    shown = call.shown[:_ROWS].to("cpu", torch.float64)
    answer, gradient = call.answer[:_ROWS], call.gradient[:_ROWS]
    for scale, shift in _SCALES:
        samples = clean[:_ROWS].to("cpu", torch.float64) * scale + shift
        for name, reading in _plausible(module, call, shown, samples, scale, shift):
            signal, amount = (value.view(-1, *[1] * (shown.ndim - 1)) for value in (reading.signal, reading.noise))
            noise = (shown - signal * samples) / amount
            if not looks_like_noise(noise, samples).normal:
                continue
            assert reading.timetable is not None
            width = reading.timetable.sigma_data
            teaching = read_target(answer, gradient, samples, noise, reading.signal, reading.noise, width)
            if not _sure(teaching, answer, noise):
                continue
            assert teaching.target is not None
            if all(teaching.target.weights(a, s, width)[1] for a, s in _pairs(reading)):
                return Inference(reading, name, samples, noise, teaching)
    return None


def _sure(teaching: Teaching, answer: Tensor, noise: Tensor) -> bool:
    """Whether the gradient would have told an amount of noise that is wrong by one per cent.

    With a share r of the answer in what is taught, such an error turns a squared error's gradient by an angle of
    0.01 r / (1 + r^2), and about 0.004 r of the signs of an absolute error's. (Of an answer of 0 the gradient has the
    noise's direction, whatever its amount.)
    """
    if teaching.target is None:
        return False
    missing = 1 - teaching.agreement[teaching.target.name]
    share = float(answer.double().square().mean().sqrt()) / float(noise.square().mean().sqrt())
    if teaching.squared:
        return missing <= (_WRONG * share / (1 + share**2)) ** 2 / 2 and share > _LEAST_SHARE
    flipped = 0.4 * _WRONG * share
    return missing <= flipped and flipped * noise.numel() > 10


def _plausible(
    module: nn.Module, call: Call, shown: Tensor, samples: Tensor, scale: float, shift: float
) -> Iterator[tuple[int | str, Reading]]:
    """Schedules under which what is left has the right variance, which takes no pass over the samples."""
    x, z = shown.flatten(1), samples.flatten(1)
    own, cross, clean = (x * x).mean(1), (x * z).mean(1), (z * z).mean(1)
    slack = 6 * math.sqrt(2 / x.numel()) + 0.02
    for name, times in call.times.items():
        listed = times[: len(shown)].tolist()
        for timetable in known_timetables(module):
            pairs = _amounts(timetable, listed)
            if pairs is None or min(noise for _, noise in pairs) < 1e-3:
                continue
            signal, noise = torch.tensor(pairs, dtype=torch.float64).T
            variance = (own - 2 * signal * cross + signal**2 * clean) / noise**2
            if abs(float(variance.mean()) - 1) < slack:
                yield name, Reading(timetable, signal, noise, scale, shift)


def _amounts(timetable: Timetable, times: list[float]) -> list[tuple[float, float]] | None:
    try:
        return [timetable.shown(time) for time in times]
    except (ValueError, OverflowError, ZeroDivisionError):
        return None


def _pairs(reading: Reading) -> list[tuple[float, float]]:
    return list(zip(reading.signal.tolist(), reading.noise.tolist(), strict=True))


__all__ = ["Inference", "infer_noise"]
