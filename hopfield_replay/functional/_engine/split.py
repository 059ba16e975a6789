"""float32 products out of bfloat16 ones on a GPU's tensor cores: parts of vectors, and sums of strips of scores."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.utilities.distributed import SharedError
from hopfield_replay.utilities.memory import is_out_of_memory

COLUMNS = 128  # of a tile of scores
WIDTH = 8  # strips of a tile: every 8th column, all of which one thread holds of a tensor core's result
_GROUP = 8
_ALIGNED = 64  # coordinates are padded to a multiple of this
_NARROW = 512  # three parts below this dimension, two from it on: their errors average out over coordinates
_SPLIT_BLOCK, _EXACT_BLOCK = 1024, 64


@dataclass(frozen=True)
class Config:
    """How the kernel runs: rows of a tile, coordinates at a time, warps, loads in flight."""

    rows: int
    block: int
    warps: int
    stages: int


_CONFIGS = {  # for two parts and for three
    2: (Config(128, 64, 8, 3), Config(128, 32, 8, 4), Config(64, 64, 4, 3)),
    3: (Config(128, 64, 8, 2), Config(128, 32, 8, 3), Config(64, 64, 4, 2)),
}
_chosen: dict[tuple[Any, ...], Config] = {}
_broken: set[torch.device] = set()


@cache
def _kernels() -> Any:
    """The kernels, or None without Triton, which comes with torch for CUDA."""
    try:
        from hopfield_replay.functional._engine import split_kernels
    except ImportError:
        return None
    return split_kernels


def terms_for(d: int, fast: bool) -> int:
    """How many products of parts add up to one of vectors.

    6, of three parts, is as exact as float32. 4, all those of two parts, errs by 2^-18 |x| |xi| / sqrt(d), and by 0 of
    two copies. 3 lacks the product of the small parts, which is 2e-6 |x|^2 for a copy and averages out otherwise.
    """
    return 6 if d < _NARROW else 3 if fast else 4


def parts_for(terms: int) -> int:
    """Number of bfloat16 numbers that add up to one."""
    return 3 if terms == 6 else 2


def tiles_for(d: int) -> int:
    """Tiles of one program, and so strips of 16 columns that share a maximum: more where a tile is done soon."""
    return max(1, min(8, 1024 // max(1, d)))


def padded(d: int) -> int:
    """Coordinates of the parts, with zeros after the vector's own."""
    return -(-max(d, 1) // _ALIGNED) * _ALIGNED


def available(device: torch.device) -> bool:
    """Whether the kernel can run on a device: NVIDIA's GPUs since Ampere, unless it failed there before."""
    if device.type != "cuda" or device in _broken or torch.version.hip is not None or not torch.cuda.is_available():
        return False
    if torch.__version__ < "2.8":  # the first whose torch.mm takes out_dtype, for the weighted mean of the patterns
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) and _kernels() is not None


class KernelError(SharedError, RuntimeError):
    """A kernel could not be compiled or launched."""


@contextmanager
def _launching(x: Tensor) -> Iterator[None]:
    """Launch on the GPU that the numbers are on; lack of memory stays what it is."""
    try:
        # Triton launches on the process's current GPU, wherever the numbers are
        with torch.cuda.device_of(x) if x.device.type == "cuda" else nullcontext():
            yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = (str(error).splitlines() or [""])[0]
        raise KernelError(f"{type(error).__name__}: {said}") from error


def give_up(device: torch.device, error: KernelError) -> None:
    """Remember that the kernels do not run here, and say so once."""
    _broken.add(device)
    warnings.warn(
        f"The kernels for split products do not run on {device} ({error}). Energies are computed with float32 "
        "products there: as exact, and slower.",
        stacklevel=2,
    )


@dataclass(frozen=True)
class Parts:
    """Centred vectors as sums of bfloat16 ones.

    Attributes:
        parts: (parts, m, padded d) bfloat16, of falling size.
        squares: (m,) float64 squared norms: of the centred vectors for 3 terms, of the sums of the parts otherwise.
        linear: (m,) float64 products of the centred vectors with the centre.
    """

    parts: Tensor
    squares: Tensor
    linear: Tensor


def split(points: Tensor, centre: Tensor, terms: int) -> Parts:
    """Centre vectors (m, d) at a float32 centre (d,), round to float32 and split each number."""
    count = parts_for(terms)
    m, d = points.shape
    points = points if points.stride(1) == 1 else points.contiguous()
    depth = padded(d)
    parts = torch.empty(count, m, depth, dtype=torch.bfloat16, device=points.device)
    squares, linear = (torch.empty(m, dtype=torch.float64, device=points.device) for _ in range(2))
    if m:
        with _launching(points):
            _kernels().split_rows[(m,)](
                points,
                centre,
                parts,
                squares,
                linear,
                m,
                d,
                depth,
                points.stride(0),
                m * depth,
                PARTS=count,
                ROUNDED=terms > 3,
                BLOCK=min(_SPLIT_BLOCK, depth & -depth),
            )
    return Parts(parts, squares, linear)


@dataclass(frozen=True)
class Strips:
    """Scores of a block, by strips of every 8th column of a span of ``COLUMNS * tiles`` columns.

    Attributes:
        maxima: (rows, strips) largest score; -inf where nothing counts.
        totals: (rows, strips) sum of 2^(u - maximum).
        squares: (rows, strips) sum of 4^(u - maximum), or None.
        scores: (rows, columns) the scores, or None.
        tiles: see :func:`tiles_for`.
    """

    maxima: Tensor
    totals: Tensor
    squares: Tensor | None
    scores: Tensor | None
    tiles: int

    @property
    def size(self) -> int:
        """Columns of a strip."""
        return COLUMNS // WIDTH * self.tiles

    def first(self, strip: Tensor) -> Tensor:
        """First column of strips; the others follow at distances of 8."""
        width = WIDTH
        return strip // width * (COLUMNS * self.tiles) + strip % width


