"""Hopfield energies for continual learning of diffusion models: what is forgotten, and what to replay.

Public names load on first use: ``import hopfield_replay`` alone imports neither torch-based frameworks nor plotting.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from hopfield_replay import functional as functional

_HOMES: dict[str, str] = {}


def __getattr__(name: str) -> Any:
    if name == "functional":
        return import_module("hopfield_replay.functional")
    if name in _HOMES:
        return getattr(import_module(f"hopfield_replay.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "functional"])
