"""Arrays of numbers from files of unknown origin: headers first, no pickle, and no more memory than was allowed."""

import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_FREE = 1 << 28  # bytes that a compressed file may expand to, however small it is
_RATIO = 100  # and a larger one in proportion; deflate alone could reach 1032, a bomb of bombs more


class Header(NamedTuple):
    """What a file says of one of its arrays."""

    shape: tuple[int, ...]
    dtype: str
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes of the array as it is in the file."""
        return math.prod(self.shape) * self.itemsize


Choose = Callable[[Mapping[str, Header]], Iterable[str]]


def read_npz(path: Path, choose: Choose = list) -> dict[str, Any]:
    """Some of the real numeric numpy arrays in a .npz file, by name; other arrays of plain types are left out.

    A compressed file may expand to 256 MiB or to 100 times its size, whichever is more. An array whose header declares
    more than its entry holds is refused before memory is taken for it.

    Args:
        path: written by numpy.savez or numpy.savez_compressed.
        choose: which arrays to read, given the headers of all.

    Raises:
        OSError: no such file, or it cannot be read.
        ValueError: not such a file, damaged, arrays of objects (pickles), or one that expands too far.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            _check_size(entries, path.stat().st_size)
            headers = {entry.filename[:-4]: (entry, _header(archive, entry)) for entry in entries}
            known = {name: header for name, (_, header) in headers.items() if header is not None}
            return {name: _array(archive, headers[name][0]) for name in choose(known)}
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # the parsers of zip files and of numpy's headers raise a dozen kinds
        raise ValueError(f"damaged: {error!r}") from error


def _check_size(entries: list[zipfile.ZipInfo], size: int) -> None:
    total = sum(entry.file_size for entry in entries)
    if total > max(_FREE, _RATIO * size):
        raise ValueError(f"{size} bytes that would expand to {total}; if that is meant, write it with numpy.savez")


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Header | None:
    """What one entry holds; None if it does not hold real numbers."""
    from numpy.lib import format as npy

    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is packed in a way that numpy does not write")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read_header is None:
            raise ValueError(f"{entry.filename} is of version {version}")
        shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds objects, that is pickles, which are never opened")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        return None
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(f"{entry.filename} declares {shape} of {dtype}, more than its {entry.file_size} bytes hold")
    return Header(tuple(shape), dtype.newbyteorder("=").name, dtype.itemsize)


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    from numpy.lib import format as npy

    with archive.open(entry) as file:
        array = npy.read_array(file, allow_pickle=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_safetensors(path: Path, choose: Choose = list) -> dict[str, Tensor]:
    """Some of the tensors in a .safetensors file, by name.

    Args:
        path: written by safetensors.
        choose: which tensors to read, given the headers of all.

    Raises:
        ValueError: not such a file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            headers = {}
            for name in file.keys():  # noqa: SIM118, not a mapping
                view = file.get_slice(name)
                dtype = _DTYPES.get(view.get_dtype())
                if dtype is not None:
                    shape = tuple(view.get_shape())
                    headers[name] = Header(shape, str(dtype).removeprefix("torch."), dtype.itemsize)
            # copies: what safetensors returns is the file itself, mapped, and who cuts it later kills the process
            return {name: file.get_tensor(name).clone() for name in choose(headers)}
    except (OSError, SafetensorError) as error:
        raise ValueError(str(error)) from error


_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
