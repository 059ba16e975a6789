"""A function as its source says it, for help and options: the modules of some take seconds to import."""

import ast
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def as_written(module: str, name: str, types: Mapping[str, Any]) -> Callable[..., Any]:
    """A function with the name, the arguments and the docstring of one in a module, which is not imported.

    Args:
        module: where it is written, with its whole name.
        name: of the function.
        types: names in its annotations that Python itself does not know.

    Returns:
        A function that does nothing; what the written one returns is left open.

    Raises:
        ImportError: there is no such module, or nothing of this name is written in it.

    Example:
        >>> import inspect
        >>> inspect.signature(as_written("hopfield_replay.theory.report", "reproduce_all", {}))
        <Signature (output_dir: str, draws: int = 2000, seeds: int = 24, seed: int = 0)>
    """
    origin = getattr(find_spec(module), "origin", None)
    for part in [] if origin is None else ast.parse(Path(origin).read_text("utf-8")).body:
        if isinstance(part, ast.FunctionDef) and part.name == name:
            part.body, part.decorator_list, part.returns = part.body[:1], [], None  # the docstring is left
            names = {"__name__": __name__, **types}  # jsonargparse imports the module that a function names as its own
            exec(compile(ast.Module([part], []), str(origin), "exec"), names)
            made: Callable[..., Any] = names[name]
            return made
    raise ImportError(f"no function {name} is written in {module}")


__all__ = ["as_written"]
