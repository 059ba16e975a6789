"""Which of torch's two float32 products on the CPU is the faster one here: that of its BLAS, or oneDNN's."""

import os
import time
from functools import cache
from statistics import median

import torch
from torch import Tensor

SWITCH = "HOPFIELD_REPLAY_ONEDNN"  # environment variable: 0 never, 1 always, otherwise by timing
_ACCURATE = 256  # up to this dimension oneDNN errs as little as BLAS does
_MANY = 1024  # queries from which on the time that is gained is more than that of converting the patterns
_WIDEST = 4096  # timing at a larger dimension would tell the same and take longer


def chosen(d: int, accurate: bool = False, queries: int = _MANY) -> bool:
    """Whether to multiply vectors of dimension d with oneDNN, for so many queries.

    It adds up products in longer runs than BLAS does: at d = 784 it errs two to three times as much. Ask for
    ``accurate`` where nothing corrects this, and such dimensions are left to BLAS.

    Timed once for a dimension in a process. The two products round differently, by about 1e-7 of |x| |xi|: set the
    environment variable HOPFIELD_REPLAY_ONEDNN to 0 or 1 for results that are the same to the bit in every process.
    """
    switch = os.environ.get(SWITCH, "auto")
    if switch not in ("0", "1", "auto"):
        raise ValueError(f"the environment variable {SWITCH} must be 0, 1 or auto, got {switch!r}.")
    if switch == "0" or not torch.backends.mkldnn.is_available():
        return False
    if accurate and d > _ACCURATE:
        return False
    return switch == "1" or (queries >= _MANY and _is_faster(min(d, _WIDEST), torch.get_num_threads()))


@cache
def _is_faster(d: int, threads: int) -> bool:
    rows, columns = 256, 1024
    generator = torch.Generator().manual_seed(0)
    x, patterns = (torch.randn(size, d, generator=generator) for size in (rows, columns))
    bias, out = torch.zeros(columns), torch.empty(rows, columns)
    converted = patterns.to_mkldnn()
    ratios = []
    for _ in range(4):
        start = time.perf_counter()
        torch.addmm(bias, x, patterns.T, out=out)
        middle = time.perf_counter()
        linear(x, converted, bias, out)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return median(ratios[1:]) < 0.9


def linear(queries: Tensor, converted: Tensor, bias: Tensor, out: Tensor) -> None:
    """Write queries @ patterns^T + bias to ``out``, for patterns converted with ``to_mkldnn()``."""
    out.copy_(torch.nn.functional.linear(queries.to_mkldnn(), converted, bias.to_mkldnn()).to_dense())
