"""Samples that are made inside a step, such as latents: what the network is shown there, found by asking the step."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.doors import Call
from hopfield_replay.denoisers.draws import Draw, Law
from hopfield_replay.denoisers.mixing import mixture
from hopfield_replay.denoisers.own_step import Step, at_the_door, middle
from hopfield_replay.denoisers.timetable import Reading, Timetable, read_timetable
from hopfield_replay.denoisers.witness import Refusal, Statement, several, taught_by

_RUNS = 3  # steps with other times
_OTHER = 1e-3  # amounts of noise that differ by more are of other times
# what a time may be drawn from; with a batch of one sample a flip or a dropped label looks like a time
_TIMES: tuple[tuple[Law, ...], ...] = (("normal", "uniform", "integers"), ("integers",), ("uniform",), ("normal",))


def look_inside(step: Step, module: nn.Module, batch: Any, refusal: Refusal) -> Statement | Refusal:
    """What a step does with samples that it makes itself.

    The step is called again and stopped at the network's door: once with every random draw at the middle of its law, so
    that the network is shown its samples without noise, and some times with noise and times drawn anew. What it is
    shown then must be a mixture of both.

    Args:
        step: the module's step.
        module: whose it is.
        batch: what the witness saw.
        refusal: the witness's.

    Returns:
        What the step does; the refusal if that cannot be told.
    """
    taught = [call for call in refusal.calls if call.gradient is not None]
    inner = {id(call.inside) for call in taught}
    seen: list[str] = []
    for call in sorted(taught, key=lambda call: id(call) in inner, reverse=True):  # outer ones first
        base = at_the_door(step, module, batch, call.network, middle)
        if base is None or base[0].shown.shape != call.shown.shape:
            continue
        clean = base[0].shown
        count = sum(_is_noise(draw, clean) for draw in base[1])
        for which, laws in product(range(count), _TIMES):
            shown, noises, times = _noised(step, module, batch, call, clean, which, laws)
            if not shown:
                continue
            mixed = mixture(torch.cat(shown), clean.repeat(len(shown), *[1] * (clean.ndim - 1)), torch.cat(noises))
            if not mixed.exact or float(mixed.noise.max() - mixed.noise.min()) < _OTHER:
                continue  # at one time alone anything that is added to the samples looks like a part of them
            if problem := several([call], refusal.calls):
                return Refusal(problem)
            for name in times[0]:
                reading = read_timetable(module, mixed, torch.cat([part[name] for part in times]))
                if reading is not None and reading.timetable is not None:
                    return _testify(call, refusal, which, name, reading.timetable)
            seen.append(call.path)
    if seen:
        return Refusal(f"the noise schedule of {seen[0]} is none of those known, or its time cannot be seen")
    return refusal


def _noised(
    step: Step, module: nn.Module, batch: Any, call: Call, clean: Tensor, which: int, laws: tuple[Law, ...]
) -> tuple[list[Tensor], list[Tensor], list[dict[int | str, Tensor]]]:
    """What the network is shown in steps with noise in one of the draws, the noise, and the times."""
    shown, noises, times = [], [], []
    for seed in range(1, _RUNS + 1):
        stopped = at_the_door(step, module, batch, call.network, _with_noise(clean, which, laws), seed)
        if stopped is None or stopped[0].shown.shape != clean.shape:
            continue
        drawn = [draw for draw in stopped[1] if _is_noise(draw, clean)]
        if len(drawn) > which:
            shown.append(stopped[0].shown)
            noises.append(drawn[which].values)
            times.append(stopped[0].times)
    return shown, noises, times


def _with_noise(clean: Tensor, which: int, laws: tuple[Law, ...]) -> Callable[[Draw], Tensor | None]:
    """Everything in the middle but one draw of the samples' shape, and numbers for each sample, such as times."""
    count = -1

    def choose(draw: Draw) -> Tensor | None:
        nonlocal count
        if _is_noise(draw, clean):
            count += 1
            return draw.values if count == which else draw.median
        return draw.values if draw.law in laws and draw.values.numel() == len(clean) else draw.median

    return choose


def _is_noise(draw: Draw, clean: Tensor) -> bool:
    return draw.law == "normal" and draw.values.shape == clean.shape


def _testify(call: Call, refusal: Refusal, which: int, time: int | str, timetable: Timetable) -> Statement:
    """The step that was witnessed, in the light of what was found."""
    drawn = [draw.values for draw in refusal.draws if _is_noise(draw, call.shown)]
    amounts = torch.tensor([timetable.shown(value) for value in call.times[time].tolist()], dtype=torch.float64)
    shape = (-1, *[1] * (call.shown.ndim - 1))
    signal, noise = amounts.T
    drawn_noise = drawn[which].to("cpu", torch.float64)
    clean = (call.shown.to("cpu", torch.float64) - noise.view(shape) * drawn_noise) / signal.view(shape)
    reading = Reading(timetable, signal, noise, 1.0, 0.0)
    return Statement(call, None, drawn_noise, clean, reading, time, taught_by(call, clean, drawn_noise, reading))


__all__ = ["look_inside"]
