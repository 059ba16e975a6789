"""Doors: what the networks of a module are shown in a step, what they answer, and what the loss asks of the answer."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from hopfield_replay.utilities.holdings import holdings

_UNSEEN = ContextVar("unseen", default=False)


@contextmanager
def unseen() -> Iterator[None]:
    """Inside, calls and draws are not those of the step: no :class:`Doors` or ``Draws`` notes them."""
    token = _UNSEEN.set(True)
    try:
        yield
    finally:
        _UNSEEN.reset(token)


def is_unseen() -> bool:
    """Whether what is called now is not the step's."""
    return _UNSEEN.get()


@dataclass(eq=False)
class Call:
    """One call of a network with noisy samples and a time.

    Attributes:
        path: where the network is in the module.
        network: what was called.
        args: positional arguments, as they were given.
        kwargs: arguments by name.
        noisy: which argument (a position or a name) is the noisy samples.
        shown: the noisy samples (n, *shape), as they were before the call.
        times: the arguments that could be the time, each (n,) float64, by position or name.
        answer: what the network returned, of the noisy samples' shape (the first half of twice the channels); None
            while it runs.
        gradient: of the loss with respect to the answer; None where there is none.
        doubled: the network returns twice the channels.
        inside: the call of another network in which this one was made.
    """

    path: str
    network: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    noisy: int | str
    shown: Tensor
    times: dict[int | str, Tensor]
    answer: Tensor | None = None
    gradient: Tensor | None = None
    doubled: bool = False
    inside: "Call | None" = None

    def name(self, argument: int | str) -> str:
        """The name of the network's parameter that an argument is given to."""
        if isinstance(argument, str):
            return argument
        original = getattr(self.network, "_orig_mod", self.network)  # torch.compile hides the signature
        names = list(inspect.signature(original.forward).parameters)
        return names[argument] if argument < len(names) else str(argument)

    @property
    def named(self) -> dict[str, Any]:
        """All arguments by the names of the network's parameters."""
        return {**{self.name(position): value for position, value in enumerate(self.args)}, **self.kwargs}


class Passed(BaseException):
    """Ends a step at the door of a network, whatever handlers of exceptions the step has."""


@dataclass
class Doors:
    """Notes calls of networks inside a module while it is entered. Nothing of them or of the random state changes.

    A network is a module that is called with floating samples (n, *shape) and a number for each of them (or one for
    all), and answers in the samples' shape or with twice their channels.

    Args:
        module: its submodules are watched, and modules in plain objects that it holds.
        stop: end the step (by raising :class:`Passed`) at the first call that this accepts.

    Attributes:
        calls: in the order in which they began.

    Example:
        >>> class Denoise(nn.Module):
        ...     def forward(self, x, t): return x / (1 + t[:, None])
        >>> net = Denoise()
        >>> with Doors(nn.ModuleDict({"net": net})) as doors:
        ...     _ = net(torch.ones(2, 3), torch.tensor([0, 1]))
        >>> [(call.path, call.times[1].tolist()) for call in doors.calls]
        [('net', [0.0, 1.0])]
    """

    module: nn.Module
    stop: Callable[[Call], bool] | None = None
    calls: list[Call] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._handles: list[Any] = []
        self._open: list[tuple[nn.Module, Call | None]] = []
        self._tensors: list[Any] = []
        self._eager: Any = None
        for path, network in networks_in(self.module):
            if isinstance(network, torch.jit.ScriptModule):
                continue  # takes no such hooks
            self._handles.append(
                network.register_forward_pre_hook(
                    lambda net, args, kwargs, path=path: self._before(path, net, args, kwargs), with_kwargs=True
                )
            )
            self._handles.append(network.register_forward_hook(self._after, with_kwargs=True))
        # inside of what is compiled nothing can be noted; last, for it holds for the whole process
        self._eager = torch.compiler.set_stance("force_eager")
        self._eager.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks on the modules away; gradients are still noted."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._eager is not None:
            eager, self._eager = self._eager, None
            eager.__exit__(None, None, None)

    def forget(self) -> None:
        """Take the hooks on the answers away, too."""
        self.close()
        for handle in self._tensors:
            handle.remove()
        self._tensors.clear()

    def _before(self, path: str, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = None
        # in a graph task: checkpointed, and called once more by the backward pass
        if torch._C._current_graph_task_id() == -1 and not is_unseen():
            try:
                call = as_call(path, network, args, kwargs)
            except Exception:  # of tensors of somebody's own kind: whoever watches must not fall
                call = None
        self._open.append((network, call))
        if call is not None:
            call.inside = next((outer for _, outer in reversed(self._open[:-1]) if outer is not None), None)
            self.calls.append(call)
            if self.stop is not None and self.stop(call):
                raise Passed

    def _after(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        while self._open:  # calls that ended by an exception were never closed
            opened, call = self._open.pop()
            if opened is network:
                break
        else:
            return
        if call is None:
            return
        try:
            answered = answer_in(output, call.shown.shape)
        except Exception:  # as above
            answered = None
        if answered is None:
            self.calls.remove(call)
            return
        answer, call.doubled = answered
        width = call.shown.shape[1]
        call.answer = answer.detach()[:, :width]
        if answer.requires_grad:

            def note(gradient: Tensor) -> None:
                call.gradient = gradient.detach()[:, :width].clone()

            self._tensors.append(answer.register_hook(note))


def as_call(path: str, network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call | None:
    """A call with samples and a time, or None if it is another kind of call."""
    given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    tensors = [(name, value) for name, value in given if isinstance(value, Tensor)]
    samples = [(name, x) for name, x in tensors if x.is_floating_point() and x.ndim > 1 and x.numel() > len(x) > 0]
    if not samples:
        return None
    noisy, shown = samples[0]
    n = len(shown)
    times = {
        name: value.detach().cpu().to(torch.float64).flatten().expand(n)
        for name, value in tensors
        if name != noisy and value.numel() in (1, n) and not value.is_complex()
    }
    times |= {
        name: torch.full((n,), float(value), dtype=torch.float64)
        for name, value in given
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    if not times:
        return None
    return Call(path, network, tuple(args), dict(kwargs), noisy, shown.detach().clone(), times)


def answer_in(output: Any, shape: torch.Size) -> tuple[Tensor, bool] | None:
    """The tensor of this shape, or of twice the channels (then True), in what a network returned."""
    doubled = torch.Size((shape[0], 2 * shape[1], *shape[2:]))
    tensors = [value for value in tensors_in(output) if value.is_floating_point()]
    for wanted, twice in ((shape, False), (doubled, True)):
        for value in tensors:
            if value.shape == wanted:
                return value, twice
    return None


def tensors_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """The tensors in what a network returned, in order."""
    if isinstance(value, Tensor):
        yield value
    elif depth < 2:
        if isinstance(value, Mapping):
            items: list[Any] = list(value.values())
        elif isinstance(value, list | tuple):
            items = list(value)
        else:
            items = list(vars(value).values()) if hasattr(value, "__dict__") else []
        for item in items:
            yield from tensors_in(item, depth + 1)


def networks_in(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that a module holds, itself first; compiled ones are not opened (hooks would compile them anew)."""
    for path, value in holdings(module, enter=lambda part: not hasattr(part, "_orig_mod")):
        if isinstance(value, nn.Module):
            yield path, value


__all__ = ["Call", "Doors", "Passed", "answer_in", "as_call", "is_unseen", "networks_in", "tensors_in", "unseen"]
