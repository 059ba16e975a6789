"""The split-product kernels in Triton's interpreter, against float64: a program of its own, for it is chosen at import.

`TRITON_INTERPRET=1 python -m tests.functional._engine.interpreted [CASE ...]`; `--kernels FILE` takes them from there.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch

from hopfield_replay.functional import (
    PatternTiles,
    SparseAffinity,
    StreamedAffinity,
    effective_patterns,
    energy,
    energy_and_retrieval,
    sparse_affinity,
)
from hopfield_replay.functional._engine import split, split_nearest
from hopfield_replay.functional._engine.gradients import energy_of
from hopfield_replay.functional._engine.split_pass import sums_of
from hopfield_replay.functional._engine.split_scores import Plan

SMALL = split.Config(16, 32, 4, 1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def literal_strips(x, y, bias, scale, own, tiles):
    """Strip by strip, in float64."""
    scores = scale * (x.double() @ y.double().T) + bias.double()
    for row, column in enumerate(own.tolist()):
        if column >= 0:
            scores[row, column] = -torch.inf
    span = 128 * tiles
    found = []
    for start in range(0, len(y), span):
        for strip in range(8):
            found.append(scores[:, start + strip : min(start + span, len(y)) : 8])
    empty = scores.new_full((len(x), 1), -torch.inf)
    strips = [torch.cat([strip, empty], 1) for strip in found]
    top = torch.stack([strip.amax(1) for strip in strips], 1)
    sums = [
        torch.stack(
            [(power * (strip - strip.amax(1, keepdim=True))).exp2().nan_to_num(0.0).sum(1) for strip in strips], 1
        )
        for power in (1, 2)
    ]
    return scores, top, *sums


def parts():
    """The parts add up to the centred vectors; the interpreter rounds to bfloat16 by cutting off."""
    kinds = (torch.float32, 1), (torch.float16, 5), (torch.bfloat16, 64), (torch.float64, 100), (torch.float32, 1100)
    for dtype, d in kinds:
        points, centre = (random(7, d) + 3.0).to(dtype), random(d, seed=1)
        moved = points.double() - centre.double()
        for terms, error in ((3, 2.0**-14.9), (4, 2.0**-14.9), (6, 2.0**-22.9)):
            found = split.split(points, centre, terms)
            assert found.parts.shape == (split.parts_for(terms), 7, split.padded(d))
            assert not found.parts[:, :, d:].any()
            total = found.parts.double().sum(0)[:, :d]
            assert ((total - moved).abs() <= error * moved.abs()).all()
            kept = moved.float().double() if terms == 3 else total
            torch.testing.assert_close(found.squares, kept.square().sum(1), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found.linear, moved @ centre.double(), rtol=1e-12, atol=1e-12)


def strips():
    """Odd shapes: rows, columns and coordinates that are no multiple of a tile; one pattern; all left out."""
    for rows, columns, d, tiles in ((1, 1, 1, 1), (17, 130, 70, 1), (33, 300, 33, 2)):
        x, y = random(rows, d), random(columns, d, seed=1)
        bias = random(columns, seed=2)
        bias[columns // 2] = -torch.inf  # a mass of 0
        own = torch.arange(rows, dtype=torch.int32) * 7 % columns
        own[rows // 3 :: 2] = -1
        for terms in (3, 4, 6):
            halves = [split.split(points, torch.zeros(d), terms).parts for points in (x, y)]
            arguments = (*halves, bias, 1.7, own, terms, tiles)
            found = split.strips(*arguments, square=True, scores=True, config=SMALL)
            scores, top, total, square = literal_strips(x, y, bias, 1.7, own, tiles)
            close = {"rtol": 2e-3, "atol": 2e-3} if terms < 6 else {"rtol": 2e-5, "atol": 2e-5}
            here = top.shape[1]
            torch.testing.assert_close(found.scores.double(), scores, **close)
            torch.testing.assert_close(found.maxima[:, :here].double(), top, **close)
            torch.testing.assert_close(found.totals[:, :here].double(), total, **close)
            torch.testing.assert_close(found.squares[:, :here].double(), square, **close)
            split._check(found, *halves, bias, 1.7, own)
            first = found.first(torch.arange(here))
            expected = [start + strip for start in range(0, columns, 128 * tiles) for strip in range(8)]
            assert first.tolist() == expected[:here]


def problem(n=16, count=250, d=24, offset=0.0):
    """Clusters with |xi - c|^2 of about 64; the first queries are patterns, some of which occur several times."""
    centres = random(6, d, seed=3)
    patterns = centres[torch.arange(count) % 6] + random(count, d, seed=4)
    patterns *= (32 / d) ** 0.5
    patterns[200:210] = patterns[3]
    x = torch.cat([patterns[: n // 2], centres[:1] * (32 / d) ** 0.5 + random(n - n // 2, d, seed=5)])
    masses = torch.rand(count, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    masses[::9] = 0.0
    exclude = torch.full((n,), -1)
    exclude[: n // 2] = torch.arange(n // 2)
    return x + offset, patterns + offset, masses, exclude


def energies():
    """The whole pass in both forms, on centred and offset data, with masses and leave-one-out, in tiles and blocks."""
    tiles_for, split.tiles_for = split.tiles_for, lambda d: 1
    for offset, similarity, beta in ((0.0, "distance", 1e5), (8.6, "distance", 0.5), (8.6, "dot", 1e3)):
        x, patterns, masses, exclude = problem(offset=offset)
        tiles = PatternTiles([(patterns[:200], masses[:200]), (patterns[200:], masses[200:])])
        centre, plan = tiles.centre[1], Plan(9, 128)
        options = {"masses": masses, "similarity": similarity}
        sums = sums_of(x, centre, beta, similarity, tiles, exclude, True, False, False, plan)
        exact = energy(x, patterns, beta, exclude=exclude, precision="float64", **options)
        error = (energy_of(x, sums, beta, similarity, True) - exact).abs().max()
        assert error < 1e-5, (offset, similarity, beta, error)
        count = effective_patterns(x, patterns, beta, exclude=exclude, precision="float64", **options)
        torch.testing.assert_close(1 / sums.concentration, count, rtol=1e-4, atol=1e-4)
    sums = sums_of(x[8:], centre, 2.0, similarity, tiles, None, False, True, False, plan)
    mean = energy_and_retrieval(x[8:], patterns, 2.0, precision="float64", **options).retrieval
    torch.testing.assert_close(sums.mean, mean, rtol=0, atol=1e-4)
    split.tiles_for = tiles_for


def edges():
    """One pattern; all patterns left out; all masses 0; no queries."""
    one = random(1, 5)
    for exclude, masses, expected in ((None, None, 0.0), (0, None, torch.inf), (None, 0.0, torch.inf)):
        tiles = PatternTiles(one, masses=None if masses is None else torch.tensor([masses], dtype=torch.float64))
        own = None if exclude is None else torch.tensor([exclude])
        sums = sums_of(one, one[0].double(), 2.0, "distance", tiles, own, True, True, False)
        assert energy_of(one, sums, 2.0, "distance", True).tolist() == [expected]
        torch.testing.assert_close(sums.mean, one.double() if expected == 0 else torch.zeros(1, 5).double())
    none = sums_of(one[:0], one[0].double(), 2.0, "distance", PatternTiles(one), None, True, True, False)
    assert none.log_mean.shape == (0,)
    assert none.mean.shape == (0, 5)


def nearest():
    """The nearest patterns: odd shapes, copies, one pattern, one left out, parts of a matrix."""
    for n, count, d, k in ((1, 1, 1, 1), (9, 260, 70, 3), (5, 150, 3, 40)):
        patterns = random(count, d) + 2.0
        patterns[count // 2 :] = patterns[: count - count // 2]
        x = patterns[torch.arange(n) * 7 % count] + 1e-3 * (torch.arange(n) % 2)[:, None]
        exclude = torch.where(torch.arange(n) % 3 == 1, torch.arange(n) * 7 % count, -1)
        squares = (x.double()[:, None] - patterns.double()).square().sum(2)
        squares[exclude >= 0, exclude[exclude >= 0]] = torch.inf
        tiles = PatternTiles([patterns[: count // 3], patterns[count // 3 :]])
        found, sure = split_nearest.nearest(x, patterns.mean(0), tiles, k, k + 22, exclude)
        torch.testing.assert_close(found, squares.sort(1).values[:, :k], rtol=1e-12, atol=0)
        assert sure.all()


def affinities():
    """The largest affinities, and bounds on the rest, of samples to themselves and to others, some without mass."""
    sparse_affinity._EXACT = 0
    split.available = lambda device: True
    for n, count, d, keep in ((1, 1, 1, 1), (5, 150, 70, 3), (None, 140, 5, 4)):
        y = random(count, d)
        y[count // 2 :] = y[: count - count // 2]
        x = y if n is None else random(n, d, seed=1)
        masses = torch.rand(count, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        masses[1::5] = 0.0
        own = torch.arange(count) if n is None else None
        rows = StreamedAffinity(x, y, 0.5, 1.3, masses=masses)
        sparse = SparseAffinity(rows, keep, own=own, bounds=True)
        exact = masses.log() - 1.3 * ((x.double()[:, None] - y.double()).square().sum(2) / 2 - 0.5)
        columns = torch.arange(count).repeat_interleave(sparse.starts.diff())
        kept = exact[sparse.targets.long(), columns]
        assert sparse.targets.bincount(minlength=len(x)).tolist() == [keep] * len(x)
        torch.testing.assert_close(sparse.logs.double(), kept, rtol=1e-5, atol=1e-4)
        best = exact.sort(1, descending=True).values
        least = torch.full((len(x),), torch.inf, dtype=torch.float64).scatter_reduce(
            0, sparse.targets.long(), kept, "amin"
        )
        torch.testing.assert_close(least, best[:, keep - 1], rtol=0, atol=1e-4)
        if count > keep:
            dropped = (sparse.dropped.largest, best[:, keep]), (sparse.dropped.total, best[:, keep:].logsumexp(1))
            for bound, least in dropped:
                assert (bound >= least).all()
                torch.testing.assert_close(bound, least, rtol=0, atol=2e-2)


CASES = {case.__name__: case for case in (parts, strips, energies, edges, nearest, affinities)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--kernels", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kernels:
        name = "hopfield_replay.functional._engine.split_kernels"
        spec = importlib.util.spec_from_file_location(name, options.kernels)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        split._kernels = lambda: module
    split._CONFIGS = {2: (SMALL,), 3: (SMALL,)}
    split._fastest = lambda *_: SMALL
    for name in options.cases or CASES:
        CASES[name]()


if __name__ == "__main__":
    main()
