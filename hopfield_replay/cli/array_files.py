"""Arrays of numbers from .npz files of unknown origin: no pickle, and no more memory than a file can hold."""

import math
import zipfile
from pathlib import Path
from typing import Any

_FREE = 1 << 28  # bytes that a file may expand to, however small it is
_RATIO = 100  # and a larger one in proportion; deflate alone could reach 1032, a bomb of bombs more


def read_npz(path: Path) -> dict[str, Any]:
    """The real numeric numpy arrays in a .npz file, by name; other arrays of plain types are left out.

    A file may expand to 256 MiB or to 100 times its size, whichever is more. An array whose header declares more than
    its entry holds is refused before memory is taken for it.

    Args:
        path: written by numpy.savez or numpy.savez_compressed.

    Raises:
        OSError: no such file, or it cannot be read.
        ValueError: not such a file, damaged, arrays of objects (pickles), or one that expands too far.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            _check_size(entries, path.stat().st_size)
            arrays = {entry.filename[:-4]: _array(archive, entry) for entry in entries}
    except (OSError, ValueError):
        raise
    except Exception as error:  # the parsers of zip files and of numpy's headers raise a dozen kinds
        raise ValueError(f"damaged: {error!r}") from error
    return {name: array for name, array in arrays.items() if array is not None}


def _check_size(entries: list[zipfile.ZipInfo], size: int) -> None:
    total = sum(entry.file_size for entry in entries)
    if total > max(_FREE, _RATIO * size):
        raise ValueError(f"{size} bytes that would expand to {total}; if that is meant, write it with numpy.savez")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    """The array of one entry; None if it does not hold real numbers."""
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
    with archive.open(entry) as file:
        array = npy.read_array(file, allow_pickle=False)
    return array.astype(dtype.newbyteorder("="), copy=False)
