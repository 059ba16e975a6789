"""EnergySettings: beta and similarity of a run, in one place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from hopfield_replay.functional.rows import Matrix
from hopfield_replay.memory.temperature import calibrate_beta, default_n_eff
from hopfield_replay.utilities.checks import Similarity, check_beta, check_similarity
from hopfield_replay.utilities.choices import did_you_mean


def as_beta(beta: float | Literal["auto"]) -> float | None:
    """An inverse temperature as it was given; None for ``"auto"``.

    Raises:
        ValueError, TypeError: neither a positive number nor ``"auto"``.

    Example:
        >>> as_beta("auto") is None, as_beta(2)
        (True, 2.0)
    """
    if isinstance(beta, str):
        if beta == "auto":
            return None
        raise ValueError(f'beta must be a number or "auto", got {beta!r}.{did_you_mean(beta, ("auto",))}')
    return check_beta(beta)


class EnergySettings:
    """Inverse temperature and similarity of all energies of a run: tracker, buffer and policies read this one object.

    Args:
        beta: inverse temperature, > 0; ``"auto"``: calibrated on the first samples that allow it, and then kept.
        similarity: ``"distance"`` or ``"dot"``.

    Attributes:
        beta: the inverse temperature; None until it is calibrated.
        similarity: of the energies.

    Raises:
        ValueError, TypeError: values out of range.

    Example:
        >>> import torch
        >>> settings = EnergySettings()
        >>> round(settings.calibrated(torch.arange(8.0)[:, None]), 3), settings.beta  # nothing is settled by asking
        (0.362, None)
    """

    def __init__(self, beta: float | Literal["auto"] = "auto", similarity: Similarity = "distance") -> None:
        check_similarity(similarity)
        self.beta: float | None = as_beta(beta)
        self.similarity: Similarity = similarity

    def __repr__(self) -> str:
        beta = "auto" if self.beta is None else f"{self.beta:.6g}"
        return f"EnergySettings(beta={beta}, similarity={self.similarity!r})"

    def calibrated(self, vectors: Matrix) -> float:
        """The inverse temperature, or, while there is none, the one for these vectors (N, d), N >= 3.

        Raises:
            ValueError: too few vectors, or vectors that no beta tells apart.
        """
        if self.beta is not None:
            return self.beta
        return calibrate_beta(vectors, n_eff=default_n_eff(len(vectors)), similarity=self.similarity)

    @contextmanager
    def at(self, beta: float | None) -> Iterator[None]:
        """Use another inverse temperature inside the block, for samples on which it cannot be calibrated; None: this.

        Example:
            >>> settings = EnergySettings()
            >>> with settings.at(2.0):
            ...     settings.beta
            2.0
            >>> settings.beta is None
            True
        """
        if beta is None:
            yield
            return
        before, self.beta = self.beta, check_beta(beta)
        try:
            yield
        finally:
            self.beta = before

    def agree(self, beta: float | Literal["auto"], similarity: Similarity | None, owner: str, other: str) -> None:
        """Take over a beta where there is none yet, and refuse one, or a similarity, that is not this.

        Args:
            beta: what the other side was given; ``"auto"``: nothing.
            similarity: the same; None: nothing.
            owner: who holds these settings, for the message.
            other: who was given the others.

        Raises:
            ValueError: two different values; both are named.
        """
        if similarity is not None:
            check_similarity(similarity)
            if similarity != self.similarity:
                raise ValueError(
                    f"{other} has similarity={similarity!r}, but {owner} has similarity={self.similarity!r}; energies "
                    f"of both must be of one kind. Give {owner} similarity={similarity!r}, or leave it out of {other}."
                )
        value = as_beta(beta)
        if value is None:
            return
        if self.beta is not None and value != self.beta:
            raise ValueError(
                f"{other} has beta={value:.10g}, but {owner} has beta={self.beta:.10g}; energies of both must be at "
                f"one temperature. Give both the same, or leave it out of {other}."
            )
        self.beta = value
