"""What a model may take when somebody else's file says how large it is."""

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_FREE = 1 << 28  # bytes that any model may take, however small its file is
_TIMES = 8  # and as often the bytes of its weights: copies, averages, what their initialisation needs on the way


class Allowance(TorchDispatchMode):
    """Inside the block the tensors that are made may take 256 MiB, or eight times the weights, whichever is more.

    A file of a few bytes can ask for a model of any width. Tensors are counted before they are made; on the meta device
    they take nothing.

    Args:
        weights: bytes of the weights that the model is for.
        who: wants the tensors, for the message.
        cure: what the user can do, for the message; "": nothing.

    Raises:
        ValueError: more is wanted.

    Example:
        >>> with Allowance(1000, "a.ckpt"):
        ...     torch.nn.Linear(1 << 20, 1 << 20)
        Traceback (most recent call last):
        ValueError: a.ckpt asks for 4398046511104 bytes, more than 268435456, for weights of 1000
    """

    def __init__(self, weights: int, who: str, cure: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._allowed = max(_FREE, _TIMES * weights)
        self._said = (weights, who, cure and f": {cure}")
        self._taken = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what is made."""
        given = kwargs or {}
        self._taken += _asked(func, args, given)
        if self._taken > self._allowed:
            weights, who, cure = self._said
            raise ValueError(
                f"{who} asks for {self._taken} bytes, more than {self._allowed}, for weights of {weights}{cure}"
            )
        return func(*args, **given)


def _asked(func: Any, args: Any, given: Any) -> int:
    """Bytes of the tensor that a call makes; 0 for calls that are given no size."""
    device = given.get("device")
    if device is not None and torch.device(device).type == "meta":
        return 0
    named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | given
    tensor = named.get("self")
    if isinstance(tensor, torch.Tensor) and tensor.is_meta and device is None:
        return 0
    name = func._schema.name.removeprefix("aten::")
    if name in ("view", "_unsafe_view", "expand", "as_strided", "reshape", "resize_"):  # what a size means there
        return 0
    if isinstance(size := named.get("size"), list | tuple):
        count = math.prod(size)
    elif name == "repeat" and isinstance(tensor, torch.Tensor):
        count = tensor.numel() * math.prod(named["repeats"])
    elif name == "eye":
        count = int(named["n"]) * int(named.get("m", named["n"]))
    elif name in ("arange", "linspace", "logspace"):
        numbers = [abs(value) for value in named.values() if isinstance(value, int | float)]
        count = int(min(max(numbers, default=0), 2**62))
    else:
        return 0
    default = torch.int64 if name in ("arange", "randint") else torch.get_default_dtype()
    dtype = named.get("dtype") or (tensor.dtype if isinstance(tensor, torch.Tensor) else default)
    return count * int(dtype.itemsize)


__all__ = ["Allowance"]
