"""Where kept samples live: rows of a nesting of tensors that is allocated once, and files without pickle."""

import json
import math
import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from hopfield_replay.utilities.files import replacing
from hopfield_replay.utilities.locks import InUse, PathLock
from hopfield_replay.utilities.memory import memory_for
from hopfield_replay.utilities.nested import Leaf, as_mapping, is_record, leaves, map_leaves, rows, take
from hopfield_replay.utilities.states import DAMAGE


class SampleStore:
    """``capacity`` rows of samples of one form; the form is that of the first samples put in.

    Args:
        capacity: number of rows, >= 1.
        folder: where the rows lie as memory-mapped files, one for each tensor; None: in memory. The files are scratch
            space of one store: another store on the same folder is refused while this one lives.
    """

    def __init__(self, capacity: int, folder: str | os.PathLike[str] | None = None) -> None:
        self.capacity = capacity
        self._tree: Any = None
        self._folder = (
            None if folder is None else _Scratch(Path(folder).absolute())
        )  # of the folder that the program began in

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, used or not."""
        if self._tree is None:
            return 0
        kept = [leaf for _, leaf in leaves(self._tree)]
        return sum(leaf.nbytes if isinstance(leaf, Tensor) else sum(map(len, leaf)) for leaf in kept)

    def put(self, samples: Any, slots: Tensor) -> None:
        """Copy the samples into these rows; nothing is written if their form is not that of the store.

        Raises:
            ValueError: samples of another shape, dtype or nesting, or another number of them; a forked process.
            OSError: somebody cut the files in the folder.
            MemoryError: no memory for the rows.
        """
        self.prepare_put(samples, slots)()

    def prepare_put(self, samples: Any, slots: Tensor) -> Callable[[], None]:
        """All of :meth:`put` but the copying itself, which is returned."""
        self._check_files(writing=True)
        if rows(samples) != len(slots):
            raise ValueError(f"{rows(samples)} samples were given for {len(slots)} places.")
        tree = self._tree
        if tree is None:
            if self._folder is not None:
                self._folder.drop(range(self._folder.count))  # of samples that were prepared, but never put
            tree = map_leaves(self._allocate, samples)
        map_leaves(_check_form, tree, samples)
        places = slots.tolist()

        def ready(_: str, kept: Any, new: Any) -> Any:
            return new.detach().to(kept.device) if isinstance(kept, Tensor) else list(new)

        arrivals = map_leaves(ready, tree, samples)

        def copy(_: str, kept: Any, new: Any) -> None:
            if isinstance(kept, Tensor):
                kept[slots] = new
            else:
                for place, text in zip(places, new, strict=True):
                    kept[place] = text

        def write() -> None:
            self._tree = tree
            map_leaves(copy, tree, arrivals)

        return write

    def prepare_refill(self, samples: Any) -> Callable[[], None]:
        """All but the exchange itself of: forget all rows and their form, and put these samples in the first rows.

        Args:
            samples: None: nothing.
        """
        self._check_files(writing=True)
        fresh = SampleStore(self.capacity)
        fresh._folder = self._folder
        held = 0 if self._folder is None else self._folder.count
        try:
            if samples is not None:
                tree = map_leaves(fresh._allocate, samples)
                fresh._tree = tree
                fresh.put(samples, torch.arange(rows(samples)))
        except BaseException:
            if self._folder is not None:
                self._folder.drop(range(held, self._folder.count))
            raise

        def exchange() -> None:
            self._tree = fresh._tree
            if self._folder is not None:
                self._folder.drop(range(held))

        return exchange

    def _allocate(self, _: str, leaf: Leaf) -> Tensor | list[str]:
        if not isinstance(leaf, Tensor):
            return [""] * self.capacity
        shape = (self.capacity, *leaf.shape[1:])
        what = f"a buffer of {self.capacity} samples of {tuple(leaf.shape[1:])} {leaf.dtype}"
        # not in inference mode: Lightning validates in it, and what it makes cannot be written to later
        with memory_for(what, "lower its capacity, or give it a storage folder"), torch.inference_mode(False):
            return self._zeros(shape, leaf.dtype)

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype) if self._folder is None else self._folder.tensor(shape, dtype)

    def erase(self, slots: Tensor) -> None:
        """Overwrite these rows, on disk where they lie there.

        Raises:
            OSError: the disk fails; the rows are overwritten in memory then.
        """
        if self._tree is None or not len(slots):
            return
        self._check_files(writing=True)

        def wipe(_: str, kept: Leaf) -> None:
            if isinstance(kept, Tensor):
                kept[slots] = torch.zeros((), dtype=kept.dtype)
            else:
                for slot in slots.tolist():
                    kept[slot] = ""  # type: ignore[index]  # a list, as it was allocated

        map_leaves(wipe, self._tree)
        if self._folder is not None:
            self._folder.flush()

    def get(self, slots: Tensor) -> Any:
        """Copies of these rows, in the nesting they came in.

        Raises:
            OSError: somebody cut the files in the folder.
        """
        self._check_files()
        return take(self._tree, slots)

    def _check_files(self, writing: bool = False) -> None:
        if self._folder is not None:
            self._folder.check(writing)


def check_rows(samples: Any, count: int) -> None:
    """Refuse samples whose number is not ``count``."""
    if rows(samples) != count:
        raise ValueError(f"{rows(samples)} samples for {count} ids")


def check_one_form(samples: Any, others: Any) -> None:
    """Refuse samples that could not lie in one store."""
    map_leaves(_check_form, samples, others)


class _Scratch:
    """A folder for memory-mapped files that belongs to one process at a time."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise type(error)(f"storage={str(folder)!r} must be a folder, and a file is in its place.") from error
        try:
            self._lock = PathLock(folder / "in_use")  # free again with its store
        except InUse as error:
            raise ValueError(
                f"storage={str(folder)!r} is in use by another buffer; give each buffer (and each rank) its own "
                f"folder. (This one is held by {error}.)"
            ) from error
        self._folder = folder
        self._process = os.getpid()
        self._files: dict[int, tuple[int, int]] = {}  # descriptor and size of each file, by its number
        weakref.finalize(self, _close, self._files)
        self.count = 0  # of the files so far

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"A buffer with storage={str(self._folder)!r} cannot be sent to another process; send its state_dict()."
        )

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A zeroed tensor in a new file."""
        number = self.count
        path = self._folder / f"{number}.bin"
        self.count += 1
        path.unlink(missing_ok=True)
        size = math.prod(shape)
        if not size:
            return torch.zeros(shape, dtype=dtype)
        # a new file, and no link to another one
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:  # the whole file now: a write into a hole of a full disk kills the process
            os.posix_fallocate(file, 0, size * dtype.itemsize)
        except OSError:
            os.close(file)
            raise
        self._files[number] = (file, size * dtype.itemsize)
        return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)

    def check(self, writing: bool) -> None:
        """Refuse files that were cut: to touch memory behind the end of its file kills the process.

        A forked process may read, but what it writes would be written into the rows of the one that made them.
        """
        if writing and os.getpid() != self._process:
            raise ValueError(
                f"The rows in {self._folder} belong to process {self._process}, and this one ({os.getpid()}) was "
                "forked from it: fill the buffer there, or load its state_dict() into one of this process's own."
            )
        for number, (file, size) in self._files.items():
            if os.fstat(file).st_size < size:
                raise OSError(
                    f"{self._folder / f'{number}.bin'} was cut to {os.fstat(file).st_size} of {size} bytes while in "
                    "use; go on from a checkpoint, and leave the storage folder to the buffer."
                )

    def flush(self) -> None:
        """Let what was written reach the disk."""
        for file, _ in self._files.values():
            os.fsync(file)

    def drop(self, numbers: range) -> None:
        """Remove these files; memory that maps them stays valid."""
        for number in numbers:
            (self._folder / f"{number}.bin").unlink(missing_ok=True)
            if number in self._files:
                os.close(self._files.pop(number)[0])


def _close(files: dict[int, tuple[int, int]]) -> None:
    for file, _ in files.values():
        os.close(file)


def _check_form(path: str, kept: Any, new: Any) -> None:
    if _form(kept) != _form(new):
        raise ValueError(
            f"{path} was kept as {_form(kept)} so far, but is now {_form(new)}; all tasks must yield samples of one "
            "shape and dtype."
        )


def _form(leaf: Leaf) -> str:
    return f"{leaf.dtype} of shape {tuple(leaf.shape[1:])}" if isinstance(leaf, Tensor) else "text"


def plain(tree: Any) -> Any:
    """The same nesting in dict, tuple and list: ``weights_only=True`` loads no class of a namedtuple or a dataclass."""
    if is_record(tree):
        tree = as_mapping(tree)
    if isinstance(tree, Mapping):
        return {key: plain(item) for key, item in tree.items()}
    if isinstance(tree, tuple):
        return tuple(plain(item) for item in tree)
    return [plain(item) for item in tree] if isinstance(tree, list) else tree


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a nesting of plain Python and tensors as safetensors; an old file is replaced only when all is written.

    Raises:
        OSError: the file cannot be written (a full disk, a read-only folder).
        TypeError: a leaf that is neither a tensor nor plain.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    outline = _flatten(tree, tensors)
    try:
        with replacing(path) as partial:
            save_file(tensors, str(partial), metadata={_HEADER: json.dumps(outline)})
    except SafetensorError as error:
        raise OSError(f"{path} could not be written ({error}).") from error


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Read what :func:`save_tree` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            outline = json.loads((file.metadata() or {})[_HEADER])
            # copies: what safetensors returns is the file itself, mapped, and who cuts it later kills the process
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118, not a mapping
        tree = _unflatten(outline, tensors)
        if tensors:
            raise ValueError(f"tensors that belong nowhere: {list(tensors)[:5]}")
        return tree
    except (SafetensorError, *DAMAGE) as error:
        raise ValueError(f"{path} is not a file written by hopfield-replay, or it is damaged ({error}).") from error


_HEADER = "hopfield_replay"


def _flatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """An outline of the tree for JSON; its tensors are taken out under running numbers."""
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.contiguous().clone()
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[key, _flatten(item, tensors)] for key, item in tree.items()]}
    if isinstance(tree, tuple | list):
        return {type(tree).__name__: [_flatten(item, tensors) for item in tree]}
    return {"value": tree}


def _unflatten(outline: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = outline.items()
    build: dict[str, Callable[[], Any]] = {
        "tensor": lambda: tensors.pop(content),  # once: what is named a thousand times would be copied as often
        "dict": lambda: {key: _unflatten(item, tensors) for key, item in content},
        "tuple": lambda: tuple(_unflatten(item, tensors) for item in content),
        "list": lambda: [_unflatten(item, tensors) for item in content],
        "value": lambda: content,
    }
    return build[kind]()
