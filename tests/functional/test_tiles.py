"""Patterns that pass by in batches, from a file, or over several ranks give the energies of the whole."""

import math
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay.functional import (
    PatternTiles,
    effective_patterns,
    energy,
    energy_and_retrieval,
    energy_rise,
    fixed_points,
    responsibilities,
    retrieve,
)

X, PATTERNS = (torch.randn(n, 5, generator=torch.Generator().manual_seed(n)) for n in (9, 41))
MASSES = torch.rand(41, generator=torch.Generator().manual_seed(0))
OWN = torch.tensor([0, 7, 40, -1, -1, 16, 17, -1, 3])


def whole(x, precision="float64", patterns=PATTERNS, masses=MASSES, exclude=OWN):
    options = {"masses": masses, "precision": precision}
    return [
        energy(x, patterns, 3.0, exclude=exclude, **options),
        energy(x, patterns, 3.0, normalize=False, similarity="dot", **options),
        effective_patterns(x, patterns, 3.0, exclude=exclude, **options),
        retrieve(x, patterns, 3.0, steps=2, **options),
    ]


@pytest.mark.heavy
@pytest.mark.parametrize("precision", ["float64", "float32", "auto"])
@pytest.mark.parametrize("size", [1, 7, 41, 100])
def test_batches_equal_the_whole(size, precision):
    batches = list(zip(PATTERNS.split(size), MASSES.split(size), strict=True))
    found = whole(X, precision, PatternTiles(batches), None)
    for part, together in zip(found, whole(X), strict=True):
        torch.testing.assert_close(part, together, rtol=1e-5, atol=3e-6)


def test_a_data_loader_and_a_memory_mapped_file(tmp_path):
    expected = energy(X, PATTERNS, 3.0, exclude=OWN)
    loader = DataLoader(TensorDataset(PATTERNS, torch.ones(41)), batch_size=8)
    torch.testing.assert_close(energy(X, PatternTiles(loader), 3.0, exclude=OWN), expected)
    path = tmp_path / "patterns.npy"
    np.save(path, PATTERNS.numpy())
    mapped = torch.from_numpy(np.lib.format.open_memmap(path, mode="r+"))
    torch.testing.assert_close(energy(X, PatternTiles(mapped), 3.0, exclude=OWN), expected)
    with_masses = PatternTiles(mapped, masses=MASSES)
    torch.testing.assert_close(energy(X, with_masses, 3.0), energy(X, PATTERNS, 3.0, masses=MASSES))


def test_every_function_takes_tiles():
    tiles = PatternTiles(PATTERNS.split(10))
    torch.testing.assert_close(fixed_points(X, tiles, 30.0), fixed_points(X, PATTERNS, 30.0), rtol=0, atol=1e-8)
    torch.testing.assert_close(
        energy_rise(X, tiles, PATTERNS + 1, 3.0, exclude_old=OWN),
        energy_rise(X, PATTERNS, PATTERNS + 1, 3.0, exclude_old=OWN),
    )
    torch.testing.assert_close(
        energy_and_retrieval(X, tiles, 3.0).gradient, energy_and_retrieval(X, PATTERNS, 3.0).gradient
    )
    x = X.clone().requires_grad_()
    energy(x, tiles, 3.0).sum().backward()
    torch.testing.assert_close(x.grad, (X - retrieve(X, PATTERNS, 3.0)).float())
    with pytest.raises(TypeError, match="a column for each pattern"):
        responsibilities(X, tiles, 3.0)


def test_no_batches_at_all():
    assert energy(X, PatternTiles([]), 1.0).tolist() == [math.inf] * 9
    assert not retrieve(X, PatternTiles([]), 1.0).any()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_nothing_of_a_batch_is_kept(precision):
    """All batches lie in one buffer: a sum that came back to an earlier batch would read the wrong one."""

    class Batches:
        def __iter__(self):
            buffer = torch.empty(10, 5)
            for start in range(0, 40, 10):
                yield buffer.copy_(PATTERNS[start : start + 10])

    found = energy(X, PatternTiles(Batches()), 3.0, precision=precision)
    torch.testing.assert_close(found, energy(X, PATTERNS[:40], 3.0), rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("batches", "error", "match"),
    [
        ((batch for batch in [PATTERNS]), TypeError, "more than once"),
        (3, TypeError, "more than once"),
        ([PATTERNS, torch.randn(2, 4)], ValueError, "differ in dimension: 5 and 4"),
        ([PATTERNS, torch.full((2, 5), torch.nan)], ValueError, "from row 41 on holds NaN"),
        ([torch.ones(2, 5, dtype=torch.int64)], TypeError, "floating"),
        ([(PATTERNS, -MASSES)], ValueError, "not negative"),
        ([torch.randn(2, 6)], ValueError, "d = 5.*d = 6"),
    ],
)
def test_bad_batches(batches, error, match):
    with pytest.raises(error, match=match):
        energy(X, PatternTiles(batches), 1.0)


def test_masses_are_given_in_one_place():
    with pytest.raises(TypeError, match="pass pairs"):
        PatternTiles([PATTERNS], masses=MASSES)
    with pytest.raises(TypeError, match="belong into PatternTiles"):
        energy(X, PatternTiles(PATTERNS), 1.0, masses=MASSES)
    with pytest.raises(ValueError, match=r"\[-1, 41\)"):
        energy(X, PatternTiles(PATTERNS), 1.0, exclude=OWN + 1)


def on_rank(rank, size, port, cuts, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    group = dist.group.WORLD
    found = []
    for first, last in cuts[rank]:
        for precision in ("float64", "float32"):
            share = PatternTiles(PATTERNS[first:last], masses=MASSES[first:last], group=group)
            found.append(whole(X, precision, share, None))
        batches = PatternTiles([(PATTERNS[first:last], MASSES[first:last])] if last > first else [], group=group)
        found.append(whole(X, "float64", batches, None))
    results[rank] = found
    dist.destroy_process_group()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.heavy
def test_ranks_together_equal_the_whole_and_agree_to_the_bit():
    cuts = [[(0, 17), (0, 41)], [(17, 41), (41, 41)]]  # an uneven split, and one rank with nothing
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(on_rank, (2, free_port(), cuts, results), nprocs=2)
        found = dict(results)
    for first, second in zip(found[0], found[1], strict=True):
        for one, other, together in zip(first, second, whole(X), strict=True):
            assert torch.equal(one, other)
            torch.testing.assert_close(one, together, rtol=1e-5, atol=3e-6)
