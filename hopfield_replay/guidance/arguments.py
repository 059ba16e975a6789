"""What a guidance is made of, checked: samples, their labels, and the strength."""

from torch import Tensor

from hopfield_replay.functional import PatternTiles
from hopfield_replay.memory.memory import HopfieldMemory

Samples = Tensor | PatternTiles | HopfieldMemory


def check_strength(strength: float) -> float:
    """Return the strength as a float in [0, 1]."""
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        raise TypeError(f"strength must be a number in [0, 1] or a function of the timestep, got {strength!r}.")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength is the share of samples to come from the memory, in [0, 1], got {strength}.")
    return float(strength)


def tiles_of(samples: Samples, name: str, least: int) -> PatternTiles:
    """Return samples as tiles, at least so many."""
    if isinstance(samples, HopfieldMemory):
        if samples.similarity != "distance":
            raise ValueError(f'{name} has similarity="dot"; noisy samples are compared by "distance".')
        held = samples.patterns
        tiles = PatternTiles(held, masses=samples.masses) if isinstance(held, Tensor) else held
    elif isinstance(samples, Tensor):
        tiles = PatternTiles(samples)
    elif isinstance(samples, PatternTiles):
        tiles = samples
    else:
        given = type(samples).__name__
        raise TypeError(f"{name} must be a tensor (N, *shape), PatternTiles or a HopfieldMemory, got {given}.")
    if len(tiles) < least:
        raise ValueError(f"{name} holds {len(tiles)} samples and needs at least {least}.")
    return tiles


def check_labels(labels: Tensor | None, tiles: PatternTiles, name: str) -> Tensor | None:
    """Return one label for each sample, on the CPU."""
    if labels is None:
        return None
    if tiles.resident is None:
        raise TypeError(f"{name} need the samples as one tensor, not in batches.")
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        raise TypeError(f"{name} must be a tensor of whole numbers, one for each sample.")
    if labels.shape != (len(tiles),):
        raise ValueError(f"{name} must have shape ({len(tiles)},), one for each sample, got {tuple(labels.shape)}.")
    return labels.cpu()


def of_label(tiles: PatternTiles, labels: Tensor | None, label: int) -> PatternTiles | None:
    """The samples of one label; None if there are none, or no labels."""
    if labels is None or tiles.resident is None:
        return None
    rows = (labels == label).nonzero().flatten().to(tiles.resident.device)
    if not len(rows):
        return None
    return PatternTiles(tiles.resident[rows], masses=None if tiles.masses is None else tiles.masses[rows])


__all__ = ["Samples", "check_labels", "check_strength", "of_label", "tiles_of"]
