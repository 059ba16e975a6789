"""What went wrong, in the words of the command line: options by their own names, and what was probably meant."""

import re
from collections.abc import Iterable

from hopfield_replay.utilities.choices import did_you_mean

_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "dict": "a JSON object", "str": "text"}


def with_options(message: str, names: Iterable[str]) -> str:
    """A sentence about arguments of functions as one about the options that they come from.

    Args:
        message: what the library says.
        names: of the options, as the functions' arguments are called.

    Example:
        >>> with_options("replay_ratio must lie in (0, 1), got 2.", ["replay_ratio"])
        '--replay-ratio must lie in (0, 1), got 2.'
        >>> with_options("Allow more (max_bytes=5).", ["max_bytes"])
        'Allow more (--max-bytes 5).'
    """
    for name in names:
        option = f"--{name.replace('_', '-')}"
        message = re.sub(rf"^{name}(?= |$)", option, message)
        message = re.sub(rf"(?<![\w-]){name}=(?=[^\s=])", f"{option} ", message)
    return message


def of_parser(message: str, options: Iterable[str]) -> str:
    r"""What the parser says, as one sentence that names the option, what was given, and the cure.

    Args:
        message: the parser's.
        options: that there are, such as ``--seed``.

    Example:
        >>> of_parser('Parser key "replay_ratio":\n  Expected a <class \'float\'>. Got value: half', [])
        "--replay-ratio must be a number, got 'half'."
        >>> of_parser("unrecognized arguments: --capacity 20", ["--capacities", "--seed"])
        "unrecognized arguments: --capacity 20. Did you mean '--capacities'?"
    """
    if found := re.match(r'Parser key "([\w.]+)".*?:\n', message):
        wanted = [_TYPES.get(name, name) for name in re.findall(r"Expected a <class '(\w+)'>", message)]
        wanted = [name for name in wanted if name != "NoneType"]
        value = re.search(r"(?:Got|Given) value: (.*)", message)
        if wanted and value is not None:
            name = f"--{found[1].rpartition('.')[2].replace('_', '-')}"
            return f"{name} must be {' or '.join(dict.fromkeys(wanted))}, got {value[1]!r}."
    if found := re.match(r"unrecognized arguments: (--[\w-]+)", message):
        return f"{message}.{did_you_mean(found[1], options)}"
    if found := re.match(r"argument \w+: invalid choice: '(.*?)' \(choose from (.*)\)", message):
        known = re.findall(r"'([\w-]+)'", found[2])
        return f"{message}.{did_you_mean(found[1], known)}"
    return re.sub(r"(the following arguments are required: )(?:\w+\.)+", r"\1", message)


__all__ = ["of_parser", "with_options"]
