"""What a checkpoint file holds, read without running any code that it may carry."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.utilities.states import check_plain


def read_checkpoint(source: str | Path, *, unsafe_pickle: bool = False) -> dict[str, Any]:
    """Read a checkpoint of Lightning, a saved ``state_dict``, or a .safetensors file.

    Args:
        source: the file.
        unsafe_pickle: also read files whose pickle needs more than tensors and plain Python. Such a file can run any
            code on this machine while it is read: only for files from people you trust.

    Returns:
        The dict that it holds.

    Raises:
        ValueError: no such file; a file that cannot be read, needs more than tensors and plain Python, or is no dict.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(torch.nn.Linear(1, 1).state_dict(), folder + "/a.pt")
        ...     sorted(read_checkpoint(folder + "/a.pt"))
        ['bias', 'weight']
    """
    path = Path(source)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a checkpoint file, or leave the model out to compare pipelines.")
    if not path.is_file():
        raise ValueError(f"{path} does not exist.")
    content = _safetensors(path) if path.suffix == ".safetensors" else read_plain(path, unsafe_pickle)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds {type(content).__name__}, not a checkpoint with a state_dict.")
    return dict(content)


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as .safetensors ({error}).") from error


def is_dense(value: Any) -> bool:
    """Whether a value is a tensor that holds all the numbers it claims.

    Example:
        >>> is_dense(torch.ones(2)), is_dense(torch.ones(1).expand(10**9)), is_dense("ones")
        (True, False, False)
    """
    try:
        check_plain(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, Tensor)


def _check_size(path: Path) -> None:
    """Refuse an archive whose parts are larger than the file: torch never compresses them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
        if total > path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} bytes that would expand to {total}")


def read_plain(path: Path, unsafe_pickle: bool = False) -> Any:
    """What ``torch.save`` wrote, tensors on the CPU; see :func:`read_checkpoint`."""
    try:
        _check_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read is an error below
            return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle)
    except pickle.UnpicklingError as error:
        if unsafe_pickle:
            raise ValueError(f"{path} cannot be read as a checkpoint ({what_went_wrong(error)}).") from error
        needed = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{path} needs more than tensors and plain Python{f' ({needed[1]})' if needed else ''} and was not opened: "
            "such a file can run any code while it is read. If you trust where it comes from, insist with "
            "unsafe_pickle (--unsafe-pickle)."
        ) from error
    except Exception as error:  # a broken file fails in whatever part of the reader meets the damage first
        raise ValueError(f"{path} cannot be read as a checkpoint ({what_went_wrong(error)}).") from error


def what_went_wrong(error: BaseException) -> str:
    """Kind of an error, and the first sentence of what it says; of a heading and a list the first item, too."""
    lines = str(error).strip().split("\n")
    said = " ".join(part.strip() for part in lines[: 1 + lines[0].endswith(":")]).split(". ")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


__all__ = ["read_checkpoint", "read_plain", "what_went_wrong"]
