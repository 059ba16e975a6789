"""Names of unknown origin as text that shows what they are, and does nothing else."""

import unicodedata

_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of characters (names that are not UTF-8), line ends
_DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # these reorder a line
_LONGEST = 200


def printable(text: object, longest: int | None = _LONGEST) -> str:
    r"""One line of text in which every character is seen: what moves cursors, ends lines or reorders them is escaped.

    Names of files and classes can hold anything. Unescaped, a newline in one of them writes lines of its own into a
    report, and an escape sequence rewrites the terminal.

    Args:
        text: anything; its ``str()`` is shown.
        longest: more characters than that are cut and marked so; None: all.

    Example:
        >>> print(printable("cat\nverdict: passed"), printable("\x1b[31mred"), printable("grün 猫"))
        cat\nverdict: passed \x1b[31mred grün 猫
    """
    whole = str(text)
    shown = whole if longest is None or len(whole) <= longest else f"{whole[:longest]}…"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _HIDDEN or character in _DIRECTIONS
        else character
        for character in shown
    )


def printable_lines(text: str) -> str:
    r"""Text whose line ends are meant, with everything else escaped as in :func:`printable`.

    Example:
        >>> print(printable_lines("one\ntwo\x07"))
        one
        two\x07
    """
    return "\n".join(printable(line, None) for line in text.split("\n"))


def spreadsheet_cell(text: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula; numbers stay numbers.

    Example:
        >>> spreadsheet_cell("=1+2"), spreadsheet_cell("-0.5"), spreadsheet_cell("cat")
        ("'=1+2", '-0.5', 'cat')
    """
    if text[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def group_label(kind: str, group: object) -> str:
    """A class or task for a figure; a name that says already what it is stands alone.

    Example:
        >>> group_label("task", "task0.npz"), group_label("task", 3)
        ('task0.npz', 'task 3')
    """
    label = figure_label(group)
    return label if label.lower().startswith(kind) else f"{kind} {label}"


def figure_label(text: object) -> str:
    r"""Text for a figure that is drawn letter by letter: dollar signs begin no formula.

    Example:
        >>> figure_label("$\\alpha$")
        '\\$\\alpha\\$'
    """
    return printable(text, 60).replace("$", r"\$")


__all__ = ["figure_label", "group_label", "printable", "printable_lines", "spreadsheet_cell"]
