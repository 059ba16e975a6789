"""Run a command, and turn what happens into an exit code."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from hopfield_replay.cli.codes import BAD_INPUT, INTERRUPTED, UNEXPECTED
from hopfield_replay.cli.wording import with_options
from hopfield_replay.utilities.memory import is_out_of_memory
from hopfield_replay.utilities.text import printable

_POSITIONAL = ("old", "new", "file")
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
    given = sys.argv[1:] if arguments is None else list(arguments)
    usage: SystemExit | None = None
    names: list[str] = []  # of the options

    def command() -> int:
        nonlocal usage
        try:
            import jsonargparse  # noqa: F401  # only to say how to get it
        except ImportError as error:
            raise ImportError('The command line needs jsonargparse: pip install "hopfield-replay[cli]".') from error
        from hopfield_replay.cli.output import check_output_dir
        from hopfield_replay.cli.parser import parse
        from hopfield_replay.utilities.progress import show_progress

        try:
            run, options = parse(given)
        except SystemExit as stop:
            usage = stop
            return BAD_INPUT
        names.extend(name for name in options.keys() if name not in _POSITIONAL)  # noqa: SIM118, not a mapping
        for outcome in ("output_dir", "output"):
            check_output_dir(options.get(outcome), _sources(options), outcome)
        with show_progress(not options.quiet):
            return run(options)

    code = _guarded(command, "--debug" in given, names)
    if usage is not None:
        raise usage
    return code


def _sources(options: Any) -> list[str]:
    """What the command reads samples from."""
    given = [options.get(name) for name in ("old", "new", "also", "data", "target", "old_data", "new_data")]
    return [source for some in given if some for source in ([some] if isinstance(some, str) else some)]


def _guarded(command: Callable[[], int], debug: bool, names: Sequence[str] = ()) -> int:
    """The command's own code; whatever else it ends by, the code of that, and never by chance one of its own."""
    try:
        code = command()
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk shows here, and not after the last word on the exit code
        return code
    except KeyboardInterrupt:
        return _say("Interrupted.", INTERRUPTED)
    except SystemExit as error:
        return _failed(f"Code that was called wanted to exit with {error.code!r}.", BAD_INPUT, debug)
    except BaseException as error:
        said = " ".join(_text(error).split()) or type(error).__name__
        if isinstance(error, _EXPECTED) or is_out_of_memory(error):
            return _failed(with_options(said, names), BAD_INPUT, debug)
        return _failed(f"Unexpected {type(error).__name__}: {said} (--debug shows where)", UNEXPECTED, debug)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # of somebody else's exception
        return ""


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        with contextlib.suppress(Exception):
            traceback.print_exc()
    return _say(message, code)


def _say(message: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed, or its disk full
        if sys.stderr is not None:
            print(f"hopfield-replay: {printable(message, None)}", file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # Python flushes once more at its end, and would exit with a code of its own
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
    return code
