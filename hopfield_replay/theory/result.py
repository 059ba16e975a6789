"""What every experiment hands back: numbers, a table, a figure, and the statements that the numbers support."""

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from hopfield_replay.utilities.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result(ABC):
    """Base of the result dataclasses; their fields hold plain Python values only.

    Attributes:
        statement: what the experiment puts to the test, one sentence.
    """

    statement: ClassVar[str]

    @abstractmethod
    def table(self) -> str:
        """Return the numbers as a Markdown table."""

    @abstractmethod
    def figure(self) -> "Figure":
        """Return a matplotlib figure (needs ``pip install 'hopfield-replay[tensorboard]'``)."""

    @abstractmethod
    def verdict(self) -> str:
        """Return whether the statement holds, always or on average, and where it stops; worked out from the numbers."""

    @abstractmethod
    def findings(self) -> list[str]:
        """Return the statements that these numbers support, one sentence each, worked out from the numbers."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as nested dicts and lists, ready for ``json.dumps``."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # subclasses are dataclasses


__all__ = ["Result", "markdown_table"]
