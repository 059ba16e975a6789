"""What can be written on the command line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter

from hopfield_replay.__about__ import __version__
from hopfield_replay.cli import audit, buffer_file, forecast, report, reproduce, selecting
from hopfield_replay.cli.codes import BAD_INPUT, EXIT_CODES
from hopfield_replay.cli.wording import of_parser

_DESCRIPTION = """\
What a diffusion model forgets when it is fine-tuned: predicted from two data
sets (forecast), measured between two versions of the model (audit) or in a
run of several tasks (report), prevented by a few samples that stand for all
(select), and explained on networks whose energies are exact (reproduce).
"""


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):  # type: ignore[misc]  # untyped
    """Help without the types' Python names; defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = (None, argparse.SUPPRESS) if action.nargs != 0 else (None, False, argparse.SUPPRESS)
        if not action.option_strings or any(action.default is value for value in silent):
            return text
        return f"{text} (default: {_default(action.default)})"


class _Parser(ArgumentParser):  # type: ignore[misc]  # untyped
    """Says in one sentence what is wrong with an option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with the usage and the sentence."""
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [option for action in parser._actions for option in action.option_strings if option[:2] == "--"]
        super().error(of_parser(message, options), ex)
        raise SystemExit(BAD_INPUT)  # not reached


def _default(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _new(description: str, epilog: str = "", **settings: Any) -> ArgumentParser:
    return _Parser(description=description, epilog=epilog, formatter_class=_Formatter, **settings)


def _leaf(description: str, add: Callable[[ArgumentParser], None], epilog: str = "") -> ArgumentParser:
    """A command with its own options, and those that every command has."""
    parser = _new(description, epilog)
    add(parser)
    group = parser.add_argument_group("how to run")
    group.add_argument("--config", action=ActionConfigFile, metavar="FILE", help="YAML file with any of these options")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors, and show no progress")
    group.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    return parser


def build(experiment: str | None = None) -> ArgumentParser:
    """The parser of every command; of the experiments only the one that is asked for has its options."""
    parser = _new(_DESCRIPTION, EXIT_CODES, prog="hopfield-replay")
    parser.add_argument(
        "--version", action="version", version=f"hopfield-replay {__version__}", help="print the version"
    )
    commands = parser.add_subcommands(title="commands", dest="command")
    commands.add_subcommand("forecast", _leaf(forecast.DESCRIPTION, forecast.add_options), help=forecast.HELP)
    commands.add_subcommand("audit", _leaf(audit.DESCRIPTION, audit.add_options, audit.EPILOG), help=audit.HELP)
    teller = _leaf(report.DESCRIPTION, report.add_options, report.EPILOG)
    commands.add_subcommand("report", teller, help=report.HELP)
    chooser = _leaf(selecting.DESCRIPTION, selecting.add_options, selecting.EPILOG)
    commands.add_subcommand("select", chooser, help=selecting.HELP)
    looker = _leaf(buffer_file.DESCRIPTION, buffer_file.add_options, buffer_file.EPILOG)
    commands.add_subcommand("buffer", looker, help=buffer_file.HELP)
    experiments = _new(reproduce.DESCRIPTION)
    commands.add_subcommand("reproduce", experiments, help=reproduce.HELP)
    choices = experiments.add_subcommands(title="experiments", dest="experiment", metavar="EXPERIMENT")
    for name, summary in reproduce.EXPERIMENTS.items():
        add = partial(reproduce.add_options, name=name) if name == experiment else _no_options
        choices.add_subcommand(name, _leaf(summary, add), help=summary)
    return parser


def _no_options(parser: ArgumentParser) -> None:
    """Those of a command that is not asked for."""


def parse(arguments: Sequence[str] | None) -> tuple[Callable[[Any], int], Any]:
    """What to run, and the options to run it with.

    Raises:
        SystemExit: after --help and after wrong usage.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    words = [word for word in given if not word.startswith("-")]
    asked = words[1] if words[:1] == ["reproduce"] and words[1:] else None
    parsed = build(asked).parse_args(given)
    options = parsed[parsed.command]
    if parsed.command == "reproduce":
        return partial(reproduce.run, options.experiment), options[options.experiment]
    return {
        "forecast": forecast.run,
        "audit": audit.run,
        "report": report.run,
        "select": selecting.run,
        "buffer": buffer_file.run,
    }[parsed.command], options
