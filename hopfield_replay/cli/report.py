"""hopfield-replay report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from hopfield_replay.cli.codes import FINE
from hopfield_replay.cli.output import say
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    from torch import Tensor

HELP = "show what a run forgot, the worst first, in one page"
DESCRIPTION = """\
Write one self-contained page of a whole task sequence: what was forgotten of
each task and class, the worst first, the most forgotten samples before and
after, what the buffer keeps, and how a forecast came out.
"""
EPILOG = """\
examples:
  what a training run with a ForgettingMonitor has lost so far
    hopfield-replay report runs/mine/checkpoints/last.ckpt
  every run below a folder, a page beside each
    hopfield-replay report runs/ddpm_mnist_splits
  against what was predicted of the first task
    hopfield-replay forecast task0/ task1/ --output-dir foreseen/
    hopfield-replay report runs/mine --forecast 0:foreseen/forecast.json

exit codes: 0 fine, 2 wrong usage, bad input, no disk or memory left,
3 unexpected error, 130 interrupted
"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "run", type=str, metavar="RUN",
        help="a folder of runs, a checkpoint, or a history.pt (torch.save of a tracker's or monitor's state_dict())",
    )  # fmt: skip
    parser.add_argument("--title", type=str | None, default=None, metavar="TEXT", help="of the page")
    parser.add_argument(
        "--names", type=str, nargs="+", default=None, metavar="NAME", help="of the tasks, in their order"
    )
    parser.add_argument(
        "--forecast", type=str, nargs="+", default=None, metavar="TASK:FILE",
        help="forecast.json of this task's training samples against the next task's; tasks count from 0",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=str | None, default=None, metavar="DIR",
        help="write report.html and report.json there; beside the run's file if not given",
    )  # fmt: skip


def run(options: Any) -> int:
    """Find the runs, and write a page of each."""
    from hopfield_replay.analysis.run_file import find_runs, run_from_file

    given = Path(options.run)
    files = [given] if given.is_file() else find_runs(given)
    if options.output_dir is not None and len(files) > 1:
        listed = ", ".join(printable(file) for file in files[:5])
        raise ValueError(f"{given} holds {len(files)} runs ({listed}), and --output-dir has place for one; name one.")
    names = dict(enumerate(options.names or ()))
    forecasts = _forecasts(options.forecast or ())
    for file in files:
        report = run_from_file(file, title=options.title, names=names, forecasts=forecasts)
        page = report.write(options.output_dir or file.parent)
        say(f"{printable(file, None)}\n{report.table()}\nWrote {printable(page, None)}\n", options.quiet)
    return FINE


def _forecasts(given: "list[str] | tuple[()]") -> "dict[int, Tensor]":
    """Predicted rises by task, from TASK:FILE."""
    import json

    import torch

    found = {}
    for text in given:
        task, colon, path = text.partition(":")
        if not colon or not task.isdecimal():
            raise ValueError(f"--forecast {text!r} is no TASK:FILE, such as 0:forecast.json.")
        try:
            rises = json.loads(Path(path).read_text(encoding="utf-8"))["rises"]
            found[int(task)] = torch.tensor(rises, dtype=torch.float64)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no forecast.json of hopfield-replay forecast ({error!r}).") from error
        if found[int(task)].ndim != 1:
            raise ValueError(
                f"{path} is no forecast.json of hopfield-replay forecast: rises must be a list of numbers."
            )
    return found
