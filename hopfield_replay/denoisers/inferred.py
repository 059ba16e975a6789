"""The denoiser that a training step shows: its network, called as the step calls it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.denoisers.conditioning import move
from hopfield_replay.denoisers.doors import Call, answer_in
from hopfield_replay.denoisers.targets import Target
from hopfield_replay.denoisers.timetable import Timetable
from hopfield_replay.functional.denoiser import evaluating


class Shared:
    """A value that all samples of a batch share: it is not cut when a batch is."""

    def __init__(self, value: Any) -> None:
        self.value = value


class InferredDenoiser:
    """Calls a network as a training step did, with other samples and another time.

    Args:
        call: the call of the step.
        time: which of its arguments is the time.
        timetable: schedule and clock.
        target: what the network predicts.
    """

    def __init__(self, call: Call, time: int | str, timetable: Timetable, target: Target) -> None:
        self.network = call.network
        self.path = call.path
        self.timetable = timetable
        self.target = target
        self._noisy, self._time = call.noisy, time
        given = call.args[time] if isinstance(time, int) else call.kwargs[time]
        self._like = given.detach().clone() if isinstance(given, Tensor) else given
        self._rows = len(call.shown)
        self._dtype = call.shown.dtype
        self._others = others(call, time)

    @property
    def num_timesteps(self) -> int | None:
        """Timesteps run over 0 <= t < num_timesteps; None: noise levels sigma > 0."""
        return self.timetable.num_timesteps

    def noise(self, clean: Tensor, timestep: float, noise: Tensor) -> Tensor:
        """Noise clean samples, in the network's scale, to a timestep."""
        signal, amount = self.timetable.amounts(timestep)
        return signal * clean + amount * noise

    def snr(self, timestep: float) -> float:
        """Signal-to-noise ratio a_t^2 / s_t^2; infinite without noise."""
        signal, amount = self.timetable.amounts(timestep)
        return (signal / amount) ** 2 if amount else float("inf")

    def predict_clean(self, noisy: Tensor, timestep: float, condition: Any = None) -> Tensor:
        """Estimate the clean samples, in the network's scale, on its device and in float32 or better."""
        signal, amount = self.timetable.amounts(timestep)
        weight = next(self.network.parameters(), noisy)
        inputs = noisy.to(weight.device, self._dtype)
        held: Mapping[Any, Any] = condition if isinstance(condition, Mapping) else self._others
        given: dict[Any, Any] = {key: _open(move(item, inputs.device, inputs.dtype)) for key, item in held.items()}
        given |= {self._noisy: inputs, self._time: self._shown_time(timestep, inputs)}
        args = [given[position] for position in sorted(name for name in given if isinstance(name, int))]
        kwargs = {name: value for name, value in given.items() if isinstance(name, str)}
        with evaluating(self.network):
            answered = answer_in(self.network(*args, **kwargs), inputs.shape)
        if answered is None:
            raise ValueError(f"{self.path} returned nothing of the samples' shape {tuple(inputs.shape)}.")
        precise = torch.promote_types(noisy.dtype, torch.float32)
        answer = answered[0][:, : inputs.shape[1]].to(precise)
        noisy = noisy.to(answer.device, precise)
        return self.target.clean(answer, noisy, signal, amount, self.timetable.sigma_data)

    def _shown_time(self, timestep: float, inputs: Tensor) -> Any:
        """The time as the network takes it, in the form in which the step gave it."""
        value = self.timetable.clock.time(timestep)
        if not isinstance(self._like, Tensor):
            return type(self._like)(value)
        shape = list(self._like.shape)
        if shape and shape[0] == self._rows:
            shape[0] = len(inputs)
        whole = not self._like.is_floating_point()
        return torch.full(shape, round(value) if whole else value, dtype=self._like.dtype, device=inputs.device)


def others(call: Call, time: int | str) -> dict[int | str, Any]:
    """The arguments of a call beside the noisy samples and the time, as a condition that can be cut with its batch."""
    given: dict[int | str, Any] = dict(enumerate(call.args))
    given.update(call.kwargs)
    rows = len(call.shown)
    return {name: _cuttable(value, rows) for name, value in given.items() if name not in (call.noisy, time)}


def _cuttable(value: Any, rows: int) -> Any:
    if isinstance(value, Tensor):
        value = value.detach()
    if not _has_rows(value, rows):
        return Shared(value)
    if isinstance(value, Mapping):
        return {key: _cuttable(item, rows) for key, item in value.items()}
    if isinstance(value, list | tuple) and not _is_text(value, rows):
        return [_cuttable(item, rows) for item in value]
    return value


def _has_rows(value: Any, rows: int) -> bool:
    """Whether a value, or something in it, has one row for each sample."""
    if isinstance(value, Tensor):
        return value.ndim > 0 and len(value) == rows
    if isinstance(value, Mapping):
        return any(_has_rows(item, rows) for item in value.values())
    if type(value) in (list, tuple):
        return _is_text(value, rows) or any(_has_rows(item, rows) for item in value)
    return False


def _is_text(value: Any, rows: int) -> bool:
    return len(value) == rows and all(isinstance(item, str) for item in value)


def _open(value: Any) -> Any:
    if isinstance(value, Shared):
        return value.value
    if isinstance(value, Mapping):
        return {key: _open(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_open(item) for item in value]
    return value


__all__ = ["InferredDenoiser", "Shared", "others"]
