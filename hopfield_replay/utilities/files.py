"""Files that appear under their name only when they are whole, and those below a folder."""

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hopfield_replay.utilities.ownership import has_ended, owner

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.[^.]*\.[0-9a-f]{32}\.partial(\..*)?")


def publish(partial: Path, target: Path) -> None:
    """Let a file that has been written take the place of another: at every moment the name holds the old or the new.

    Args:
        partial: a complete file, in the folder of the target.
        target: the name it gets.

    Raises:
        OSError: a full disk, a read-only folder.
    """
    with open(partial, "rb+") as written:
        os.fsync(written.fileno())  # or a power cut could leave the new name with nothing behind it
    os.replace(partial, target)
    with contextlib.suppress(OSError):  # some file systems cannot; the name then reaches the disk a little later
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write a file to, which becomes ``path`` when the block ends; nothing changes if it fails.

    A process that is killed inside the block leaves the old file, and a hidden one whose name holds ``.partial``. The
    next one that replaces the same file on the same machine removes it. What was left on another machine, in another
    container or before a reboot stays: nothing tells it from what somebody is still writing.

    Args:
        path: file to write or to replace, in a folder that exists.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/numbers.txt") as partial:
        ...         _ = partial.write_text("1 2 3")
        ...     os.listdir(folder)
        ['numbers.txt']
    """
    target = Path(path)
    # of its own for each writer
    partial = target.with_name(f"{_prefix(target)}{owner() or ''}.{uuid.uuid4().hex}.partial{target.suffix}")
    try:
        yield partial
        publish(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's files, or somebody was faster
        for left in _left(target):
            left.unlink()


def is_partial(file: Path) -> bool:
    """Whether a file is one that :func:`replacing` was writing, in this process or another.

    Example:
        >>> with replacing("numbers.txt") as partial:
        ...     _ = partial.write_text("1")
        ...     is_partial(partial), is_partial(Path("numbers.txt"))
        (True, False)
        >>> os.unlink("numbers.txt")
    """
    return _PARTIAL.fullmatch(file.name) is not None


def _prefix(target: Path) -> str:
    # the name itself may be as long as names get, or not be UTF-8
    return f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}."


def _left(target: Path) -> list[Path]:
    """What processes that have ended left of their attempts to write the target."""
    prefix = _prefix(target)
    with os.scandir(target.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix) and ".partial" in entry.name]
    return [target.with_name(name) for name in names if has_ended(name.removeprefix(prefix).split(".")[0])]


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, all or nothing."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a JSON file, all or nothing."""
    write_text(path, json.dumps(content, indent=2))


def write_figure(path: str | os.PathLike[str], figure: "Figure") -> None:
    """Write a matplotlib figure at its own resolution, all or nothing."""
    with replacing(path) as partial:
        figure.savefig(partial)


def files_below(folder: Path, *, hidden: bool = True) -> Iterator[Path]:
    """Files below a folder and below the folders that it links to, which ``Path.rglob`` passes over.

    Each folder is entered once, however many links lead to it; by its own name where that lies below the folder.

    Args:
        folder: that exists.
        hidden: whether files and folders whose names begin with a dot count.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     _ = Path(place, "a.txt").write_text(""), Path(place, ".b").write_text("")
        ...     os.symlink(place, place + "/circle")
        ...     [file.name for file in files_below(Path(place), hidden=False)]
        ['a.txt']
    """
    waiting, links, seen = [folder], list[Path](), set[str]()
    while waiting or links:
        place = waiting.pop() if waiting else links.pop(0)  # what is no link first
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        for entry in sorted(place.iterdir()):
            if entry.name.startswith(".") and not hidden:
                continue
            if entry.is_file():
                yield entry
            elif entry.is_dir():
                (links if entry.is_symlink() else waiting).append(entry)
