"""Files that appear under their name only when they are whole."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    A process that is killed inside the block leaves the old file, and a hidden one whose name holds ``.partial``.

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
    partial = target.with_name(f".{uuid.uuid4().hex}.partial{target.suffix}")  # of its own for each writer
    try:
        yield partial
        publish(partial, target)
    finally:
        partial.unlink(missing_ok=True)


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
