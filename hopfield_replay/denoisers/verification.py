"""Whether a denoiser shows its network what the training step shows it, and takes the answer for the same."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.doors import Call, Doors
from hopfield_replay.denoisers.targets import TARGETS
from hopfield_replay.denoisers.witness import Statement
from hopfield_replay.functional._diffusion_arguments import take
from hopfield_replay.functional.denoiser import Denoiser, undisturbed
from hopfield_replay.functional.noise_levels import timestep_of

_ROWS = 4  # samples that are compared
_CLOSE = 0.02  # relative difference that counts as none


@dataclass(frozen=True)
class Finding:
    """What speaks against a denoiser, or keeps it from being verified.

    Attributes:
        reason: in words; empty if the denoiser does what the step does.
        contradicts: whether the step contradicts the denoiser; False: it only says nothing of it.
    """

    reason: str = ""
    contradicts: bool = False

    @property
    def verified(self) -> bool:
        """Whether the denoiser does what the step does."""
        return not self.reason


def verify(
    denoiser: Denoiser, samples: Tensor, condition: Any, testimony: Statement, module: nn.Module, clean: Tensor
) -> Finding:
    """Compare a denoiser with a training step, at the noise levels that the step drew.

    Args:
        denoiser: what is to be verified.
        samples: (n, *shape) the witnessed batch as the denoiser gets it.
        condition: of the batch, as the denoiser gets it.
        testimony: what the step did.
        module: where the network is.
        clean: (n, *shape) the batch as the network sees it without noise (the mean, of latents that are drawn).
    """
    if samples.shape[1:] != clean.shape[1:]:
        return Finding(
            f"training_step noises samples of shape {tuple(clean.shape[1:])}, the denoiser is given "
            f"{tuple(samples.shape[1:])}",
            True,
        )
    if problem := _samples_differ(samples, clean, testimony):
        return Finding(problem, True)
    if testimony.target is None:
        return Finding(testimony.missing)
    unseen = 0
    for row in range(min(_ROWS, len(testimony.reading.signal), len(samples))):
        signal, noise = float(testimony.reading.signal[row]), float(testimony.reading.noise[row])
        if signal < 1e-3 or noise < 1e-3:
            continue
        step = timestep_of(denoiser, (signal / noise) ** 2)
        if step is None:
            return Finding(
                f"training_step mixes {signal:.3g} of the samples and {noise:.3g} of noise, which the denoiser does at "
                "no timestep",
                True,
            )
        difference = _row_differs(denoiser, samples, condition, testimony, module, row, step)
        if difference is None:
            unseen += 1
        elif difference:
            return Finding(difference, True)
    if unseen:
        return Finding("the denoiser does not call the network that training_step trains")
    return Finding(testimony.uncounted)


def _samples_differ(samples: Tensor, clean: Tensor, testimony: Statement) -> str:
    given, seen = samples.detach().to("cpu", torch.float64), clean.detach().to("cpu", torch.float64)
    if testimony.reading.timetable is None and testimony.place is None:
        return ""
    if near(given, seen):
        return ""
    scale, shift = testimony.reading.scale, testimony.reading.shift
    if testimony.place is not None and (scale, shift) != (1.0, 0.0):
        return f"training_step noises {scale:.3g} * samples {shift:+.3g}, the denoiser is given the samples as they are"
    return "training_step noises other samples than the denoiser is given"


def _row_differs(
    denoiser: Denoiser, samples: Tensor, condition: Any, testimony: Statement, module: nn.Module, row: int, step: float
) -> str | None:
    """What differs for one sample, in words; empty if nothing does; None if the network is not called."""
    one = slice(row, row + 1)
    x = samples[one].to(torch.promote_types(samples.dtype, torch.float32))
    eps = testimony.noise[one].to(x.device, x.dtype)
    with torch.no_grad(), undisturbed(denoiser, module), Doors(module) as doors:
        predicted = denoiser.predict_clean(denoiser.noise(x, step, eps), step, take(condition, one, len(samples)))
    call = next((call for call in doors.calls if _alike(call.network, testimony.call.network)), None)
    if call is None or call.answer is None:
        return None
    if testimony.time is not None:
        shown = float(testimony.call.times[testimony.time][row])
        name = testimony.call.name(testimony.time)
        mine = {call.name(key): value for key, value in call.times.items()}
        given = float(mine.get(name, next(iter(mine.values())))[0])
        if abs(given - shown) > 1e-3 * max(abs(shown), 1e-3):
            return f"training_step shows the network time {shown:g} where the denoiser shows it {given:g}"
    signal, noise = float(testimony.reading.signal[row]), float(testimony.reading.noise[row])
    mixed = signal * x.to("cpu", torch.float64) + noise * eps.to("cpu", torch.float64)
    if not near(call.shown.to("cpu", torch.float64), mixed):
        return "training_step shows the network other noisy samples than the denoiser does"
    if testimony.place is not None and (problem := _conditions_differ(call, testimony, row)):
        return problem
    return _taught_otherwise(call, predicted, signal, noise, testimony)


def _taught_otherwise(call: Call, predicted: Tensor, signal: float, noise: float, testimony: Statement) -> str:
    assert call.answer is not None
    assert testimony.target is not None
    width = 1.0 if testimony.reading.timetable is None else testimony.reading.timetable.sigma_data
    answer, shown = call.answer.to("cpu", torch.float64), call.shown.to("cpu", torch.float64)
    said = predicted.detach().to("cpu", torch.float64)
    right = testimony.target.clean(answer, shown, signal, noise, width)
    if near(said, right):
        return ""
    other = None
    for target in TARGETS:
        try:
            if near(said, target.clean(answer, shown, signal, noise, width)):
                other = target.name
                break
        except (ValueError, ZeroDivisionError):
            continue
    agreement = testimony.teaching.agreement[testimony.target.name]
    taught = f"training_step teaches {testimony.target.name} (cosine {agreement:.2f})"
    return f"{taught}, the denoiser takes it for {other or 'something else'}"


def _conditions_differ(call: Call, testimony: Statement, row: int) -> str:
    """Compare the tensors that the network is shown beside samples and time."""
    if testimony.time is None:
        return ""
    theirs, mine = _conditions(testimony.call, testimony), _conditions(call, testimony)
    for name in sorted(theirs.keys() | mine.keys()):
        if name not in mine:
            return f"training_step shows the network {name}, the denoiser does not"
        if name not in theirs:
            return f"the denoiser shows the network {name}, training_step does not"
        seen, given = theirs[name], mine[name]
        one = seen[row : row + 1] if seen.ndim and len(seen) == len(testimony.call.shown) else seen
        if one.shape != given.shape or not near(given.detach().cpu().double(), one.detach().cpu().double()):
            return f"the denoiser shows the network another {name} than training_step"
    return ""


def _conditions(call: Call, testimony: Statement) -> dict[str, Tensor]:
    assert testimony.time is not None
    skipped = {call.name(call.noisy), testimony.call.name(testimony.time)}
    return {name: value for name, value in call.named.items() if isinstance(value, Tensor) and name not in skipped}


def _alike(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks are one, or one is an average of the other."""
    if first is second:
        return True
    shapes = [[weight.shape for weight in item.parameters()] for item in (first, second)]
    return type(first) is type(second) and shapes[0] == shapes[1]


def near(given: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors are of one shape and differ by two per cent at most."""
    return given.shape == wanted.shape and float((given - wanted).norm()) <= _CLOSE * max(float(wanted.norm()), 1e-9)


__all__ = ["Finding", "near", "verify"]
