"""Witness: one real training step, watched, says how its module noises and what its network is taught."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.doors import Call, Doors
from hopfield_replay.denoisers.draws import Draw, Draws
from hopfield_replay.denoisers.mixing import Mixture, mixture
from hopfield_replay.denoisers.own_step import copied
from hopfield_replay.denoisers.targets import Target, Teaching, read_target
from hopfield_replay.denoisers.timetable import Reading, read_timetable
from hopfield_replay.denoisers.unseen_noise import infer_noise
from hopfield_replay.utilities.nested import as_mapping, is_record


@dataclass(frozen=True)
class Place:
    """Where in a batch the samples are.

    Attributes:
        path: keys and positions from the outside in.
        channels_last: the network takes them with the last dimension second.
    """

    path: tuple[Any, ...]
    channels_last: bool = False

    def of(self, batch: Any) -> Tensor:
        """The samples of a batch, as the network has their dimensions."""
        for key in self.path:
            batch = getattr(batch, key) if is_record(batch) else batch[key]
        samples: Tensor = batch
        return samples.movedim(-1, 1) if self.channels_last else samples

    def __str__(self) -> str:
        return "batch" + "".join(f"[{key!r}]" for key in self.path)


@dataclass(frozen=True, eq=False)
class Statement:
    """What a training step does with its samples and its network.

    Attributes:
        call: the one call of the network.
        place: where the batch holds the samples; None: they are made in the step.
        noise: (n, *shape) the noise of the step.
        clean: (n, *shape) the samples as the network sees them, without noise.
        reading: schedule, clock, and what the samples are scaled by.
        time: which argument of the network is the time; None: unknown.
        teaching: what the gradient points to.
    """

    call: Call
    place: Place | None
    noise: Tensor
    clean: Tensor
    reading: Reading
    time: int | str | None
    teaching: Teaching

    @property
    def target(self) -> Target | None:
        """What the network is taught."""
        return self.teaching.target

    @property
    def complete(self) -> bool:
        """Whether a denoiser follows from it."""
        return not self.missing

    @property
    def missing(self) -> str:
        """What keeps a denoiser from following from it, in words."""
        if self.reading.timetable is None:
            return "its noise schedule is none of those known, or its time cannot be seen"
        if self.target is None:
            return (
                f"what the network is taught is none of the known targets (nearest: {self.teaching.said() or 'none'})"
            )
        return self.uncounted

    @property
    def uncounted(self) -> str:
        """What an error would count and the step's loss does not, in words; empty if there is nothing."""
        if not self.teaching.left_out:
            return ""
        return (
            f"its loss leaves out {self.teaching.left_out:.0%} of what its network answers (a mask, padding, a clamp), "
            "which an error would count"
        )

    def __str__(self) -> str:
        timetable = self.reading.timetable
        taught = "an unknown target" if self.target is None else self.target.name
        where = self.call.path or "the module itself"
        if timetable is None:
            return f"{where} predicts {taught} with an unknown noise schedule"
        return f"{where} predicts {taught}, {timetable.name}, shown as time {timetable.clock.words}"


@dataclass(frozen=True, eq=False)
class Refusal:
    """Why a training step says nothing sure.

    Attributes:
        reason: in words.
        calls: calls of networks whose samples may be made inside the step.
        draws: what the step drew.
        blind: whether there was nothing to be seen, so that no denoiser can be compared with anything.
    """

    reason: str
    calls: tuple[Call, ...] = ()
    draws: tuple[Draw, ...] = ()
    blind: bool = False


