"""The kernel for a GPU: in Triton's interpreter, in a process of its own (chosen at import), and on a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.torch_version import TorchVersion

from hopfield_replay.functional import effective_patterns, energy, energy_and_retrieval
from hopfield_replay.functional._engine.stream import arithmetic
from tests.functional.test_energy_float32 import large

INTERPRETED = """
import torch
from hopfield_replay.functional._engine.fused import FusedStrips
generator = torch.Generator().manual_seed(0)
products = torch.randn(70, 300, generator=generator)
bias = torch.randn(300, generator=generator)
bias[3] = -torch.inf
own = torch.full((70,), -1)
own[5], own[7] = 299, 0
scores = products * 1.7 + bias
scores[5, 299] = scores[7, 0] = -torch.inf
strips = FusedStrips(products, bias, 1.7, own)
close = {"rtol": 1e-5, "atol": 1e-5}
torch.testing.assert_close(strips.top, scores.amax(1), **close)
expected = (scores - scores.amax(1, keepdim=True) - 1).exp2().sum(1).double()
torch.testing.assert_close(strips.total(strips.top + 1), expected, **close)
rows, which = torch.tensor([5, 7, 9]), torch.tensor([2, 0, 1])
found, columns = strips.scores(rows, which)
for i, (row, strip) in enumerate(zip(rows, which)):
    width = min(300, 128 * (strip + 1)) - 128 * strip
    torch.testing.assert_close(found[i, :width], scores[row, 128 * strip : 128 * strip + width], **close)
    assert (found[i, width:] == -torch.inf).all()
    assert columns[i, 0] == 128 * strip

# the whole pass, tile by tile, as sums_of makes it on a GPU
from hopfield_replay.functional import PatternTiles, energy
from hopfield_replay.functional._engine.logsumexp import Accumulator
from hopfield_replay.functional._engine.rescore import Best
from hopfield_replay.functional._engine.scores import Scores, TileShape
from hopfield_replay.functional._engine.stream import add_fused
from hopfield_replay.functional._engine.tile_sums import own_columns, tile_mass
x, patterns = (torch.randn(size, 8, generator=generator) for size in (40, 300))
x[:20] = patterns[::15]
exclude = torch.full((40,), -1)
exclude[:10] = torch.arange(0, 150, 15)
masses = torch.rand(300, generator=generator, dtype=torch.float64)
for beta in (0.5, 50.0):
    for best_kept in (0, 4):
        tiles = PatternTiles(patterns, masses=masses)
        scores = Scores(x, tiles.centre[1], beta, "distance", "float32", TileShape(16, 128))
        sums = Accumulator(x, torch.float32, square=False, mean=False)
        best = Best(scores, best_kept) if best_kept else None
        for tile in tiles.tiles(128):
            ready, own = scores.ready(tile), own_columns(exclude, tile)
            sums.mass += tile_mass(tile, own)
            for number, window in enumerate(scores.blocks):
                add_fused(scores, number, ready, None if own is None else own[window], sums, best)
        if best is not None:
            best.correct(sums, tiles)
        found = -sums.finish(scores.offset(), scores.centre).log_mean / beta
        exact = energy(x, patterns, beta, masses=masses, exclude=exclude, precision="float64")
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)
"""


@pytest.mark.heavy
def test_kernel_in_the_interpreter():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_gpu_precisions_are_refused_on_the_cpu():
    for precision in ("tf32", "bfloat16"):
        with pytest.raises(ValueError, match="needs a GPU"):
            energy(torch.randn(2, 3), torch.randn(4, 3), 1.0, precision=precision)


@pytest.mark.parametrize(("version", "works"), [("2.7.1", False), ("2.8.0", True), ("2.15.0", True)])
def test_bfloat16_needs_a_product_with_float32_sums(version, works, monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    there = SimpleNamespace(device=torch.device("cuda", 0))
    if works:
        assert arithmetic(there, None, "bfloat16") == "bfloat16"
        return
    with pytest.raises(ValueError, match=r"needs torch 2\.8 or newer, this is 2\.7\.1"):
        arithmetic(there, None, "bfloat16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["centred", "offset", "duplicates", "sorted"])
@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("float64", 1e-10), ("float32", 1e-5), ("fast", 5e-5), ("tf32", 1e-2), ("bfloat16", 5e-2)],
)
def test_on_a_gpu(precision, tolerance, similarity, kind):
    x, patterns, own = large(kind)
    masses = torch.rand(len(patterns)).add_(0.1)
    there = [t.cuda() for t in (x, patterns, masses, own)]
    for beta in (0.1, 1.0, 20.0, 1e3):
        options = {"similarity": similarity}
        exact = energy(x, patterns, beta, masses=masses, exclude=own, precision="float64", **options)
        options |= {"masses": there[2], "precision": precision}
        found = energy(there[0], there[1], beta, exclude=there[3], **options)
        assert (found.cpu() - exact).abs().max() < tolerance
    if precision in ("float64", "float32"):
        one = energy_and_retrieval(there[0], there[1], 5.0, **options)
        two = energy_and_retrieval(x, patterns, 5.0, masses=masses, similarity=similarity, precision="float64")
        torch.testing.assert_close(one.gradient.cpu(), two.gradient, rtol=0, atol=1e-5)
        count = effective_patterns(there[0], there[1], 5.0, **options)
        expected = effective_patterns(x, patterns, 5.0, masses=masses, similarity=similarity, precision="float64")
        torch.testing.assert_close(count.cpu(), expected, rtol=1e-4, atol=1e-6)
