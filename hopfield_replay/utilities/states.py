"""States that come from files: refused, before anything is taken over, unless every part is what it must be."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.utilities.checks import check_beta, check_finite
from hopfield_replay.utilities.nested import rows

# what is raised by taking a damaged state apart
DAMAGE = (LookupError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError)


def check_format(state: Any, expected: str, owner: str) -> None:
    """Refuse what is not a state of this format.

    Raises:
        ValueError: it says what was given, but for things that may be endless.
    """
    given = state.get("format") if isinstance(state, Mapping) else type(state).__name__
    if not isinstance(given, str) or given != expected:
        shown = repr(given[:60]) if isinstance(given, str) else "None" if given is None else type(given).__name__
        raise ValueError(f"Not a state of {owner} of this version: format {shown}.")


def check_plain(state: Any) -> None:
    """Refuse a state that is not plain Python and tensors which hold all the memory that they claim.

    An expanded tensor of a file of a few bytes can claim any size, and would be copied in full.

    Raises:
        ValueError: tensors that are sparse, quantised or without data, or that claim more bytes than there are.
        TypeError: another type.

    Example:
        >>> check_plain({"ids": torch.arange(3), "beta": 1.0})
        >>> check_plain({"ids": torch.zeros(1).expand(10**9)})
        Traceback (most recent call last):
        ValueError: a tensor of 4000000000 bytes is made of 4
    """
    for tensor in _tensors(state):
        held = tensor.untyped_storage().nbytes()
        if tensor.nbytes > held:
            raise ValueError(f"a tensor of {tensor.nbytes} bytes is made of {held}")


def check_unshared(state: Any) -> None:
    """Refuse a plain state whose tensors together claim more memory than they hold: copies would need it all.

    Raises:
        ValueError: many tensors share one memory.
    """
    found = [tensor for tensor in _tensors(state) if tensor.nbytes]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}
    claimed = sum(tensor.nbytes for tensor in found)
    if claimed > sum(held.values()):
        raise ValueError(f"tensors of {claimed} bytes are made of {sum(held.values())}")


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        if tree.layout is not torch.strided or tree.is_quantized or tree.is_nested or tree.device.type == "meta":
            raise ValueError(f"a tensor is not dense ({tree.layout}, {tree.dtype}, {tree.device})")
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from _tensors(item)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _tensors(item)
    elif tree is not None and not isinstance(tree, bool | int | float | str):
        raise TypeError(f"{type(tree).__name__} has no place in a state")


def check_whole(value: Any, name: str, least: int = 0) -> int:
    """Return a whole number that is at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} is {value}")
    return value


def check_number(value: Any, name: str) -> float:
    """Return a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {type(value).__name__}")
    return float(value)


def check_mapping(value: Any, name: str) -> Mapping[str, Any]:
    """Return a mapping (a tensor can be asked for a name, too, and warns)."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is {type(value).__name__}")
    return value


_PROBE = {"ids": torch.int64, "stored": torch.bool, "density": torch.float64}
_RECORD = ("beta", "n_eff", "replay_ratio", "seconds")


def check_ledger(state: Mapping[str, Any]) -> None:
    """Refuse the state of a ForgettingTracker (but for its buffer's) that is not one.

    Raises:
        KeyError, TypeError, ValueError: parts that are missing, of another type or shape, or out of order.
    """
    _ = state["buffer"]  # None, or what the buffer itself checks
    for part in ("history", "probes"):
        check_plain(state[part])
        if not isinstance(state[part], list):
            raise TypeError(f"{part} is {type(state[part]).__name__}")
    first = check_mapping(state["history"][0], "a record")["task"] if state["history"] else 0
    for task, record in enumerate(state["history"], check_whole(first, "task")):
        check_mapping(record, "a record")
        if check_whole(record["task"], "task") != task:
            raise ValueError(f"record {task} is of another task")
        for name in _RECORD:
            check_number(record[name], name)
        check_whole(record["replayed"], "replayed")
        for timestep in record["timesteps"] or ():
            check_number(timestep, "timesteps")
        for entry in record["probes"]:
            _check_probe(entry, "before")
    learned = len(state["history"]) + first
    for probe in state["probes"]:
        count = _check_probe(probe, "start")
        if probe["vectors"].ndim != 2 or len(probe["vectors"]) != count or not probe["vectors"].is_floating_point():
            raise ValueError(f"vectors has shape {tuple(probe['vectors'].shape)} for {count} probes")
        check_finite(probe["vectors"], "vectors")
        if probe["batch"] is not None and rows(probe["batch"]) != count:
            raise ValueError(f"{rows(probe['batch'])} samples for {count} probes")
    tasks = [probe["task"] for probe in state["probes"]]
    if tasks != list(range(learned - len(tasks), learned)) or (learned and not tasks):
        raise ValueError(f"probes are of the tasks {tasks}, of {learned}")
    if state["open_task"] is not None and check_whole(state["open_task"], "open_task") != learned:
        raise ValueError(f"task {state['open_task']} is open after {learned}")
    if state["beta"] is not None:
        check_beta(state["beta"])


def _check_probe(probe: Mapping[str, Any], other: str) -> int:
    """The number of samples of one probe set; ``other``: another time at which it has energies and errors."""
    check_whole(check_mapping(probe, "a probe set")["task"], "task")
    count = len(probe["ids"])
    vectors = {name: probe[name] for name in (*_PROBE, "energy", f"energy_{other}", "energy_start")}
    for name, tensor in vectors.items():
        if tensor.shape != (count,) or tensor.dtype != _PROBE.get(name, torch.float64):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype} for {count} probes")
    for name in ("error", f"error_{other}", "error_start", "model_energy", "model_energy_start"):
        tensor = probe[name]
        if tensor is None:
            continue
        if tensor.ndim != 1 + name.startswith("error") or len(tensor) != count or tensor.dtype != torch.float64:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype} for {count} probes")
    return count
