"""hopfield-replay reproduce."""

import inspect
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser

from hopfield_replay.cli.codes import FINE
from hopfield_replay.cli.output import say

HELP = "reproduce the theory's claims on networks whose energies are exact"
DESCRIPTION = "Reproduce the theory's claims on networks whose energies are exact."
_EXPERIMENTS = ("rise", "replay_gain", "falsify", "boltzmann", "selection", "all")


def _function(name: str) -> Callable[..., Any]:
    from hopfield_replay import theory

    function: Callable[..., Any] = getattr(theory, f"reproduce_{name.replace('-', '_')}")
    return function


def experiments() -> dict[str, tuple[str, Callable[[ArgumentParser], None]]]:
    """For each experiment what it is, and how to add its options: they are the arguments of its function."""

    def options_of(function: Callable[..., Any]) -> Callable[[ArgumentParser], None]:
        return lambda parser: parser.add_function_arguments(function, as_group=False, as_positional=True)

    return {
        name.replace("_", "-"): ((inspect.getdoc(_function(name)) or "").splitlines()[0], options_of(_function(name)))
        for name in _EXPERIMENTS
    }


def run(name: str, options: Any) -> int:
    """Run one experiment, or all of them, and say what was found."""
    own = {key: value for key, value in options.items() if key not in ("config", "quiet", "debug")}
    result = _function(name)(**own)
    if hasattr(result, "page"):
        say(f"Wrote {result.page}", options.quiet)
    else:
        say("\n".join([result.table(), *result.findings()]), options.quiet)
    return FINE
