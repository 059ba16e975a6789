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
    numpy = sys.modules.get("numpy")
    python, arrays = random.getstate(), None if numpy is None else numpy.random.get_state()
    cuda = torch.cuda.is_initialized()
    mps = torch.backends.mps.is_available()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else []):
        apple = torch.mps.get_rng_state() if mps else None
        try:
            if seed is not None:
                torch.manual_seed(seed % 2**63)
                random.seed(seed)
                if numpy is not None:
                    numpy.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python)
            if numpy is not None:
                numpy.random.set_state(arrays)
            if apple is not None:
                torch.mps.set_rng_state(apple)


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


__all__ = ["random_states_kept", "set_seed", "undo_of"]
