"""Which weights of a checkpoint are meant, and the names that a module has for them."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

_COMPILED = "_orig_mod."  # torch.compile puts it into names
_DEPTH = 3  # mappings in mappings


def choose(content: Mapping[Any, Any], wanted: str | None, source: Any) -> tuple[str, Any]:
    """The weights of a checkpoint and where they are: ``state_dict``, or all of it, or the only ones there are.

    Args:
        content: what the file holds.
        wanted: path of the weights in it, with dots: keys of dicts, then what the names of weights begin with.
        source: the file, for messages.

    Raises:
        ValueError: there are none, several, or none of that path.

    Example:
        >>> import torch
        >>> loop = {"step": 9, "model": {"w": torch.ones(1)}, "ema": {"shadow.w": torch.zeros(1)}}
        >>> choose(loop, "ema.shadow", "a.pt")
        ('ema.shadow', {'w': tensor([0.])})
        >>> choose(loop, None, "a.pt")
        Traceback (most recent call last):
        ValueError: a.pt holds weights as 'model' and 'ema': say which are meant with weights (--weights ema).
    """
    if wanted is not None:
        return wanted, _at(content, wanted, source)
    if "state_dict" in content:
        return "state_dict", content["state_dict"]
    if _is_state(content):
        return "", content
    found = dict(_states(content))
    if not found:
        raise ValueError(
            f"{source} has no key 'state_dict' and is no state_dict itself; it holds {[str(key) for key in content]}."
        )
    if len(found) > 1:
        names = " and ".join(map(repr, found))
        raise ValueError(
            f"{source} holds weights as {names}: say which are meant with weights (--weights {list(found)[-1]})."
        )
    return next(iter(found.items()))


def _is_state(item: Any) -> bool:
    named = isinstance(item, Mapping) and all(isinstance(key, str) for key in item)
    return named and bool(item) and all(isinstance(value, Tensor) for value in item.values())


def _states(tree: Mapping[Any, Any], path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    for key, item in tree.items():
        of_optimizer = isinstance(key, str) and (key == "opt" or key.startswith(("opt_", "optim")))
        if not isinstance(key, str) or not isinstance(item, Mapping) or of_optimizer:
            continue
        if _is_state(item):
            yield path + key, item
        elif depth:
            yield from _states(item, f"{path}{key}.", depth - 1)


def _at(content: Mapping[Any, Any], wanted: str, source: Any) -> Any:
    tree, rest = content, wanted
    while rest:
        keys = [key for key in tree if isinstance(key, str) and f"{rest}.".startswith(f"{key}.")]
        inner = next((key for key in sorted(keys, key=len, reverse=True) if isinstance(tree[key], Mapping)), None)
        if inner is None:
            break
        tree, rest = tree[inner], rest[len(inner) + 1 :]
    if rest:
        tree = {key[len(rest) + 1 :]: value for key, value in tree.items() if str(key).startswith(f"{rest}.")}
    if not any(isinstance(value, Tensor) for value in tree.values()):
        there = [name for name, _ in _states(content)] or [str(key) for key in content]
        raise ValueError(f"{source} holds no weights as {wanted!r}; there are {there}.")
    return tree


def renamed(state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Weights under the names of a module, and what all their names began with.

    A wrapper puts ``module.`` or the name of an attribute before all names, ``torch.compile`` a part into them. What
    fits otherwise, or not at all, is returned as it is.

    Example:
        >>> renamed({"module.net._orig_mod.weight": 1}, {"net.weight": 0})
        ('module', {'net.weight': 1})
    """
    if own.keys() <= state.keys() or not all(isinstance(key, str) for key in state):
        return "", state
    names = {key.replace(_COMPILED, ""): key for key in own}
    given = {key.replace(_COMPILED, ""): value for key, value in state.items()}
    if len(names) < len(own) or len(given) < len(state):
        return "", state
    if names.keys() <= given.keys():
        return "", {names.get(key, key): value for key, value in given.items()}
    for prefix in fitting(state, own):
        if all(key.startswith(f"{prefix}.") for key in given):
            return prefix, {names.get(key, key): value for key, value in _without(prefix, given).items()}
    return "", state


def fitting(state: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """What the names of weights begin with, before a module's whole set of names.

    Example:
        >>> fitting({"model.weight": 1, "ema.weight": 2, "step": 3}, {"weight": 0})
        ['model', 'ema']
    """
    names = [key.replace(_COMPILED, "") for key in own]
    given = dict.fromkeys(key.replace(_COMPILED, "") for key in state if isinstance(key, str))
    if not names:
        return []
    ends = dict.fromkeys(key[: -len(names[0]) - 1] for key in given if key.endswith(f".{names[0]}"))
    return [end for end in ends if all(f"{end}.{name}" in given for name in names)]


def _without(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key[len(prefix) + 1 :]: value for key, value in given.items()}


__all__ = ["choose", "fitting", "renamed"]
