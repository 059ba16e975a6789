"""The command line of an example: --help and Ctrl-C are answered at once, and before what takes seconds to import."""

import argparse
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

INTERRUPTED = 130  # as shells count it


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):  # type: ignore[misc]  # untyped
    """The description as it was written, and defaults where there are any; no Python names of types."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        silent = "default" in text or action.nargs == 0 or default in (None, argparse.SUPPRESS)
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        return text if silent else f"{text} (default: {shown})".lstrip()


class Parser(ArgumentParser):  # type: ignore[misc]  # untyped
    """The options of an example.

    Args:
        description: the example's docstring.
    """

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=_Formatter)


def answer_help(name: str, make_parser: Callable[[], Parser]) -> None:
    """Show help and end, if that is asked for; to be called above the imports that take seconds.

    From here on Ctrl-C is told in one sentence, also while these are imported.

    Args:
        name: ``__name__`` of the caller: nothing is done in a script that is imported.
        make_parser: makes the parser.
    """
    if name != "__main__":
        return
    answer_interrupts(name)
    if {"-h", "--help"} & set(sys.argv[1:]):
        make_parser().parse_args(["--help"])


def answer_interrupts(name: str) -> None:
    """Let Ctrl-C end a script with one sentence and code 130, wherever it is outside a fit.

    Args:
        name: ``__name__`` of the caller: nothing is done in a script that is imported.
    """
    if name == "__main__":
        sys.excepthook = _told


def run_main(main: Callable[[], Any]) -> NoReturn:
    """Run an example; interrupted, it ends with code 130, whatever Lightning makes of Ctrl-C.

    Args:
        main: of the example.
    """
    try:
        main()
    except KeyboardInterrupt:
        _end()
    except SystemExit as end:  # Lightning exits when it has cleared up
        if end.code == INTERRUPTED or isinstance(end.__context__, KeyboardInterrupt):
            _end()
        raise
    sys.exit(0)


def _end() -> NoReturn:
    print("Interrupted.", file=sys.stderr, flush=True)
    sys.exit(INTERRUPTED)


def _told(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _end()
    sys.__excepthook__(kind, error, traceback)