class Witness:
    """Watches one training step. Nothing of the module, its gradients or the random state changes.

    Enter it before the step; leave it after the step's backward pass, and ask :meth:`testimony`.

    Args:
        module: whose step it is.
        batch: what the step is called with.

    Attributes:
        batch: a copy of it: steps may change theirs.

    Example:
        >>> from hopfield_replay.denoisers.targets import TARGETS
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Linear(16, 16)
        ...     def forward(self, x, t): return self.layer(x) * t[:, None]
        >>> net, x = Net(), torch.randn(8, 16)
        >>> with Witness(net, x) as witness:
        ...     t, noise = torch.rand(8), torch.randn_like(x)
        ...     xt = (1 - t[:, None]) * x + t[:, None] * noise
        ...     (net(xt, t) - (noise - x)).square().mean().backward()
        >>> print(witness.testimony())
        the module itself predicts flow_prediction, straight path, shown as time t
    """

    def __init__(self, module: nn.Module, batch: Any) -> None:
        self.module = module
        self._doors = Doors(module)
        self._draws = Draws()
        self._entered = ExitStack()
        self.batch = copied(batch)

    @property
    def taught(self) -> bool:
        """Whether a network that was called got a gradient."""
        return any(call.gradient is not None for call in self._doors.calls)

    @property
    def network(self) -> nn.Module | None:
        """The one network that got a gradient, the outermost of those inside of one another; None: none, or several."""
        taught = [call for call in self._doors.calls if call.gradient is not None]
        outer = [call.network for call in taught if not _within(call, {id(other) for other in taught})]
        return outer[0] if len({id(network) for network in outer}) == 1 else None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._doors.forget)
            stack.enter_context(self._doors)
            stack.enter_context(self._draws)
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def close(self) -> None:
        """Watch no further calls and draws; gradients are still noted."""
        self._doors.close()
        self._draws.stopped = True

    def testimony(self) -> Statement | Refusal:
        """What the step said."""
        calls = [call for call in self._doors.calls if call.answer is not None]
        if not calls:
            return Refusal("no network was called with samples and a time", blind=True)
        mixtures = [(call, evidence) for call in calls if (evidence := self._mixed(call)) is not None]
        if not mixtures:
            return self._inferred(calls) or Refusal(_unmixed(calls), tuple(calls), tuple(self._draws.made))
        mixed = {id(call) for call, _ in mixtures}
        outer = [(call, evidence) for call, evidence in mixtures if not _within(call, mixed)]
        taught = [(call, evidence) for call, evidence in outer if call.gradient is not None] or outer
        if problem := several([call for call, _ in taught], calls):
            return Refusal(problem)
        call, evidence = taught[0]
        inside = [(c, e) for c, e in mixtures if _within(c, {id(call)})]
        # a module whose forward only hands on what its network answers is not the network, for denoisers call that one
        handed_on = [(c, e) for c, e in inside if _same_answer(c, call)][::-1]
        chain = [*handed_on, (call, evidence), *inside]
        for inner, seen in chain:  # where the outermost does not show its time, a network inside of it may
            for name, times in inner.times.items():
                reading = read_timetable(self.module, seen.mixture, times)
                if reading is not None:
                    return _testify(inner, seen, name, reading)
        if (inferred := self._inferred([call])) is not None:  # noise of which only a part was drawn as noise
            return inferred
        amounts = evidence.mixture
        return _testify(call, evidence, None, Reading(None, amounts.signal, amounts.noise.abs(), 1.0, 0.0))

    def _mixed(self, call: Call) -> "_Evidence | None":
        """Which tensor of the batch, and which noise, a network was shown a mixture of."""
        shape = call.shown.shape
        drawn = [d.values for d in self._draws.made if d.law == "normal" and d.values.shape == shape]
        for place, clean in self._samples(shape):
            others = [v for p, v in self._samples(shape) if p.path != place.path and v.is_floating_point()]
            for noise in [*drawn, *others]:
                fitted = mixture(call.shown, clean, noise)
                if fitted.exact:
                    return _Evidence(place, clean, noise, fitted)
        return None

    def _inferred(self, calls: Sequence[Call]) -> Statement | Refusal | None:
        """What follows where the noise was not seen being drawn."""
        for call in calls:
            for place, clean in self._samples(call.shown.shape):
                inferred = infer_noise(self.module, call, clean)
                if inferred is not None:
                    if problem := several([call], calls):
                        return Refusal(problem)
                    return Statement(
                        call, place, inferred.noise, inferred.clean, inferred.reading, inferred.time, inferred.teaching
                    )
        return None

    def _samples(self, shape: torch.Size) -> list[tuple[Place, Tensor]]:
        """The batch's tensors that may be the samples of a network."""
        candidates = []
        for place, value in tensors_in(self.batch):
            if value.shape == shape and value.ndim > 1:
                candidates.append((place, value))
            elif value.ndim > 2 and value.movedim(-1, 1).shape == shape:
                candidates.append((Place(place.path, channels_last=True), value.movedim(-1, 1)))
        return candidates


@dataclass(frozen=True, eq=False)
class _Evidence:
    place: Place
    clean: Tensor
    noise: Tensor
    mixture: Mixture


def _testify(call: Call, evidence: _Evidence, time: int | str | None, reading: Reading) -> Statement:
    clean = evidence.clean.to("cpu", torch.float64) * reading.scale + reading.shift
    signs = evidence.mixture.noise.sign()
    noise = evidence.noise.to("cpu", torch.float64) * float(signs[evidence.mixture.usable][0])
    return Statement(call, evidence.place, noise, clean, reading, time, taught_by(call, clean, noise, reading))


def taught_by(call: Call, clean: Tensor, noise: Tensor, reading: Reading) -> Teaching:
    """What the gradient at a network's answer points to."""
    if call.gradient is None or call.answer is None:
        return Teaching(None, {})
    width = 1.0 if reading.timetable is None else reading.timetable.sigma_data
    return read_target(call.answer, call.gradient, clean, noise, reading.signal, reading.noise, width)


def several(taught: Sequence[Call], calls: Sequence[Call]) -> str | None:
    """What speaks against one call of one network, in words; None if nothing does."""
    networks = {id(call.network): call.path for call in taught}
    if len(networks) > 1:
        return f"the step trains {len(networks)} networks ({', '.join(networks.values())})"
    times = sum(call.network is taught[0].network for call in calls)
    return f"the step calls its network ({taught[0].path or 'itself'}) {times} times" if times > 1 else None


def _same_answer(inner: Call, outer: Call) -> bool:
    return (
        inner.answer is not None
        and outer.answer is not None
        and inner.answer.shape == outer.answer.shape
        and torch.equal(inner.answer, outer.answer)
    )


def _within(call: Call, calls: set[int]) -> bool:
    outer = call.inside
    while outer is not None:
        if id(outer) in calls:
            return True
        outer = outer.inside
    return False


def _unmixed(calls: list[Call]) -> str:
    shapes = ", ".join(sorted({f"{call.path or 'itself'} {tuple(call.shown.shape[1:])}" for call in calls})[:3])
    return f"no network was shown a mixture of this batch's samples and noise ({shapes})"


def tensors_in(batch: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Place, Tensor]]:
    """Every real tensor of a batch, with its place."""
    if isinstance(batch, Tensor):
        if not batch.is_complex():
            yield Place(path), batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from tensors_in(value, (*path, key))
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            yield from tensors_in(value, (*path, index))
    elif is_record(batch):
        yield from tensors_in(as_mapping(batch), path)


__all__ = ["Place", "Refusal", "Statement", "Witness", "several", "taught_by", "tensors_in"]