def strips(
    x: Tensor,
    y: Tensor,
    bias: Tensor,
    scale: float,
    own: Tensor | None,
    terms: int,
    tiles: int,
    *,
    square: bool = False,
    scores: bool = False,
    config: Config | None = None,
) -> Strips:
    """Strips of the scores scale <x, y> + bias.

    Args:
        x: (parts, rows, depth) bfloat16, contiguous.
        y: (parts, columns, depth) likewise; at least one column.
        bias: (columns,) float32.
        scale: factor of the products.
        own: (rows,) int32, the column that does not count for a row, -1 for none.
        terms: see :func:`terms_for`.
        tiles: see :func:`tiles_for`.
        square: also sum the squares.
        scores: also write the scores.
        config: how it runs; None: as it was found to be fastest here.
    """
    _, rows, depth = x.shape
    columns = y.shape[1]
    spans = -(-columns // (COLUMNS * tiles))
    maxima = bias.new_empty(rows, spans * WIDTH)
    totals = torch.empty_like(maxima)
    squares = torch.empty_like(maxima) if square else None
    written = bias.new_empty(rows, columns) if scores else None
    result = Strips(maxima, totals, squares, written, tiles)

    def launch(config: Config) -> None:
        _kernels().strips_of_products[(-(-rows // config.rows) * spans,)](
            x,
            y,
            bias,
            maxima if own is None else own,  # what is not asked for is not touched
            maxima,
            totals,
            maxima if squares is None else squares,
            maxima if written is None else written,
            rows,
            columns,
            maxima.shape[1],
            depth,
            rows * depth,
            columns * depth,
            scale,
            TERMS=terms,
            LEAVE_OUT=own is not None,
            SQUARE=square,
            SCORES=scores,
            WIDEN=x.device.type == "cpu",
            TILES=tiles,
            ROWS=config.rows,
            COLUMNS=COLUMNS,
            BLOCK=config.block,
            WIDTH=WIDTH,
            GROUP=_GROUP,
            num_warps=config.warps,
            num_stages=config.stages,
        )

    with _launching(x):
        if config is None:
            key = (x.device, terms, tiles, square, scores, min(depth, 1024))
            if key not in _chosen:
                _chosen[key] = _fastest(
                    launch, _CONFIGS[parts_for(terms)], lambda: _check(result, x, y, bias, scale, own)
                )
            config = _chosen[key]
        launch(config)
    return result


def _fastest(launch: Callable[[Config], None], configs: tuple[Config, ...], check: Callable[[], None]) -> Config:
    """The fastest of a few ways to run, of those that run and give what they should."""
    times: dict[Config, float] = {}
    failed: BaseException | None = None
    for config in configs:
        try:
            launch(config)
            check()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            launch(config)
            end.record()
            end.synchronize()
            times[config] = begin.elapsed_time(end)
        except Exception as error:  # more registers or memory than there are, a compiler that cannot
            failed = error
    if not times:
        assert failed is not None
        raise failed
    return min(times, key=lambda config: times[config])


def _check(found: Strips, x: Tensor, y: Tensor, bias: Tensor, scale: float, own: Tensor | None) -> None:
    """Compare some strips with what torch gives.

    Raises:
        ArithmeticError: the kernel was compiled to something else than it says.
    """
    rows, columns = min(64, x.shape[1]), min(COLUMNS * found.tiles, y.shape[1])
    query, stored = (part.double().sum(0) for part in (x[:, :rows], y[:, :columns]))
    scores = torch.addmm(bias[:columns].double(), query, stored.T, alpha=scale)
    if own is not None:
        scores.masked_fill_(torch.arange(columns, device=x.device) == own[:rows, None], -torch.inf)
    padding = scores.new_full((rows, COLUMNS * found.tiles - columns), -torch.inf)
    by_strip = torch.cat([scores, padding], 1).view(rows, -1, WIDTH)
    expected = by_strip.mul_(math.log(2)).logsumexp(1).div_(math.log(2))
    given = found.totals[:rows, :WIDTH].double().log2() + found.maxima[:rows, :WIDTH]
    size = scale * float(query.norm(dim=1).amax() * stored.norm(dim=1).amax()) + float(
        bias[:columns].nan_to_num(neginf=0.0).abs().amax()
    )
    alike = ((given - expected).abs() <= 1e-4 * size + 1e-3) | ((given == -torch.inf) & (expected == -torch.inf))
    if not bool((alike | expected.isnan() | (expected == torch.inf)).all()):
        raise ArithmeticError("its results differ from torch's")


def exact(x: Tensor, y: Tensor, centre: Tensor, rows: Tensor, firsts: Tensor, size: int, *, dot: bool) -> Tensor:
    """|x - y|^2, or <x, y - centre>, of queries ``rows`` (p,) and the columns firsts, firsts + 8, ..., (p, size)."""
    x, y = (t if t.stride(1) == 1 else t.contiguous() for t in (x, y))
    results = torch.empty(len(rows), size, dtype=torch.float64, device=x.device)
    if len(rows):
        with _launching(x):
            _kernels().exact_strips[(len(rows),)](
                x,
                y,
                centre,
                rows,
                firsts,
                results,
                len(y),
                x.shape[1],
                x.stride(0),
                y.stride(0),
                DOT=dot,
                SIZE=size,
                WIDTH=WIDTH,
                BLOCK=_EXACT_BLOCK,
            )
    return results
