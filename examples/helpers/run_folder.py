"""The folder of one run: which configuration it belongs to, and files that appear only when they are complete."""

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from helpers.files import write_text


def plain(value: Any) -> Any:
    """A setting as JSON holds it; paths become absolute."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value.resolve()) if isinstance(value, Path) else value


def check_run(folder: Path, settings: dict[str, Any], resume: bool) -> None:
    """Refuse to mix two runs in one folder; nothing is written here.

    Raises:
        ValueError: a new run in the folder of another; nothing to resume; a run of another configuration.
    """
    file = folder / "run.json"
    if not file.exists():
        if resume:
            raise ValueError(f"--resume: {folder} holds no run (it has no run.json).")
        return
    if not resume:
        raise ValueError(f"{folder} holds a run already: pass --resume to go on with it, or another --output-dir.")
    _check_same(folder, file, settings, "a run")


def check_results(file: Path, settings: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Refuse to put results of other settings in the place of those in a file; what was run anew may be written again.

    Args:
        file: of JSON, with the settings under "arguments".
        settings: of the run that is going to write it.
        free: settings that make no other run.

    Raises:
        ValueError: results of other settings, or none of a run; each difference is named.
    """
    if not file.exists():
        return
    try:
        before = json.loads(file.read_text())["arguments"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no results of this example ({error!r}). Use another place.") from None
    now = {name: plain(value) for name, value in settings.items()}
    differences = [
        f"{name} was {before.get(name)}, now {now.get(name)}"
        for name in {**before, **now}
        if name not in free and before.get(name) != now.get(name)
    ]
    if differences:
        raise ValueError(f"{file} holds results of other settings: {', '.join(differences)}. Use another place.")


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of many runs, or see that those in it were made with these settings.

    Raises:
        ValueError: they were not; the entries that differ are named.
    """
    file = folder / "settings.json"
    if file.exists():
        _check_same(folder, file, settings, "runs")
    elif folder.exists() and any(folder.glob("*.pt")):
        raise ValueError(f"{folder} holds results but no settings.json that says of what. Use another --output-dir.")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(settings))


def _check_same(folder: Path, file: Path, settings: Mapping[str, Any], what: str) -> None:
    try:
        before = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged ({error}).") from None
    changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    if changed:
        differences = ", ".join(f"{name} was {before.get(name)}, now {settings.get(name)}" for name in changed)
        raise ValueError(f"{folder} holds {what} of another configuration: {differences}. Use another --output-dir.")


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a new folder that takes its place only when it is complete; an old one is replaced."""
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)  # a folder that is not empty cannot be replaced in one step; whole ones are moved
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)
