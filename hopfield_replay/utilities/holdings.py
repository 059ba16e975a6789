"""What an object holds: modules, tensors and plain objects, also those inside containers, closures and partials."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

_DEPTH = 5  # of containers and plain objects between a module (or the start) and what they hold
_CONTAINER = 256  # longer ones hold data
_OF_MODULES = frozenset(vars(nn.Module()))
_CLOSED = {
    "torch",
    "lightning",
    "pytorch_lightning",
    "lightning_fabric",
    "builtins",
    "numpy",
    "torchmetrics",
    "logging",
}


def holdings(root: object, *, enter: Callable[[nn.Module], bool] = lambda _: True) -> Iterator[tuple[str, Any]]:
    """Everything that an object holds, each thing once, with its path from the object; the object itself first.

    Modules, tensors, arrays and objects of classes that belong to neither torch nor Lightning are found in attributes,
    submodules, buffers, short containers, and in what functions refer to (closures, defaults, partials, globals).

    Args:
        root: any object.
        enter: whether to look into a module.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> [path for path, value in holdings(lambda x: {"y": net(x)}) if value is net]
        ['net']
    """
    seen: set[int] = set()

    def walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        if id(value) in seen or depth > _DEPTH:
            return
        seen.add(id(value))
        yield path, value
        if isinstance(value, nn.Module) and not enter(value):
            return
        deeper = 1 if isinstance(value, nn.Module) else depth + 1
        for name, item in _held(value):
            if not isinstance(item, str | bytes | int | float | complex | type | None):
                yield from walk(item, f"{path}.{name}" if path else name, deeper)

    yield from walk(root, "", 0)


def modules_of(*objects: object) -> list[nn.Module]:
    """The modules that objects are or hold, each once; those inside of another one are left to it.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> modules_of(functools.partial(lambda net, x: net(x), net)) == [net]
        True
    """
    modules: dict[int, nn.Module] = {}
    for item in objects:
        for _, value in holdings(item):
            if isinstance(value, nn.Module):
                modules[id(value)] = value
    inside = {id(part) for module in modules.values() for part in module.modules() if part is not module}
    return [module for key, module in modules.items() if key not in inside]


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        for table in (value._modules, value._buffers, value._parameters):
            yield from table.items()
        yield from ((name, item) for name, item in vars(value).items() if name not in _OF_MODULES)
    elif isinstance(value, Tensor):
        return
    elif isinstance(value, Mapping):
        if len(value) <= _CONTAINER:
            yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        if len(value) <= _CONTAINER:
            yield from ((str(index), item) for index, item in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), *((str(i), v) for i, v in enumerate(value.args)), *value.keywords.items())
    elif inspect.ismethod(value):
        yield from (("self", value.__self__), ("func", value.__func__))
    elif inspect.isfunction(value):
        yield from _referred(value)
    elif is_plain(value):
        yield from vars(value).items()


def is_plain(value: object) -> bool:
    """Whether a value is an object with attributes of a class that belongs to neither torch nor Lightning."""
    return hasattr(value, "__dict__") and type(value).__module__.split(".")[0] not in _CLOSED


def _referred(function: Any) -> Iterator[tuple[str, Any]]:
    """What a function refers to besides its arguments; of globals only modules and functions of the same file."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not yet bound
            continue
    yield from ((str(index), item) for index, item in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    for name in function.__code__.co_names:
        item = function.__globals__.get(name)
        own = inspect.isfunction(item) and item.__module__ == function.__module__
        if own or isinstance(item, nn.Module):
            yield name, item


__all__ = ["holdings", "is_plain", "modules_of"]
