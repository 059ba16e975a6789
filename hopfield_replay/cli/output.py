"""Where results go: to the terminal, and as files into a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hopfield_replay.utilities.files import write_figure, write_text


def say(text: str, quiet: bool) -> None:
    """Print, unless quiet."""
    if not quiet:
        print(text)


def write(
    folder: str | None, name: str, result: Any, figures: Mapping[str, Any], page: str | None, quiet: bool
) -> None:
    """Write ``<name>.json``, a PNG for each figure and ``<name>.html``; nothing without a folder."""
    if folder is None:
        return
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / f"{name}.json", json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
    for stem, figure in figures.items():
        write_figure(place / f"{stem}.png", figure)
    written = [f"{name}.json", *(f"{stem}.png" for stem in figures)]
    if page is not None:
        write_text(place / f"{name}.html", page)
        written.insert(0, f"{name}.html")
    say(f"Wrote {', '.join(written)} to {place}", quiet)
