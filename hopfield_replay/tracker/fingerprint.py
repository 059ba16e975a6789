"""What identifies a task's data and a run's settings, so that a resumed run notices when they are others."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.utilities.states import check_mapping, check_whole


def fingerprint(source: TaskSource) -> dict[str, Any]:
    """What identifies a task's data: plain Python.

    Args:
        source: the data.

    Returns:
        ``dataset``: name of the class of the data set; ``samples``: how many the loader draws from, whatever the
        trainer's limits; ``contents``: a number for each of a few samples, by position. A stream has no more than a
        name, and data that is random no contents.

    Example:
        >>> import torch
        >>> print_of = fingerprint(TaskSource([torch.zeros(5, 2)]))
        >>> print_of["dataset"], print_of["samples"], len(print_of["contents"])
        ('list', 5, 5)
    """
    dataset = type(getattr(source.loader, "dataset", source.loader)).__name__
    positions, few = source.positions, source.few
    if positions is None or few is None:
        return {"dataset": dataset, "samples": None if positions is None else 0, "contents": []}
    return {
        "dataset": dataset,
        "samples": len(positions.every),
        "contents": [] if few.random else few.numbers.tolist(),
    }


def check_same_data(task: int, now: Mapping[str, Any], known: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse data of a task that is not what it was.

    Args:
        task: its number.
        now: fingerprint of its data.
        known: fingerprints of the tasks in the checkpoint, by their numbers.

    Raises:
        ValueError: it names both, and whose data this is if that is known.

    Example:
        >>> digits = {"dataset": "Digits", "samples": 60, "contents": [1, 2]}
        >>> check_same_data(0, digits, {0: digits})
        >>> check_same_data(0, {**digits, "samples": 50}, {0: digits})
        Traceback (most recent call last):
        ValueError: Task 0 was 60 samples of Digits (contents 1, 2) when the checkpoint was written, ...
    """
    before = known.get(task)
    if before is None or _same(before, now):
        return
    others = [other for other, print_of in known.items() if other != task and _same(print_of, now)]
    whose = f", the data of the checkpoint's task {others[0]}" if others and now["contents"] else ""
    raise ValueError(
        f"Task {task} was {describe(before)} when the checkpoint was written, and is {describe(now)} now{whose}. "
        "Resume with the same tasks in the same order, or pass allow_changes=True if that is meant."
    )


def describe(print_of: Mapping[str, Any]) -> str:
    """A fingerprint in words.

    Args:
        print_of: made by :func:`fingerprint`.

    Example:
        >>> describe({"dataset": "Stream", "samples": None, "contents": []})
        'a stream of Stream'
    """
    if print_of["samples"] is None:
        return f"a stream of {print_of['dataset']}"
    contents = ", ".join(f"{number:x}"[:6] for number in print_of["contents"][:3])
    return f"{print_of['samples']} samples of {print_of['dataset']}" + (f" (contents {contents})" if contents else "")


def check_same_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse settings that are not those of the checkpoint.

    Args:
        before: name and value of each setting, in the checkpoint.
        now: the same, in this run.

    Raises:
        ValueError: it names all that differ, with both values.

    Example:
        >>> check_same_settings({"seed": 0}, {"seed": 0, "draws": 1})
        >>> check_same_settings({"seed": 0}, {"seed": 7})
        Traceback (most recent call last):
        ValueError: The checkpoint was written with seed=0, this run has seed=7. ...
    """
    differ = [name for name, value in before.items() if name in now and value != now[name]]
    if not differ:
        return
    was, here = (", ".join(f"{name}={values[name]}" for name in differ) for values in (before, now))
    raise ValueError(
        f"The checkpoint was written with {was}, this run has {here}. Resume with the same settings, or pass "
        "allow_changes=True if that is meant."
    )


def named(value: Any, depth: int = 2) -> Any:
    """A setting as plain Python: functions by their names, objects by their class and their public attributes.

    Args:
        value: of any kind.
        depth: of objects in objects that are told apart.

    Example:
        >>> from hopfield_replay.policies import as_policy
        >>> named(as_policy("nearest_neighbour")), named(len)
        ('NearestNeighbour(neighbours=10)', 'len')
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [named(item, depth) for item in value]
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    if isinstance(value, partial):
        return named(value.func, depth)
    own = {} if isinstance(value, nn.Module | Tensor) or not depth else getattr(value, "__dict__", {})
    parts = [f"{name}={named(item, depth - 1)}" for name, item in sorted(own.items()) if not name.startswith("_")]
    return f"{type(value).__name__}({', '.join(parts)})"


def identity_from(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The settings and the fingerprints of the data in the state of a tracker; none of a state that is older than they.

    Args:
        state: of :meth:`ForgettingTracker.state_dict`.

    Returns:
        Each setting by its name, and each task's fingerprint by its number.

    Raises:
        TypeError, ValueError, KeyError: parts that are missing or of another kind.

    Example:
        >>> stream = {"dataset": "Stream", "samples": None, "contents": []}
        >>> identity_from({"settings": {"seed": 0}, "data": {"1": stream}})
        ({'seed': 0}, {1: {'dataset': 'Stream', 'samples': None, 'contents': []}})
    """
    settings = dict(check_mapping(state.get("settings", {}), "settings"))
    for name, value in settings.items():
        if not isinstance(name, str) or not isinstance(value, None | bool | int | float | str | list):
            raise TypeError(f"the setting {name!r} is {type(value).__name__}")
    prints: dict[int, dict[str, Any]] = {}
    for task, given in check_mapping(state.get("data", {}), "data").items():
        print_of = check_mapping(given, "a fingerprint")
        if not isinstance(print_of["dataset"], str) or not isinstance(print_of["contents"], list):
            raise TypeError("a fingerprint is no name with a list of numbers")
        contents = [check_whole(number, "contents", -(2**63)) for number in print_of["contents"]]
        samples = None if print_of["samples"] is None else check_whole(print_of["samples"], "samples")
        prints[check_whole(int(task), "task")] = {**print_of, "samples": samples, "contents": contents}
    return settings, prints


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return all(first[name] == second[name] for name in ("dataset", "samples", "contents"))


__all__ = ["check_same_data", "check_same_settings", "describe", "fingerprint", "identity_from", "named"]
