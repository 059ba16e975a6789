"""Which schedule, and which way of counting time, a network is shown."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.mixing import Mixture
from hopfield_replay.utilities.holdings import holdings

Amounts = tuple[float, float]
_WHOLE = 1e-2  # how far from a whole number rounding leaves a whole timestep


@dataclass(frozen=True)
class Clock:
    """How t becomes the time that a network is shown: scale * t + offset, or scale * log t + offset.

    Example:
        >>> Clock("1000 (1 - t)", -1000.0, 1000.0).time(0.25)
        750.0
    """

    words: str
    scale: float = 1.0
    offset: float = 0.0
    logarithmic: bool = False

    def time(self, t: float) -> float:
        """What the network is shown at t."""
        return self.scale * (math.log(t) if self.logarithmic else t) + self.offset

    def t(self, time: float) -> float:
        """The t at which a network is shown a time."""
        plain = (time - self.offset) / self.scale
        return math.exp(min(plain, 700.0)) if self.logarithmic else plain


@dataclass(frozen=True)
class Timetable:
    r"""A schedule together with the time that a network is shown.

    Attributes:
        name: of the schedule, in words.
        clock: how the time t becomes the network's.
        num_timesteps: t runs over 0 <= t < num_timesteps; None: t is a noise level sigma > 0 without bounds.
        amounts_at: t to (a_t, s_t) of what the network is shown.
        whole: t is a whole number.
        sigma_data: the deviation that samples have in a preconditioning a = 1 / sqrt(sigma^2 + sigma_data^2); 1 for a
            variance-preserving schedule.
    """

    name: str
    clock: Clock
    num_timesteps: int | None
    amounts_at: Callable[[float], Amounts]
    whole: bool = False
    sigma_data: float = 1.0

    def amounts(self, timestep: float) -> Amounts:
        """Return (a_t, s_t) at a timestep.

        Raises:
            ValueError: a timestep out of range, or a broken one where they are whole.
        """
        end = self.num_timesteps
        if self.whole and timestep != int(timestep):
            raise ValueError(f"this schedule has whole timesteps 0 <= t < {end}, got {timestep!r}.")
        if timestep < 0 or (end is not None and timestep > end - self.whole):
            raise ValueError(f"timestep {timestep} is out of range: 0 <= t < {end}.")
        return self.amounts_at(timestep)

    def shown(self, time: float) -> Amounts:
        """The amounts (a, s) at which a network is shown a time.

        Raises:
            ValueError: a time that this clock never shows.
        """
        t = self.clock.t(time)
        if self.whole and abs(t - round(t)) > _WHOLE:
            raise ValueError(f"time {time} is no whole timestep.")
        return self.amounts(round(t) if self.whole else t)


@dataclass(frozen=True)
class Reading:
    """What the amounts of a mixture mean.

    Attributes:
        timetable: what explains them; None if nothing known does.
        signal: (n,) a_t.
        noise: (n,) s_t.
        scale: what samples are multiplied by before they are noised.
        shift: what is added to them then.
    """

    timetable: Timetable | None
    signal: Tensor
    noise: Tensor
    scale: float
    shift: float


def read_timetable(module: nn.Module, mixture: Mixture, times: Tensor) -> Reading | None:
    """The schedule and clock that explain the amounts of a mixture at the times that a network was shown.

    Tried in this order: every sequence of numbers that the module holds (also in plain objects, such as schedulers),
    read as products of alphas, their roots, betas, alphas or sigmas; a straight path between samples and noise; cosine,
    linear and other formulas; noise levels sigma themselves.

    Args:
        module: where sequences are looked for.
        mixture: amounts (n,).
        times: (n,) what the network was shown as the time.

    Returns:
        None if none of them explains all samples.

    Example:
        >>> t = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
        >>> zero = torch.zeros(3)
        >>> flow = Mixture(1 - t, zero, t, zero, zero == 0, 1e-3)
        >>> reading = read_timetable(nn.Module(), flow, 1000 * t)
        >>> reading.timetable.name, reading.timetable.clock.words
        ('straight path', '1000 t')
    """
    for timetable in chain(known_timetables(module), _levels(mixture, times)):
        reading = _explains(timetable, mixture, times)
        if reading is not None:
            return reading
    return None


def _explains(timetable: Timetable, amounts: Mixture, times: Tensor) -> Reading | None:
    try:
        pairs = [timetable.shown(time) for time in times[: len(amounts.noise)].tolist()]
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    signal, noise = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2).T
    use, close = amounts.usable, amounts.closeness

    def near(given: Tensor, wanted: Tensor, unit: float = 1.0) -> bool:
        return bool(((given - unit * wanted).abs() <= close * abs(unit) * (wanted + amounts.floor))[use].all())

    weight = signal[use].square().sum().clamp(min=1e-9)
    scale = float((amounts.signal * signal)[use].sum() / weight)
    shift = float((amounts.offset * signal)[use].sum() / weight)
    if abs(scale) < 1e-3 or not near(amounts.noise.abs(), noise) or not near(amounts.signal, signal, scale):
        return None
    if not bool(((amounts.offset - shift * signal).abs() <= 2 * close * (abs(scale) + abs(shift)))[use].all()):
        return None
    scale, shift = (1.0, 0.0) if abs(scale - 1) < close and abs(shift) < close else (scale, shift)
    return Reading(timetable, signal, noise, scale, shift)


def known_timetables(module: nn.Module) -> Iterator[Timetable]:
    """Schedules that a module holds as sequences, then well-known ones, each with every usual clock."""
    for path, values in sequences(module):
        yield from _tables(path, values)
    unit = [Clock("t"), Clock("1000 t", 1000.0), Clock("1 - t", -1.0, 1.0), Clock("1000 (1 - t)", -1e3, 1e3)]
    unit += [Clock(f"{steps} t", float(steps)) for steps in (999, 100, 50, 500, 200, 4000)]
    for name, amounts in _FORMULAS.items():
        for clock in unit:
            yield Timetable(name, clock, 1, amounts)
    for steps in (1000, 500, 400, 300, 250, 200, 100, 50, 4000, 2000):
        for name, values in _betas(steps).items():
            yield from _tables(name, values, readings=("betas",))


def _straight(t: float) -> Amounts:
    return 1 - t, t


def _trigonometric(t: float) -> Amounts:
    return math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)


def _improved_cosine(t: float) -> Amounts:
    bar = (math.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    return math.sqrt(bar), math.sqrt(1 - bar)


def _vp_sde(t: float) -> Amounts:
    log_signal = -0.25 * t * t * 19.9 - 0.05 * t
    return math.exp(log_signal), math.sqrt(-math.expm1(2 * log_signal))


_FORMULAS: dict[str, Callable[[float], Amounts]] = {
    "straight path": _straight,
    "cosine": _trigonometric,
    "cosine of improved DDPM": _improved_cosine,
    "variance-preserving SDE": _vp_sde,
}


def _betas(steps: int) -> dict[str, Tensor]:
    """Well-known sequences of betas, of schedules that are computed where they are used."""
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    bars = ((grid + 0.008) / 1.008 * math.pi / 2).cos().square()
    line = torch.linspace
    known = {
        f"linear betas, {steps} steps": line(1e-4, 0.02, steps, dtype=torch.float64),
        f"cosine betas, {steps} steps": (1 - bars[1:] / bars[:-1]).clamp(max=0.999),
        f"scaled linear betas, {steps} steps": line(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64).square(),
    }
    if steps != 1000:
        rescaled = line(0.1 / steps, 20 / steps, steps, dtype=torch.float64).clamp(max=0.999)
        known[f"linear betas scaled to {steps} steps"] = rescaled
    return known


def _tables(
    path: str, values: Tensor, readings: tuple[str, ...] = ("bars", "roots", "betas", "alphas", "sigmas")
) -> Iterator[Timetable]:
    """Timetables of a sequence, read in every way that it can be read in."""
    steps = len(values)
    inside = bool(((values >= 0) & (values <= 1)).all())
    seen: list[tuple[str, Tensor, Tensor]] = []
    for reading in readings:
        if reading == "sigmas":
            if bool((values >= 0).all()):
                seen += [(f"sigmas {path}", 1 / (1 + values**2).sqrt(), values / (1 + values**2).sqrt())]
                seen += [(f"sigmas {path}, unscaled", torch.ones_like(values), values)]
            continue
        if not inside:
            continue
        bars = {
            "bars": lambda: values,
            "roots": lambda: values**2,
            "betas": lambda: (1 - values).cumprod(0),
            "alphas": lambda: values.cumprod(0),
        }[reading]()
        seen.append(
            (path if reading in ("bars", "betas") else f"{path}, read as {reading}", bars.sqrt(), (1 - bars).sqrt())
        )
    last = steps - 1
    clocks = [Clock("t", 1.0), Clock("t + 1", 1.0, 1.0), Clock(f"t / {steps}", 1 / steps)]
    clocks += [Clock(f"(t + 1) / {steps}", 1 / steps, 1 / steps), Clock(f"t / {last}", 1 / max(1, last))]
    clocks += [Clock(f"1000 t / {steps}", 1000 / steps)] if steps != 1000 else []
    for name, signal, noise in seen:
        pairs = list(zip(signal.tolist(), noise.tolist(), strict=True))
        if pairs[0][1] * pairs[-1][0] > pairs[-1][1] * pairs[0][0]:  # noise falls
            pairs = pairs[::-1]
            backwards = [Clock(f"{last} - t", -1.0, float(last)), *clocks]
        else:
            backwards = clocks
        for clock in backwards:
            yield Timetable(name, clock, steps, _looked_up(pairs), whole=True)


def _looked_up(pairs: list[Amounts]) -> Callable[[float], Amounts]:
    return lambda t: pairs[int(t)]


def _levels(amounts: Mixture, times: Tensor) -> Iterator[Timetable]:
    """Timetables whose t is the noise level sigma itself, scaled in one of the known ways."""
    noise = amounts.noise.abs()
    clocks = [Clock("sigma"), Clock("1000 sigma", 1000.0), Clock("log sigma", logarithmic=True)]
    for factor, words in ((0.25, "log(sigma) / 4"), (-2.0, "log SNR"), (0.5, "log(sigma) / 2"), (2.0, "2 log sigma")):
        clocks.append(Clock(words, factor, logarithmic=True))
    for clock in clocks:
        yield Timetable("noise levels sigma", clock, None, lambda sigma: (1.0, sigma))
        yield Timetable("noise levels sigma, of unit variance", clock, None, _preconditioned(1.0))
        straight = "noise levels sigma, straight path"
        yield Timetable(straight, clock, None, lambda sigma: (1 / (1 + sigma), sigma / (1 + sigma)))
        sigmas = torch.tensor([clock.t(time) for time in times[: len(noise)].tolist()], dtype=torch.float64)
        inside = amounts.usable & (noise > 1e-3) & (noise < 1) & (sigmas > 0)
        widths = sigmas[inside] * (1 / noise[inside].square() - 1).sqrt()  # s = sigma / sqrt(sigma^2 + width^2)
        if not len(widths):
            continue
        width = float(widths.median())
        if width > 1e-3 and float((widths - width).abs().max()) < 0.05 * width:
            width = round(width, 2) if abs(width - round(width, 2)) < 0.01 * width else width
            words = f"noise levels sigma, preconditioned with sigma_data = {width:g}"
            yield Timetable(words, clock, None, _preconditioned(width), sigma_data=width)


def _preconditioned(width: float) -> Callable[[float], Amounts]:
    return lambda sigma: (1 / math.hypot(width, sigma), sigma / math.hypot(width, sigma))


def sequences(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Sequences of 8 to 100,000 numbers that rise or fall and that a module holds, also in plain objects."""
    for path, value in holdings(module):
        values = _sequence(value)
        if values is not None:
            yield path, values


def _sequence(value: Any) -> Tensor | None:
    array = type(value).__module__ == "numpy" and getattr(value, "ndim", 0) == 1
    if not (isinstance(value, Tensor) and value.ndim == 1 and value.is_floating_point()) and not array:
        return None
    if not 8 <= len(value) <= 100_000:
        return None
    values = torch.as_tensor(value).detach().to("cpu")
    if not values.is_floating_point():
        return None
    values = values.to(torch.float64)
    steps = values.diff()
    monotone = bool((steps >= 0).all()) or bool((steps <= 0).all())
    return values if monotone and bool(values.isfinite().all()) and float(values[0]) != float(values[-1]) else None


__all__ = ["Clock", "Reading", "Timetable", "known_timetables", "read_timetable", "sequences"]
