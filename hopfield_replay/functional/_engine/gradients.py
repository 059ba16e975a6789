"""The energy as a function autograd can differentiate once: the gradient is x - retrieval, from the same pass."""

from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional._engine.arguments import Arguments
from hopfield_replay.functional._engine.logsumexp import Sums
from hopfield_replay.functional._engine.scores import LOG2_E, Scores, TileShape
from hopfield_replay.functional._engine.stream import stream
from hopfield_replay.functional._engine.tile_sums import leave_out, own_columns
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.checks import Similarity


def energy_of(queries: Tensor, sums: Sums, beta: float, similarity: Similarity, normalize: bool) -> Tensor:
    """Energies (n,) from the sums of a pass; +inf where nothing was summed."""
    logarithm = sums.log_mean if normalize else sums.logsumexp
    if similarity == "distance":
        return -logarithm / beta
    square: Tensor = torch.linalg.vector_norm(queries, dim=1, dtype=torch.float64).square_()
    return 0.5 * square - logarithm / beta


class Energy(torch.autograd.Function):
    """Energy with gradients to the queries, the patterns and the masses; leave-one-out included."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        patterns: Tensor | None,
        masses: Tensor | None,
        arguments: Arguments,
        normalize: bool,
        centre: Tensor | None,
    ) -> Tensor:
        """Run one pass; it sums the patterns as well only if the queries want a gradient."""
        sums = stream(
            queries,
            arguments.patterns,
            arguments.beta,
            similarity=arguments.similarity,
            exclude=arguments.exclude,
            mean=ctx.needs_input_grad[0],
            precision=arguments.precision,
            centre=centre,
        )
        ctx.save_for_backward(queries, patterns, masses, sums.mean, sums.log_mass, sums.log_mean)
        ctx.arguments, ctx.normalize = arguments, normalize
        return energy_of(queries, sums, arguments.beta, arguments.similarity, normalize)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient x - retrieval to the queries; one more pass for patterns and masses, in float64."""
        if torch.is_grad_enabled():
            # otherwise a second derivative would silently lack this term
            raise RuntimeError(
                "energy() can be differentiated once, and its gradient has no graph (create_graph=True was asked for). "
                "The gradient itself is x - retrieve(x, ...)."
            )
        queries, patterns, masses, mean, log_mass, log_mean = ctx.saved_tensors
        to_queries = to_patterns = to_masses = None
        if ctx.needs_input_grad[0]:
            to_queries = (grad[:, None] * (queries - mean)).to(queries.dtype)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            sums = Sums(log_mass, log_mean)
            moved, weighed = _to_patterns(grad, queries, patterns, masses, ctx.arguments, ctx.normalize, sums)
            to_patterns = moved.to(patterns.dtype) if ctx.needs_input_grad[1] else None
            to_masses = weighed if ctx.needs_input_grad[2] else None
        return to_queries, to_patterns, to_masses, None, None, None


def _to_patterns(
    grad: Tensor,
    queries: Tensor,
    patterns: Tensor,
    masses: Tensor | None,
    arguments: Arguments,
    normalize: bool,
    sums: Sums,
) -> tuple[Tensor, Tensor]:
    """Gradients of sum_i grad_i E(x_i) to patterns, (N, d), and masses, (N,).

    With e = exp(s_mu - log Z) these are w_mu e (xi_mu - x), or -w_mu e x in the dot form, and -e / beta, to which the
    normalisation of the masses adds 1 / (beta W).
    """
    beta, similarity, exclude = arguments.beta, arguments.similarity, arguments.exclude
    tiles = PatternTiles.of_checked(patterns.detach(), None if masses is None else masses.detach())
    known = tiles.centre
    centre = grad.new_zeros(queries.shape[1]) if known is None else known[1]
    shape = TileShape.of(queries)
    scores = Scores(queries.detach(), centre, beta, similarity, "float64", shape)
    empty = sums.log_mean == -torch.inf
    upstream = grad.masked_fill(empty, 0.0)
    level = ((sums.logsumexp - scores.offset()) * LOG2_E).masked_fill_(empty, 0.0)
    inverse_mass = upstream * (-sums.log_mass.masked_fill(empty, 0.0)).exp() / beta
    moved = torch.zeros(patterns.shape, dtype=torch.float64, device=patterns.device)
    weighed = torch.zeros(len(patterns), dtype=torch.float64, device=patterns.device)
    if normalize:
        weighed += inverse_mass.sum()
    for tile in tiles.tiles(shape.columns):
        ready = scores.ready(tile, masses=False)
        columns = slice(tile.start, tile.start + ready.width)
        own = own_columns(exclude, tile)
        if normalize and own is not None:
            rows = (own >= 0).nonzero().flatten()
            weighed[columns].index_add_(0, own[rows], -inverse_mass[rows])
        for number, window in enumerate(scores.blocks):
            block = scores.block(number, ready)[:, : ready.width]
            leave_out(block, None if own is None else own[window], -torch.inf)
            shares = block.sub_(level[window, None]).exp2_().mul_(upstream[window, None])
            weighed[columns] -= shares.sum(0) / beta
            if tile.masses is not None:
                shares *= tile.masses
            if similarity == "distance":
                near = queries.detach()[window] - centre
                moved[columns] += shares.sum(0)[:, None] * ready.centred - shares.T @ near
            else:
                moved[columns] -= shares.T @ queries.detach()[window].to(torch.float64)
    return moved, weighed
