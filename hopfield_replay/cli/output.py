"""Where results go: to the terminal, and as files into a folder."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hopfield_replay.utilities.files import write_figure, write_text
from hopfield_replay.utilities.text import printable, printable_lines


def say(text: str, quiet: bool) -> None:
    """Print, unless quiet or there is nothing to say; what the terminal cannot show is escaped."""
    if text and not quiet:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(printable_lines(text).encode(encoding, "backslashreplace").decode(encoding))


def check_output_dir(folder: str | None, sources: Iterable[str] = (), name: str = "output_dir") -> None:
    """Refuse, before the work begins, a folder that cannot be one.

    Args:
        folder: where results will be written.
        sources: what is read; figures that lie in a folder of images would be images of it the next time.
        name: of the option.

    Raises:
        ValueError: there is a file in its place; it lies in what is read.
    """
    if folder is None:
        return
    for source in sources:
        if Path(source).is_dir() and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(source)):
            raise ValueError(
                f"{name} {folder!r} lies in {source!r}, which is read: the next time its pictures would be read, "
                "too. Name a folder elsewhere."
            )
    taken = [place for place in (Path(folder), *Path(folder).parents) if place.is_file()]
    if taken:
        raise ValueError(f"{name} must be a folder, got {folder!r}, and {taken[0]} is a file.")


def drawn(draw: Callable[[], Any]) -> Any:
    """Figures as ``draw`` makes them, whatever a matplotlibrc in the working folder says of running LaTeX."""
    with contextlib.suppress(ImportError):  # draw says what is missing
        import matplotlib

        matplotlib.rcParams["text.usetex"] = False
    return draw()


def write(folder: str | None, name: str, result: Any, figures: Mapping[str, Any], page: str | None = None) -> str:
    """Write ``<name>.json``, a PNG for each figure and ``<name>.html``; nothing without a folder.

    Returns:
        What to say of it, once all is said: nobody may be listening any more, and what was found must not be lost.
    """
    if folder is None:
        return ""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / f"{name}.json", json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
    for stem, figure in figures.items():
        write_figure(place / f"{stem}.png", figure)
    written = [f"{name}.json", *(f"{stem}.png" for stem in figures)]
    if page is not None:
        write_text(place / f"{name}.html", page)
        written.insert(0, f"{name}.html")
    return f"Wrote {', '.join(written)} to {printable(place, None)}"
