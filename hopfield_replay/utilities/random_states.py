"""Random states: of torch on every device that is in use, of Python and of NumPy."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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


__all__ = ["random_states_kept"]
