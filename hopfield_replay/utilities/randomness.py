"""Random numbers of one's own, so that reading data for a measurement leaves those of the training alone."""

import random
import sys
from typing import Any

import torch


class OwnRandomness:
    """A context whose global random numbers (torch's on the CPU and the current GPU, Python's, NumPy's) are its own.

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
        if self._own is not None:
            _restore(self._own)
            return self
        random.seed(self.seed)
        if "numpy" in self._outer:
            sys.modules["numpy"].random.seed(self.seed % 2**32)
        torch.default_generator.manual_seed(self.seed)
        if "cuda" in self._outer:
            torch.cuda.manual_seed(self.seed)
        return self

    def __exit__(self, *_: object) -> None:
        self._own = _states()
        _restore(self._outer)


def _states() -> dict[str, Any]:
    states = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if "numpy" in sys.modules:
        states["numpy"] = sys.modules["numpy"].random.get_state()
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
