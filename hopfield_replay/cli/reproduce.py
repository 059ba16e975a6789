"""hopfield-replay reproduce."""

from collections.abc import Callable
from typing import Any, Literal

from jsonargparse import ArgumentParser

from hopfield_replay.cli.codes import FINE
from hopfield_replay.cli.output import say
from hopfield_replay.cli.signatures import as_written

HELP = "reproduce the theory's claims on networks whose energies are exact"
DESCRIPTION = "Reproduce the theory's claims on networks whose energies are exact."
EXPERIMENTS = {  # the first line of its function's docstring
    "rise": "Energy rise of an outlier against a cluster when the task rotates, is replaced in part, or shifts.",
    "replay-gain": (
        "Gain of replaying an outlier or a cluster member, at itself and at the others, when the task rotates."
    ),
    "recovery": (
        "Share of the old patterns that still retrieve themselves when one sample is replayed after the task rotates."
    ),
    "falsify": (
        "Sweep cluster sizes, correlations and temperatures for settings in which high energy does not rise more."
    ),
    "boltzmann": (
        "Train exact-likelihood Boltzmann machines task after task, and replay the highest, lowest or a random sample."
    ),
    "selection": (
        "Compare every replay policy on the cluster and outlier, on mixed density, and on digits 0-4 before 5-9."
    ),
    "all": "Run every experiment at its default setting and write the report.",
}


_MODULES = {
    "replay-gain": "replay_gain",
    "boltzmann": "boltzmann_replay",
    "all": "report",
}  # others: as they are called


def add_options(parser: ArgumentParser, name: str) -> None:
    """Add an experiment's options: the arguments of its function."""
    parser.add_function_arguments(written(name), as_group=False, as_positional=True)


def written(name: str) -> Callable[..., Any]:
    """An experiment's function as its source says it: its import takes seconds, which help need not wait for."""
    types = {"Similarity": Literal["distance", "dot"]}
    return as_written(f"hopfield_replay.theory.{_MODULES.get(name, name)}", _called(name), types)


def _called(name: str) -> str:
    return f"reproduce_{name.replace('-', '_')}"


def _function(name: str) -> Callable[..., Any]:
    from hopfield_replay import theory

    function: Callable[..., Any] = getattr(theory, _called(name))
    return function


def run(name: str, options: Any) -> int:
    """Run one experiment, or all of them, and say what was found."""
    own = {key: value for key, value in options.items() if key not in ("config", "quiet", "debug")}
    result = _function(name)(**own)
    if hasattr(result, "page"):
        say(f"Wrote {result.page}", options.quiet)
    else:
        say("\n".join([result.table(), *result.findings()]), options.quiet)
    return FINE
