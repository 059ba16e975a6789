"""Files of results, which take their names only when they are complete."""

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` when the block ends; if the block fails, nothing changes."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(content, indent=2))


def write_figure(path: Path, figure: "Figure") -> None:
    """Write a figure at its own resolution, in the format that the name ends with."""
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:])


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain Python, nested as they are."""
    with replacing(path) as partial:
        torch.save(content, partial)


def read_tensors(path: Path) -> dict[str, Any]:
    """Read what :func:`write_tensors` wrote.

    Raises:
        ValueError: another file, or a damaged one.
    """
    try:
        content = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is damaged ({str(error).partition('.')[0] or 'empty'}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a file of results.")
    return content
