"""A module's own training step as the meter: it is read, without a trace, for what its network is shown."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.doors import Call, Doors, Passed
from hopfield_replay.denoisers.draws import Draw, Draws
from hopfield_replay.denoisers.inferred import others
from hopfield_replay.denoisers.timetable import Timetable
from hopfield_replay.functional.denoiser import undisturbed
from hopfield_replay.utilities.holdings import holdings, is_plain
from hopfield_replay.utilities.nested import as_mapping, is_record
from hopfield_replay.utilities.random_states import random_states_kept, set_seed, undo_of

Step = Callable[[Any], Any]  # a batch to what the module's training_step returns

_MIDDLE = 356  # a seed whose first six numbers of Python's and NumPy's generators (old, new) lie in 0.2 to 0.85
_KEPT = 1_000_000  # numbers of tensors that are no buffers and yet come back


@contextmanager
def traceless(module: nn.Module) -> Iterator[None]:
    """Let a module's own methods be called: gradients, and all that its attributes say, come back as they were.

    That is what :func:`undisturbed` keeps, and attributes, short tensors, lists, dicts, sets and generators of the
    module, of what is inside of it, and of the plain objects that it holds.
    """
    restore = [undo for _, value in holdings(module) for undo in _memories(value)]
    weights = [(weight, weight.grad, weight.requires_grad) for weight in module.parameters()]
    for weight, _, _ in weights:
        weight.grad = None
    try:
        with undisturbed(module):
            yield
    finally:
        for undo in restore:
            undo()
        for weight, gradient, required in weights:
            weight.requires_grad_(required)
            weight.grad = gradient


def _memories(value: Any) -> Iterator[Callable[[], None]]:
    """What gives one object back as it is now."""
    if (back := undo_of(value)) is not None:
        yield back
    elif isinstance(value, list | set | dict):
        content = value.copy()

        def refill() -> None:
            if not _same_items(value, content):  # of a frozen one nothing can have changed
                value.clear()
                value.extend(content) if isinstance(value, list) else value.update(content)

        yield refill
    elif isinstance(value, Tensor):
        if not isinstance(value, nn.Parameter) and value.numel() <= _KEPT:
            before = value.detach().clone()
            yield lambda: None if torch.equal(value, before) else (value.detach().copy_(before), None)[1]
    elif isinstance(value, nn.Module) or is_plain(value):
        attributes = dict(vars(value))

        def reset() -> None:
            now = vars(value)
            if now.keys() != attributes.keys() or any(now[name] is not item for name, item in attributes.items()):
                now.clear()
                now.update(attributes)

        yield reset


@contextmanager
def seeded(module: nn.Module, seed: int) -> Iterator[None]:
    """Set all random states to a seed, and those of generators that the module holds; the global ones come back.

    To be used inside :func:`traceless`, which gives the module's own ones back.
    """
    for _, value in holdings(module):
        set_seed(value, seed)
    with random_states_kept(seed):
        yield


def _same_items(now: Any, before: Any) -> bool:
    """Whether a container holds the very same objects as a copy of it."""
    if isinstance(now, set):
        return bool(now == before)
    if isinstance(now, dict):
        return list(now) == list(before) and all(now[key] is before[key] for key in now)
    return len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))


def copied(batch: Any) -> Any:
    """A batch in containers of its own, and its tensors, which a step may change in place.

    Containers that cannot be made anew are left as they are, with what is in them.
    """
    if isinstance(batch, Tensor):
        return batch.clone()
    try:
        if type(batch) is dict:
            return {key: copied(value) for key, value in batch.items()}
        if isinstance(batch, Mapping):
            new: Any = copy.copy(batch)
            new.update({key: copied(value) for key, value in batch.items()})
            return new
        if isinstance(batch, list | tuple):
            items = [copied(item) for item in batch]
            return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
        if is_record(batch):
            return replace(batch, **{name: copied(value) for name, value in as_mapping(batch).items()})
    except Exception:  # a container of somebody's own kind
        return batch
    return batch


def at_the_door(
    step: Step,
    module: nn.Module,
    batch: Any,
    network: nn.Module,
    choose: Callable[[Draw], Tensor | None],
    seed: int = _MIDDLE,
) -> tuple[Call, list[Draw]] | None:
    """What a network is shown in a step with chosen draws; the step ends there.

    Returns:
        The first call of the network, and the draws before it; None if the step did not call it.
    """
    doors, draws = Doors(module, stop=lambda call: call.network is network), Draws(choose)
    with traceless(module), seeded(module, seed), torch.no_grad(), draws, doors:
        try:
            step(copied(batch))
        except Passed:
            return doors.calls[-1], draws.made
    return None


def middle(draw: Draw) -> Tensor | None:
    """The middle of what is drawn: no noise, no rare branch, the mean of a posterior, the crop in the centre."""
    return draw.median


@dataclass(frozen=True, eq=False)
class StepReader:
    """Reads what a network denoises, and its condition, off the module's own step.

    Every random draw of the step is at the middle of its law: noise is 0, so that the network is shown a_t x_0 itself;
    of a posterior (an autoencoder's) the mean is taken; labels are not dropped; a random crop is the one in the middle.

    Args:
        step: the module's step.
        module: whose it is.
        network: which is shown the samples.
        time: its argument that is the time.
        timetable: schedule and clock.
    """

    step: Step
    module: nn.Module
    network: nn.Module
    time: int | str
    timetable: Timetable

    def __call__(self, batch: Any) -> tuple[Tensor, Any]:
        """Samples (n, *shape) in the network's scale, and the condition of an InferredDenoiser."""
        stopped = at_the_door(self.step, self.module, batch, self.network, middle)
        if stopped is None:
            raise ValueError("the training step did not call its network for these samples.")
        call = stopped[0]
        signals = [self.timetable.shown(time)[0] for time in call.times[self.time].tolist()]
        amounts = torch.tensor(signals, dtype=torch.float64).to(call.shown.device, torch.float32)
        shape = (-1, *[1] * (call.shown.ndim - 1))
        precise = torch.promote_types(call.shown.dtype, torch.float32)
        return call.shown.to(precise) / amounts.view(shape), others(call, self.time)


__all__ = ["Step", "StepReader", "at_the_door", "copied", "middle", "seeded", "traceless"]
