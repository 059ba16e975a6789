"""How a pipeline shows its samples and the time to its network, and what it makes of the answer: read off its call."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.pipelines.rehearsal import OWN_PARTS, CannotBeReadError, Rehearsal, rehearse
from hopfield_replay.pipelines.rows import Path, own_paths

_BLURRED = 8e-3  # times in bfloat16 have 8 bits
_EXACT = 1e-4


@dataclass(frozen=True)
class Convention:
    """What stands between a scheduler and a network.

    Attributes:
        component: name of the network in the pipeline.
        sample: argument of the network that holds the samples.
        listed: they are a list of one tensor for each.
        axis: of length 1, that they have beyond the scheduler's samples; None: none.
        time: argument that holds the time.
        slope: of the time as the network counts it, for one of the scheduler's timesteps.
        offset: the network's time at the scheduler's timestep 0.
        time_dtype: of that argument; None: the samples' own.
        sign: of the network's output in what the scheduler gets, 1 or -1.
        halved: the network has twice the channels, of which the first half is the prediction.
        own: arguments with a row for each sample.
    """

    component: str
    sample: str
    listed: bool
    axis: int | None
    time: str
    slope: float
    offset: float
    time_dtype: torch.dtype | None
    sign: int
    halved: bool
    own: frozenset[Path]

    def shown(self, samples: Tensor) -> Any:
        """The samples as the network takes them."""
        made = samples if self.axis is None else samples.unsqueeze(self.axis)
        return list(made.unbind(0)) if self.listed else made

    def times(self, timestep: float, samples: Tensor) -> Tensor:
        """The time as the network takes it (n,)."""
        value = self.offset + self.slope * timestep
        dtype = self.time_dtype or samples.dtype
        return torch.full((len(samples),), value, dtype=dtype, device=samples.device)

    def prediction(self, output: Any) -> Tensor:
        """What the scheduler gets of the network's output."""
        raw: Tensor = torch.stack(list(_first(output))) if self.listed else _first(output)
        if self.axis is not None:
            raw = raw.squeeze(self.axis)
        if self.halved:
            raw = raw.chunk(2, dim=1)[0]
        return self.sign * raw

    def answer(self, arguments: dict[str, Any], seed: int = 0) -> tuple[Any]:
        """Random numbers in the shape of the network's output."""
        given = arguments[self.sample]
        parts = list(given) if self.listed else [given]
        draws = torch.Generator().manual_seed(seed)
        dim = 0 if self.listed else 1
        made = []
        for part in parts:
            shape = list(part.shape)
            shape[dim] *= 2 if self.halved else 1
            made.append(torch.randn(shape, generator=draws).to(part.device, part.dtype))
        return (made if self.listed else made[0],)


def _first(output: Any) -> Any:
    if isinstance(output, tuple | list):
        return output[0]
    return output.sample if hasattr(output, "sample") else output


def read_convention(
    pipeline: Any, size: tuple[int, int], timesteps: int, whole: bool, guidance: float
) -> tuple[Convention, Rehearsal]:
    """Find out by two steps with other prompts, samples and timesteps.

    Args:
        pipeline: see :func:`rehearse`.
        size: height and width of the images.
        timesteps: of its scheduler.
        whole: the timesteps are whole numbers.
        guidance: the pipeline's guidance_scale.

    Returns:
        The convention, and the first of the steps, in which the network itself answered.

    Raises:
        CannotBeReadError: what the network is given or what becomes of its output is none of the known ways.
    """
    kind = type(pipeline).__name__
    early, late, third = (_step(share * timesteps, whole) for share in (0.25, 0.75, 0.5))
    first = rehearse(pipeline, ["", "a"], size, early, guidance=guidance)
    sample, listed, axis = _sample(first, kind)

    def noise(_: dict[str, Any]) -> Any:  # a network whose last layer is zero would hide a sign
        draws, found = torch.Generator().manual_seed(1), _first(first.output)
        like = found[0] if isinstance(found, list | tuple) else found
        shape = like.shape if isinstance(found, list | tuple) else like.shape[1:]
        made = torch.randn((3, *shape), generator=draws).to(like.device, like.dtype)
        return (list(made) if isinstance(found, list | tuple) else made,)

    second = rehearse(pipeline, ["a", "", "a"], size, late, guidance=guidance, answer=noise)
    last = rehearse(pipeline, ["", "a"], size, third, guidance=guidance, at_door=True)
    if _sample(second, kind) != (sample, listed, axis):
        raise CannotBeReadError(f"{kind} shows its samples to its network in several ways. {OWN_PARTS}")
    time, slope, offset, dtype = _time([first, second, last], [early, late, third], timesteps, sample, kind)
    sign, halved = _output(second, listed, axis, kind)
    rest = [{k: v for k, v in seen.arguments.items() if k not in (sample, time)} for seen in (first, second)]
    try:
        own = frozenset(own_paths(rest[0], rest[1], (2, 3)))
    except ValueError as error:
        raise CannotBeReadError(f"{kind}: {error}. {OWN_PARTS}") from error
    assert first.samples is not None
    follows = dtype == first.samples.dtype and dtype.is_floating_point
    found = Convention(
        first.name, sample, listed, axis, time, slope, offset, None if follows else dtype, sign, halved, own
    )
    return found, first


