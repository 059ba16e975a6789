"""The nearest patterns of many: looked for in float32, a piece at a time, and made sure of in float64."""

import torch
from torch import Tensor

from hopfield_replay.functional._engine import split
from hopfield_replay.functional._engine.scores import coarse_float32, exact_float32, squared_norms
from hopfield_replay.functional._engine.split_nearest import nearest as nearest_by_parts
from hopfield_replay.functional.rows import Matrix, pieces
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.device import widest, without_autocast

_MORE = 22  # are looked for beside the k nearest
_BLOCK = 1 << 23  # numbers of a piece, and of the products with it: 32 MB each
_DIFFERENCES = 1 << 22  # numbers of differences at a time: 32 MB in float64
_MANY = 10**10  # multiplications from which on they are done coarsely first, or on a GPU of parts
_ASKED = 1 << 25  # numbers of the queries that are asked together on a GPU
_SAMPLED = 512  # rows whose mean is the centre
_UNIT = 2.0**-24  # relative rounding of float32
_TINIEST = 2.0**-120  # of a product of numbers that are too small for float32
_COARSE = 2.0**-8  # of a product of two numbers of 8 bits
_FEW = 32  # patterns that may all be compared by differences
_SUM = 8.0  # a sum of d products is off by more than so many times sqrt(d) roundings with a chance of 3e-14


def is_many(queries: int, patterns: Matrix) -> bool:
    """Whether distances between so many are better looked for before they are computed."""
    return queries * patterns.shape.numel() >= _MANY


