"""What was probably meant by a name that is none of the known ones."""

import difflib
from collections.abc import Iterable

_ALIKE = 0.6  # of two names, from 0 to 1; difflib's own default
_TIE = 0.06  # names as near as that are both meant


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """A question that names the nearest of the known names, to be put behind a sentence; empty if none is near.

    Args:
        given: what was given.
        known: the names that there are.

    Example:
        >>> print("Unknown policy 'High-Enrgy'." + did_you_mean("High-Enrgy", ["high_energy", "random"]))
        Unknown policy 'High-Enrgy'. Did you mean 'high_energy'?
        >>> did_you_mean("energy", ["high_energy", "low_energy"]), did_you_mean("best", ["high_energy", "random"])
        (" Did you mean 'low_energy' or 'high_energy'?", '')
    """
    if not isinstance(given, str):
        return ""
    names = {_plain(name): name for name in known}
    wanted = _plain(given)
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=_ALIKE)
    likeness = [difflib.SequenceMatcher(None, name, wanted).ratio() for name in near]
    meant = [repr(names[name]) for name, like in zip(near, likeness, strict=True) if like >= likeness[0] - _TIE]
    return f" Did you mean {' or '.join(meant)}?" if meant else ""


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


__all__ = ["did_you_mean"]