def _step(timestep: float, whole: bool) -> float:
    return int(timestep) if whole else float(timestep)


def _sample(seen: Rehearsal, kind: str) -> tuple[str, bool, int | None]:
    """Which argument of the network holds the samples, and how."""
    wanted = seen.samples
    for name, value in seen.arguments.items():
        listed = isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Tensor) for item in value)
        if listed and len({item.shape for item in value}) > 1:
            continue
        given = torch.stack(list(value)) if listed else value
        if wanted is None or not isinstance(given, Tensor) or given.numel() != wanted.numel():
            continue
        for axis in (None, *range(1, wanted.ndim + 1)):
            shown = wanted if axis is None else wanted.unsqueeze(axis)
            if shown.shape == given.shape and torch.equal(shown.to(given.dtype), given):
                return name, listed, axis
    raise CannotBeReadError(
        f"{kind} shows its network something else than the samples that its scheduler steps from (two images at once "
        f"for guidance, masks, another scaling). {OWN_PARTS}"
    )


def _time(
    seen: list[Rehearsal], timesteps: list[float], count: int, sample: str, kind: str
) -> tuple[str, float, float, torch.dtype]:
    """Which argument holds the time, and how it follows from the scheduler's timestep."""
    for name in seen[0].arguments:
        given: list[Any] = [one.arguments.get(name) for one in seen]
        if name == sample or not all(isinstance(value, Tensor) and value.numel() and value.ndim < 2 for value in given):
            continue
        firsts = [float(value.flatten()[0]) for value in given]
        alike = all(bool((value == value.flatten()[0]).all()) for value in given)
        if not alike or firsts[0] == firsts[1]:
            continue
        fitted = (firsts[1] - firsts[0]) / (timesteps[1] - timesteps[0])
        usual = [(1.0, 0.0, _BLURRED), (1 / count, 0.0, _BLURRED), (-1 / count, 1.0, _BLURRED)]
        for slope, offset, tolerance in [*usual, (fitted, firsts[0] - fitted * timesteps[0], _EXACT)]:
            pairs = zip(timesteps, firsts, strict=True)
            if all(math.isclose(offset + slope * t, value, rel_tol=tolerance, abs_tol=1e-9) for t, value in pairs):
                return name, slope, offset, given[0].dtype
    raise CannotBeReadError(f"{kind} tells its network the time in a way that is unknown here. {OWN_PARTS}")


def _output(seen: Rehearsal, listed: bool, axis: int | None, kind: str) -> tuple[int, bool]:
    """Sign and halving of the network's output."""
    raw = torch.stack(list(_first(seen.output))) if listed else _first(seen.output)
    assert seen.predicted is not None
    wanted = seen.predicted
    if axis is not None and raw.ndim > wanted.ndim:
        raw = raw.squeeze(axis)
    for halved in (False, True):
        made = raw.chunk(2, dim=1)[0] if halved else raw
        for sign in (1, -1):
            if made.shape == wanted.shape and torch.equal((sign * made).to(wanted.dtype), wanted):
                return sign, halved
    raise CannotBeReadError(
        f"{kind} gives its scheduler something else than its network's output (guidance that cannot be switched off, "
        f"another scaling). {OWN_PARTS}"
    )


__all__ = ["Convention", "read_convention"]
