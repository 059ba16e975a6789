"""What the kernels for split products compute, in plain torch: with the tensor cores' way of adding up."""

import pytest
import torch

from hopfield_replay.functional._engine import split

MULTIPLIED = 16  # coordinates that a tensor core adds up at once
BLOCK = 64  # coordinates after which the kernel adds with rounding


def cut_off(x):
    """To float32, towards zero: "Numerical behavior of NVIDIA tensor cores" (Fasi, Higham, Mikaitis, Pranesh, 2021)."""
    rounded = x.float()
    too_large = rounded.double().abs() > x.abs()
    return torch.where(too_large, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)


def tensor_core(x, y, total=None):
    """Products of bfloat16 vectors, added up in float32 that is cut off after every few coordinates."""
    total = x.new_zeros(len(x), len(y), dtype=torch.float32) if total is None else total
    for start in range(0, x.shape[1], MULTIPLIED):
        some = slice(start, start + MULTIPLIED)
        total = cut_off(total.double() + x[:, some].double() @ y[:, some].double().T)
    return total


def parts(points, centre, terms):
    moved = points.double() - centre.double()
    rest = moved.float()
    count, depth = split.parts_for(terms), split.padded(points.shape[1])
    result = torch.zeros(count, len(points), depth, dtype=torch.bfloat16)
    for part in range(count):
        rounded = rest.bfloat16()
        result[part, :, : points.shape[1]] = rounded
        rest = rest - rounded.float()
    kept = moved.float().double() - (rest.double() if terms > 3 else 0.0)
    return split.Parts(result, kept.square().sum(1), moved @ centre.double())


def strips(x, y, bias, scale, own, terms, tiles, *, square=False, scores=False, config=None):
    pairs = [(0, 2), (2, 0), (1, 1), (0, 1), (1, 0), (0, 0)][-terms:]
    products = torch.zeros(x.shape[1], y.shape[1])
    for start in range(0, x.shape[2], BLOCK):
        part = None
        for i, j in pairs:
            part = tensor_core(x[i][:, start : start + BLOCK], y[j][:, start : start + BLOCK], part)
        products += part
    values = (products.double() * scale + bias.double()).float()  # one rounding: a fused multiplication
    if own is not None:
        rows = (own >= 0).nonzero().flatten()
        values[rows, own[rows].long()] = -torch.inf
    span = split.COLUMNS * tiles
    padding = values.new_full((len(values), -len(y[0]) % span), -torch.inf)
    blocks = torch.cat([values, padding], 1).view(len(values), -1, span // split.WIDTH, split.WIDTH)
    top = blocks.amax(2)
    weights = (blocks - top.masked_fill(top == -torch.inf, 0.0)[:, :, None]).exp2()
    squares = weights.square().sum(2).flatten(1) if square else None
    written = values if scores else None
    return split.Strips(top.flatten(1), weights.sum(2).flatten(1), squares, written, tiles)


def exact(x, y, centre, rows, firsts, size, *, dot):
    columns = firsts[:, None] + split.WIDTH * torch.arange(size)
    near, query = y.double()[columns.clamp(max=len(y) - 1)], x.double()[rows, None]
    return (query * (near - centre.double())).sum(2) if dot else (query - near).square().sum(2)


@pytest.fixture
def emulated(monkeypatch):
    """Split products on the CPU, as on a GPU."""
    for name, function in (("split", parts), ("strips", strips), ("exact", exact)):
        monkeypatch.setattr(split, name, function)
    monkeypatch.setattr(split, "available", lambda device: True)
