"""What each query leaves out of a tile of patterns, and the mass of the rest."""

import torch
from torch import Tensor

from hopfield_replay.functional.tiles import Tile


def own_columns(exclude: Tensor | None, tile: Tile) -> Tensor | None:
    """Column of the tile that each query leaves out, (n,), -1 where that lies elsewhere; None if it is so for all."""
    if exclude is None:
        return None
    own = exclude - tile.start
    own.masked_fill_((exclude < 0) | (own < 0) | (own >= len(tile.patterns)), -1)
    return own if bool((own >= 0).any()) else None


def leave_out(block: Tensor, own: Tensor | None, value: float) -> None:
    """Overwrite the score of each query's own pattern where this tile holds it."""
    if own is not None:
        rows = (own >= 0).nonzero().flatten()
        block[rows, own[rows]] = value


def tile_mass(tile: Tile, own: Tensor | None) -> Tensor:
    """Mass of the tile for each query, (n,), or () if it is the same for all: never by subtraction, which cancels."""
    masses = tile.masses
    if masses is None:
        masses = torch.ones(len(tile.patterns), dtype=torch.float64, device=tile.patterns.device)
    if own is None:
        return masses.sum()
    zero = masses.new_zeros(1)
    before = torch.cat([zero, masses.cumsum(0)])
    after = torch.cat([masses.flip(0).cumsum(0).flip(0), zero])
    return torch.where(own >= 0, before[own.clamp(min=0)] + after[own + 1], before[-1])
