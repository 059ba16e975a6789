"""The averaged weights that a module keeps of itself, which sampling uses: they are measured in place of the last."""

from collections.abc import Mapping

from torch import nn

from hopfield_replay.checkpoints.unsaved import sums
from hopfield_replay.denoisers.averages import Average, find_averages


def fingerprints(module: nn.Module) -> dict[str, list[str]]:
    """What a module's averages hold, by path: the sums of each tensor and of its squares.

    Example:
        >>> import torch
        >>> net = nn.Module()
        >>> net.online, net.ema = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(net.ema.requires_grad_(False).weight, 3.0)
        >>> fingerprints(net)
        {'ema': ['3.0 9.0']}
    """
    return {average.path: _fingerprint(average) for average in _averages(module)}


def take_average(module: nn.Module, before: Mapping[str, list[str]]) -> str | None:
    """Put the average that a checkpoint brought in the place of the trained weights.

    Args:
        module: with the checkpoint's weights.
        before: :func:`fingerprints` of the module as it was made: an average that is still the same was not loaded.

    Returns:
        Which weights the module has now, in words; None: those that were loaded, and it keeps no average.
    """
    held = _averages(module)
    loaded = [average for average in held if _fingerprint(average) != before.get(average.path)]
    if not loaded:
        return (
            f"weights; the average in {', '.join(average.path for average in held)} is not in the file"
            if held
            else None
        )
    if len(loaded) > 1:
        return f"weights; not the averages in {', '.join(average.path for average in loaded)}"
    for trained, average in loaded[0].pairs:
        trained.data = average.detach().to(trained.device, trained.dtype).clone()
    return f"averaged weights in {loaded[0].path}"


def _fingerprint(average: Average) -> list[str]:
    return [sums(held) for _, held in average.pairs]


def _averages(module: nn.Module) -> list[Average]:
    try:
        return find_averages(module)
    except Exception:  # of attributes of somebody's own kind
        return []


__all__ = ["fingerprints", "take_average"]
