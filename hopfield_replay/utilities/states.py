"""States that come from files: refused, before anything is taken over, unless every part is what it must be."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# what is raised by taking a damaged state apart
DAMAGE = (LookupError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError)


Migration = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def migrated(state: Any, current: str, migrations: Mapping[str, Migration], owner: str) -> Mapping[str, Any]:
    """A state of any format that was ever written, as one of the current format.

    The rule for formats: whoever changes what a state holds gives it a new name, and adds the function that makes the
    new state of the old one. A state passes through as many of them as lie between. A small file of each old format is
    stored with the tests, which load it.

    Args:
        state: what was loaded.
        current: the name of the format that is written now.
        migrations: for each earlier format what makes the next one of it; the result names its format.
        owner: of the state, for the message.

    Raises:
        ValueError: not a state of any of these formats; it says what was given, but for things that may be endless.

    Example:
        >>> steps = {"book 1": lambda state: {**state, "format": "book 2", "pages": 0}}
        >>> migrated({"format": "book 1"}, "book 2", steps, "a book")
        {'format': 'book 2', 'pages': 0}
    """
    given = state.get("format") if isinstance(state, Mapping) else type(state).__name__
    while isinstance(given, str) and given in migrations:
        try:
            state = migrations[given](state)
        except DAMAGE as error:
            raise ValueError(f"The state of {owner} is damaged: {error!r}.") from error
        given = state["format"]
    if not isinstance(given, str) or given != current:
        shown = repr(given[:60]) if isinstance(given, str) else "None" if given is None else type(given).__name__
        raise ValueError(f"Not a state of {owner} of this version: format {shown}.")
    checked: Mapping[str, Any] = state
    return checked


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
    tensors = [tensor for tensor in _tensors(state) if tensor.nbytes]
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    claimed = sum(tensor.nbytes for tensor in tensors)
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
