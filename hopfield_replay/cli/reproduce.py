"""hopfield-replay reproduce."""

import ast
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from hopfield_replay.cli.codes import FINE
from hopfield_replay.cli.output import say

HELP = "reproduce the theory's claims on networks whose energies are exact"
DESCRIPTION = "Reproduce the theory's claims on networks whose energies are exact."
_EXPERIMENTS = {  # and where their functions are
    "rise": "rise",
    "replay-gain": "replay_gain",
    "falsify": "falsify",
    "boltzmann": "boltzmann_replay",
    "selection": "selection",
    "all": "report",
}


def experiments() -> dict[str, tuple[str, Callable[[ArgumentParser], None]]]:
    """For each experiment what it is, and how to add its options: they are the arguments of its function."""

    def options_of(function: Callable[..., Any]) -> Callable[[ArgumentParser], None]:
        return lambda parser: parser.add_function_arguments(function, as_group=False, as_positional=True)

    functions = {name: _outline(name) for name in _EXPERIMENTS}
    return {name: ((found.__doc__ or "").splitlines()[0], options_of(found)) for name, found in functions.items()}


def _outline(name: str) -> Callable[..., Any]:
    """An experiment's function without its body: read from its source, for its import takes seconds.

    Example:
        >>> import inspect
        >>> inspect.signature(_outline("all")).parameters["draws"].default
        2000
    """
    spec = find_spec(f"hopfield_replay.theory.{_EXPERIMENTS[name]}")
    if spec is None or spec.origin is None:
        raise ImportError(f"The experiment {name} is not installed.")
    wanted = _function_name(name)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == wanted)
    function.body, function.returns = function.body[:1], None  # the docstring
    names: dict[str, Any] = {"__name__": __name__, "Similarity": Literal["distance", "dot"]}
    exec(compile(ast.Module([function], []), spec.origin, "exec"), names)
    outline: Callable[..., Any] = names[wanted]
    return outline


def _function_name(name: str) -> str:
    return f"reproduce_{name.replace('-', '_')}"


def run(name: str, options: Any) -> int:
    """Run one experiment, or all of them, and say what was found."""
    from hopfield_replay import theory

    own = {key: value for key, value in options.items() if key not in ("config", "quiet", "debug")}
    result = getattr(theory, _function_name(name))(**own)
    if hasattr(result, "page"):
        say(f"Wrote {result.page}", options.quiet)
    else:
        say("\n".join([result.table(), *result.findings()]), options.quiet)
    return FINE
