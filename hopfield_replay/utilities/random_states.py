"""Random states: of torch on every device that is in use, of Python and of NumPy, and of generators of one's own."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def random_states_kept(seed: int | None = None) -> Iterator[None]:
    """Give every global random state back as it was.

    Args:
        seed: what all of them are set to meanwhile; None: they go on from where they are.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with random_states_kept(5):
        ...     first = torch.rand(1)
        >>> with random_states_kept(5):
        ...     again = torch.rand(1)
        >>> bool(first == again), torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0))
        (True, tensor([True]))
    """
    before = _states()
    try:
        if seed is not None:
            _seed(seed)
        yield
    finally:
        _restore(before)


class OwnRandomness:
    """A context whose global random numbers are its own, so that reading data leaves those of the training alone.

    It goes on where it was left when it is entered again; outside nothing has been drawn.

    Args:
        seed: of its numbers.

    Example:
        >>> torch.manual_seed(5).initial_seed()
        5
        >>> own = OwnRandomness(0)
        >>> with own:
        ...     first = torch.rand(1)
        >>> with own:
        ...     second = torch.rand(1)
        >>> torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(5)))
        True
        >>> torch.equal(torch.cat([first, second]), torch.rand(2, generator=torch.Generator().manual_seed(0)))
        True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._own: dict[str, Any] | None = None
        self._outer: dict[str, Any] = {}

    def __enter__(self) -> "OwnRandomness":
        self._outer = _states()
        if self._own is None:
            _seed(self.seed)
        else:
            _restore(self._own)
        return self

    def __exit__(self, *_: object) -> None:
        self._own = _states()
        _restore(self._outer)


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed % 2**63)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed % 2**63)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed % 2**63)


def _states() -> dict[str, Any]:
    """The states of all that is in use."""
    states = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if "numpy" in sys.modules:
        states["numpy"] = sys.modules["numpy"].random.get_state()
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def undo_of(generator: object) -> Callable[[], Any] | None:
    """What gives a generator of torch, Python or NumPy its present state back; None if it is none.

    Example:
        >>> own = random.Random(3)
        >>> undo = undo_of(own)
        >>> first = own.random()
        >>> undo()
        >>> first == own.random(), undo_of("no generator")
        (True, None)
    """
    if isinstance(generator, torch.Generator):
        state = generator.get_state()
        return lambda: generator.set_state(state)
    if isinstance(generator, random.Random) and not isinstance(generator, random.SystemRandom):
        held = generator.getstate()
        return lambda: generator.setstate(held)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(generator, numpy.random.RandomState):
        before = generator.get_state()
        return lambda: generator.set_state(before)
    if numpy is not None and isinstance(generator, numpy.random.Generator):
        bits, inside = generator.bit_generator, generator.bit_generator.state
        return lambda: setattr(bits, "state", inside)
    return None


def set_seed(generator: object, seed: int) -> None:
    """Seed a generator of torch, Python or NumPy; anything else is left alone."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed % 2**63)
    elif isinstance(generator, random.Random):
        generator.seed(seed)
    elif (numpy := sys.modules.get("numpy")) is not None:
        if isinstance(generator, numpy.random.RandomState):
            generator.seed(seed % 2**32)
        elif isinstance(generator, numpy.random.Generator):
            bits = generator.bit_generator
            bits.state = type(bits)(seed % 2**63).state


__all__ = ["OwnRandomness", "random_states_kept", "set_seed", "undo_of"]
