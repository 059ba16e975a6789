"""Run a command, and turn what happens into an exit code."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from hopfield_replay.cli.codes import BAD_INPUT, INTERRUPTED, UNEXPECTED

_EXPECTED = (ValueError, TypeError, ImportError, OSError, MemoryError)  # what the library raises on bad input


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``hopfield-replay forecast``, ``audit`` or ``reproduce``.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        The exit code, see ``hopfield-replay --help``.

    Raises:
        SystemExit: after --help and after wrong usage, as argparse does.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look for package.module:Class in the present folder
    try:
        import jsonargparse  # noqa: F401  # only to say how to get it
    except ImportError:
        return _say('The command line needs jsonargparse: pip install "hopfield-replay[cli]".', BAD_INPUT)
    from hopfield_replay.cli.parser import parse
    from hopfield_replay.utilities.progress import show_progress

    run, options = parse(arguments)
    with show_progress(not options.quiet):
        return _guarded(run, options)


def _guarded(run: Callable[[Any], int], options: Any) -> int:
    try:
        return run(options)
    except KeyboardInterrupt:
        return _say("Interrupted.", INTERRUPTED)
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, _EXPECTED):
            return _say(said, BAD_INPUT)
        return _say(f"Unexpected {type(error).__name__}: {said} (--debug shows where)", UNEXPECTED)


def _say(message: str, code: int) -> int:
    print(f"hopfield-replay: {message}", file=sys.stderr)
    return code
