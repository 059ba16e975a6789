"""Runs in files: what a checkpoint, or the saved state or history of a tracker, says of a task sequence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hopfield_replay.analysis.forecasting import Forecast
from hopfield_replay.analysis.run_report import RunReport, report_of
from hopfield_replay.buffer import EnergyReplayBuffer
from hopfield_replay.checkpoints.file import read_plain
from hopfield_replay.tracker import BoundaryRecord, ForgettingTracker
from hopfield_replay.utilities.files import is_partial
from hopfield_replay.utilities.states import DAMAGE

HISTORY = "history.pt"  # torch.save of a tracker's or a monitor's state_dict
_TRACKER = "hopfield-replay tracker "


def run_from_file(
    path: str | Path,
    *,
    title: str | None = None,
    names: Mapping[int, str] | None = None,
    forecasts: Mapping[int, Forecast | Tensor] | None = None,
) -> RunReport:
    """The report of a run from a file of it.

    Args:
        path: a checkpoint of Lightning or Accelerate whose run had a ForgettingMonitor or ForgettingTracker, or what
            ``torch.save`` wrote of the ``state_dict()`` or the ``history`` of one.
        title: of the page; None: the names of the file and its folder.
        names: as at :func:`run_report`.
        forecasts: the same.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read, is damaged, or holds no run.

    Example:
        >>> import tempfile, torch
        >>> from hopfield_replay import TaskSource
        >>> tracker = ForgettingTracker()
        >>> for centre in (0.0, 9.0):
        ...     record = tracker.end_task(TaskSource([centre + torch.arange(16.0).view(8, 2)]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(tracker.state_dict(), folder + "/history.pt")
        ...     run_from_file(folder + "/history.pt").lead()[:25]
        'Task 0 was forgotten most'
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file.")
    tracker, settings = _tracker(read_plain(file), file)
    rises = {task: made.rises if isinstance(made, Forecast) else made for task, made in (forecasts or {}).items()}
    called = f"What was forgotten: {'/'.join(file.parts[-2:])}" if title is None else title
    try:
        return report_of(tracker, called, names or {}, rises, settings, [])
    except DAMAGE as error:
        raise ValueError(f"{file} holds a damaged run ({error!r}).") from error


def find_runs(folder: str | Path) -> list[Path]:
    """The newest file of each run in a folder and below it, four folders deep.

    Args:
        folder: with files called ``history.pt``, or checkpoints (``.ckpt``) of runs with a monitor.

    Returns:
        One file for each folder that holds any, in the order of their names; of several the newest that holds a run.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no run in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         find_runs(folder)
        ...     except ValueError as error:
        ...         print(str(error).replace(folder, "runs"))
        runs holds no run: no history.pt, and no .ckpt that was written with a ForgettingMonitor.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is neither a file nor a folder.")
    places: dict[Path, list[Path]] = {}
    for depth in range(5):
        for pattern in (HISTORY, "*.ckpt"):
            for file in root.glob("*/" * depth + pattern):
                if file.is_file() and not is_partial(file):
                    places.setdefault(file.parent, []).append(file)
    found = [newest for place in sorted(places) if (newest := _newest(places[place])) is not None]
    if not found:
        raise ValueError(f"{root} holds no run: no {HISTORY}, and no .ckpt that was written with a ForgettingMonitor.")
    return found


def _newest(files: list[Path]) -> Path | None:
    """The newest file that holds a run; a history goes before checkpoints, which may be of the middle of a task."""
    ordered = sorted(files, key=lambda file: (file.name == HISTORY, file.stat().st_mtime), reverse=True)
    for file in ordered:
        try:
            if _states(read_plain(file)):
                return file
        except ValueError:  # damaged, or no file of ours; the one before it may be whole
            continue
    return None


def _states(tree: Any) -> list[Any]:
    """Every state of a tracker in a nesting; of a saved history the history."""
    if isinstance(tree, dict) and isinstance(tree.get("format"), str) and tree["format"].startswith(_TRACKER):
        return [tree]
    if isinstance(tree, list | tuple) and tree and all(isinstance(item, BoundaryRecord) for item in tree):
        return [list(tree)]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [state for part in parts for state in _states(part)]


def _tracker(content: Any, file: Path) -> tuple[ForgettingTracker, dict[str, Any]]:
    """A tracker that holds what the file says, and the settings that it had."""
    states = _states(content)
    if len(states) != 1:
        raise ValueError(
            f"{file} holds {f'{len(states)} runs' if states else 'no run'}; give a checkpoint of a run with one "
            "ForgettingMonitor, or what torch.save wrote of a tracker's state_dict()."
        )
    (state,) = states
    try:
        if isinstance(state, list):
            tracker = ForgettingTracker()
            tracker.history = state
            return tracker, {}
        held = state["buffer"]
        count = 0 if held is None or held["kept"] is None else len(held["kept"]["ids"])
        tracker = ForgettingTracker(None if held is None else EnergyReplayBuffer(max(1, count)), allow_changes=True)
        tracker.load_state_dict(state)
        settings = {str(name): value for name, value in (state.get("settings") or {}).items()}
        return tracker, settings | {"beta": state["beta"]} | ({} if held is None else {"samples kept": count})
    except DAMAGE as error:
        raise ValueError(f"{file} holds a damaged run ({error!r}).") from error


__all__ = ["HISTORY", "find_runs", "run_from_file"]