class Nearest:
    r"""The k nearest patterns of each query.

    Half the squared distance is :math:`|y|^2/2 - \langle x, y\rangle` and a number that does not depend on y. The
    k + 22 smallest of these in float32 are computed again as differences in float64; where the k-th of them is not
    smaller than all others can be, that query is asked in float64 alone. Of very many they are computed coarsely before
    (see :class:`NearestOne`), and in float32 where that does not tell; on a GPU that can, of bfloat16 parts in place of
    both (:func:`~hopfield_replay.functional._engine.split_nearest.nearest`).

    Args:
        queries: (n, d).
        patterns: (N, d), N >= k, one more with ``exclude``.
        k: >= 1.
        exclude: (n,) pattern that each query is, -1 for none; None: none.

    Source: Higham, Mary, "A new approach to probabilistic rounding error analysis" (2019), theorem 2.4, for the bound.
    """

    def __init__(self, queries: Matrix, patterns: Matrix, k: int, exclude: Tensor | None) -> None:
        self._queries, self._patterns, self._k, self._exclude = queries, patterns, k, exclude
        # any vector near them serves as the centre; float32, so that subtracting it rounds each difference once
        some = patterns[:: max(1, -(-len(patterns) // _SAMPLED))]
        self._centre = some.to(widest(some.device)).mean(0).float()
        self._more = min(k + _MORE, len(patterns))

    def distances(self) -> Tensor:
        """Distance of each query to its k-th nearest pattern, (n,) float64."""
        return self.nearest()[:, -1]

    def nearest(self) -> Tensor:
        """Distances of each query to its k nearest patterns, (n, k) float64, ascending."""
        distances = torch.empty(len(self._queries), self._k, dtype=torch.float64, device=self._queries.device)
        left, many = torch.arange(len(distances)), is_many(len(distances), self._patterns)
        looks = [self._exactly]
        if many and split.available(distances.device):
            looks = [self._by_parts, *looks]
        else:
            looks = [*([self._coarsely] if many and distances.device.type == "cpu" else []), self._finely, *looks]
        for look in looks:
            if len(left):
                found, sure = look(left)
                distances[left.to(distances.device)] = found
                left = left[~sure.cpu()]
        return distances

    def _coarsely(self, which: Tensor) -> tuple[Tensor, Tensor]:
        return self._look(which, torch.float32, coarse=True)

    def _finely(self, which: Tensor) -> tuple[Tensor, Tensor]:
        return self._look(which, torch.float32)

    def _exactly(self, which: Tensor) -> tuple[Tensor, Tensor]:
        return self._look(which, torch.float64)

    def _by_parts(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`_look`, on a GPU's tensor cores."""
        tiles, place = PatternTiles.of_rows(self._patterns), self._queries.device
        answers = []
        try:
            for part in which.split(max(1, _ASKED // max(512, self._queries.shape[1]))):
                index = part.to(place)
                own = None if self._exclude is None else self._exclude[index]
                with without_autocast(place):
                    squares, sure = nearest_by_parts(
                        self._queries[index], self._centre, tiles, self._k, self._k + _MORE, own
                    )
                answers.append((squares.sqrt(), sure))
        except split.KernelError as error:
            split.give_up(place, error)
            return self._finely(which)
        return torch.cat([distances for distances, _ in answers]), torch.cat([sure for _, sure in answers])

    def _look(self, which: Tensor, dtype: torch.dtype, *, coarse: bool = False) -> tuple[Tensor, Tensor]:
        """Distances of some queries, and whether nothing nearer can have been missed."""
        parts = which.split(max(1, _BLOCK // max(1, self._queries.shape[1])))
        answers = [self._of(part, dtype, coarse) for part in parts]
        return torch.cat([distances for distances, _ in answers]), torch.cat([sure for _, sure in answers])

    def _of(self, which: Tensor, dtype: torch.dtype, coarse: bool) -> tuple[Tensor, Tensor]:
        device = self._queries.device
        moved = self._queries[which.to(device)].to(torch.float64) - self._centre
        x = moved.to(dtype)
        own = None if self._exclude is None else self._exclude[which.to(device)]
        values = torch.full((len(which), self._more), torch.inf, dtype=dtype, device=device)
        places = torch.zeros(len(which), self._more, dtype=torch.int64, device=device)
        largest, reach = 0.0, torch.zeros_like(x[:1])
        numbers = min(_BLOCK, _BLOCK // max(1, len(which)) * self._patterns.shape[1])
        for start, piece in pieces(self._patterns, numbers):
            near = piece.to(torch.promote_types(piece.dtype, dtype)).sub(self._centre).to(dtype)
            half = 0.5 * near.square().sum(1)
            largest = max(largest, float(half.max()))
            if coarse:
                reach = torch.maximum(reach, near.abs().amax(0))
            with coarse_float32(device) if coarse else exact_float32(device), without_autocast(device):
                scores = torch.addmm(half, x, near.T, alpha=-1.0)
            if own is not None:
                here = ((own >= start) & (own < start + len(near))).nonzero().flatten()
                scores[here, own[here] - start] = torch.inf
            best, column = scores.topk(min(self._more, len(near)), dim=1, largest=False)
            values, order = torch.cat([values, best], 1).topk(self._more, dim=1, largest=False)
            places = torch.cat([places, column + start], 1).gather(1, order)
        exact = torch.cat([self._differences(*part) for part in self._parts(moved, places)])
        exact = exact.masked_fill_(values == torch.inf, torch.inf).sort(dim=1).values
        nearest, kth = exact[:, : self._k].sqrt(), exact[:, self._k - 1]
        if self._more == len(self._patterns) or dtype == torch.float64:
            return nearest, torch.ones_like(kth, dtype=torch.bool)
        # no pattern that was left out is nearer than the last that was not, but for rounding
        norms = moved.square().sum(1)
        rounding = _UNIT * _SUM * moved.shape[1] ** 0.5 * ((2 * largest * norms).sqrt() + largest)
        rounding = rounding + _COARSE * _SUM * x.mul(reach).norm(dim=1) + _TINIEST * moved.shape[1]
        least = 2 * (values.amax(1).to(torch.float64) - rounding) + norms
        return nearest, kth <= least

    def _parts(self, moved: Tensor, places: Tensor) -> list[tuple[Tensor, Tensor]]:
        step = max(1, _DIFFERENCES // max(1, self._more * moved.shape[1]))
        return list(zip(moved.split(step), places.split(step), strict=True))

    def _differences(self, moved: Tensor, places: Tensor) -> Tensor:
        """Squared distances (m, more), through differences: a product leaves 1e-7 of the norm where copies are."""
        near = self._patterns[places.flatten()].to(torch.float64).sub_(self._centre).view(*places.shape, -1)
        return near.sub_(moved[:, None]).square_().sum(2)


class NearestOne:
    r"""Which of a few patterns is the nearest to each of many queries.

    The scores :math:`|y|^2/2 - \langle x, y\rangle` are computed coarsely (see
    :func:`~hopfield_replay.functional._engine.scores.coarse_float32`): rounding x and y to 8 bits moves one by at most
    :math:`8 \cdot 2^{-8} (\sum_i x_i^2 \max_y y_i^2)^{1/2}` but for a chance of 3e-14, as the roundings of the terms
    are independent. Patterns whose scores come within twice that of the smallest are compared by differences; where
    these are many, the scores are computed again in float32 and the smallest of them compared.

    Args:
        patterns: (k, d).
    """

    def __init__(self, patterns: Tensor) -> None:
        self._patterns = patterns
        dtype = torch.promote_types(patterns.dtype, torch.float32)
        self._centre = patterns.mean(0, dtype=dtype)
        self._near = patterns.to(dtype).sub(self._centre).float()
        self._half = 0.5 * self._near.square().sum(1)
        self._reach = self._near.abs().amax(0)
        self._longest = float(self._half.max()) ** 0.5 * 2**0.5

    def of(self, queries: Tensor) -> Tensor:
        """Index (n,) of the nearest pattern of each query (n, d); of equally near ones the first."""
        x = queries.to(self._centre.dtype).sub(self._centre).float()
        rounding = _UNIT * _SUM * x.shape[1] ** 0.5 * self._longest * x.norm(dim=1)
        with coarse_float32(x.device), without_autocast(x.device):
            scores = torch.addmm(self._half, x, self._near.T, alpha=-1.0)
        margin = 2 * (_COARSE * _SUM * x.mul(self._reach).norm(dim=1) + rounding)
        close = scores <= (scores.amin(1) + margin)[:, None]
        counts = close.sum(1)
        nearest = scores.argmin(1)
        many = (counts > _FEW).nonzero().flatten()
        if len(many):
            with exact_float32(x.device), without_autocast(x.device):
                scores = torch.addmm(self._half, x[many], self._near.T, alpha=-1.0)
            best = scores.topk(min(_FEW, scores.shape[1]), dim=1, largest=False)
            within = best.values <= (best.values[:, 0] + 2 * rounding[many])[:, None]
            close[many] = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best.indices, within)
        rows, columns = (close & (counts > 1)[:, None]).nonzero(as_tuple=True)
        if len(rows):
            step = max(1, _DIFFERENCES // queries.shape[1])
            pairs = zip(rows.split(step), columns.split(step), strict=True)
            squares = torch.cat([self._squares(queries[row], self._patterns[column]) for row, column in pairs])
            least = torch.full_like(rounding, torch.inf, dtype=squares.dtype)
            least.scatter_reduce_(0, rows, squares, "amin")
            first = squares == least[rows]
            nearest.index_fill_(0, rows, len(self._near)).scatter_reduce_(0, rows[first], columns[first], "amin")
        return nearest

    @staticmethod
    def _squares(x: Tensor, y: Tensor) -> Tensor:
        """Squared distances of pairs, through differences."""
        return squared_norms(x.sub(y))


__all__ = ["Nearest", "NearestOne", "is_many"]
