"""Split products: emulated with a tensor core's rounding, in Triton's interpreter, and compiled for a GPU."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from hopfield_replay.functional import PatternTiles, effective_patterns, energy, energy_and_retrieval
from hopfield_replay.functional._engine import split, split_scores, stream
from hopfield_replay.functional._engine.scores import Scores
from tests.benchmarks.energy import data
from tests.functional._engine.emulated import emulated, tensor_core  # noqa: F401
from tests.functional.test_energy_float32 import large

ROOT = Path(__file__).parents[3]
BOUNDS = {"auto": 1e-5, "fast": 5e-5}


@pytest.fixture
def always_split(emulated, monkeypatch):  # noqa: F811
    monkeypatch.setattr(stream, "SMALL_PROBLEM", 0)


def check(x, patterns, own, beta, precision, similarity, masses=None):
    options = {"exclude": own, "similarity": similarity, "masses": masses}
    exact = energy(x, patterns, beta, precision="float64", **options)
    assert (energy(x, patterns, beta, precision=precision, **options) - exact).abs().max() < BOUNDS[precision]


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("kind", ["offset", "duplicates", "sorted"])
def test_errors_in_few_dimensions(kind, similarity, precision, always_split):
    x, patterns, own = large(kind, n=60, count=1500)
    masses = torch.rand(len(patterns), generator=torch.Generator().manual_seed(1))
    masses[::7] = 0.0
    for beta in (0.1, 20.0, 1e5):
        check(x, patterns, own, beta, precision, similarity, masses)


@pytest.mark.slow
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("kind", ["centred", "offset", "duplicates"])
@pytest.mark.parametrize("d", [64, 640, 1024])
def test_errors_in_many_dimensions(d, kind, precision, always_split):
    x, patterns = data(24, 600, d, kind)
    own = torch.cat([torch.arange(8), torch.full((16,), -1)])  # four are asked under themselves, too
    for beta in (1.0, 30.0, 1e3, 1e5):
        for similarity in ("distance", "dot"):
            check(x, patterns, own, beta, precision, similarity)


def test_what_else_one_pass_gives(always_split):
    x, patterns, own = large("offset", n=40, count=700)
    for beta in (0.1, 5.0, 1e3):
        options = {"exclude": own}
        expected = effective_patterns(x, patterns, beta, precision="float64", **options)
        torch.testing.assert_close(effective_patterns(x, patterns, beta, **options), expected, rtol=1e-4, atol=1e-4)
        one, two = (energy_and_retrieval(x[20:], patterns, beta, precision=p) for p in ("auto", "float64"))
        torch.testing.assert_close(one.retrieval, two.retrieval, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.gradient, two.gradient, rtol=0, atol=1e-5)


def test_batches_blocks_and_tiles(always_split, monkeypatch):
    x, patterns, own = large("duplicates", n=70, count=1300)
    masses = torch.rand(len(patterns), dtype=torch.float64)
    batches = [(patterns[:500], masses[:500]), (patterns[500:500], masses[:0]), (patterns[500:], masses[500:])]
    whole = energy(x, patterns, 20.0, masses=masses, exclude=own)
    monkeypatch.setattr(split_scores.Plan, "of", classmethod(lambda cls, x, terms, mean: cls(32, 1024)))
    torch.testing.assert_close(energy(x, PatternTiles(batches), 20.0, exclude=own), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("d", [1, 64, 784, 1024, 3072, 16384, 200_000])
@pytest.mark.parametrize("mean", [False, True])
def test_what_is_held_is_bounded(d, mean):
    terms = split.terms_for(d, False)
    plan = split_scores.Plan.of(torch.empty(16384, d, device="meta"), terms, mean)
    one, span = 2 * split.parts_for(terms) * split.padded(d), split.COLUMNS * split.tiles_for(d)
    assert plan.rows >= min(span, 16384)
    assert plan.columns % span == 0
    assert plan.columns > 0
    strips = 4 * plan.rows * plan.columns / span * split.WIDTH
    # maxima, totals, weights relative to the largest, a mask; scores and their parts, and a product, for the mean
    held = (plan.rows + plan.columns) * one + 3.25 * strips
    if mean:
        held += 4 * plan.rows * plan.columns * 2.5 + 1.5 * plan.columns * one
    if d < 100_000:
        assert held < 500 << 20


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_rounded_products_of_offset_data(precision, similarity, monkeypatch):
    """The product of a GPU emulated: what is rounded is near the centre, and the centre's own share is not rounded."""

    def products(scores, number, tile, out=None):
        return scores._queries(number).float() @ tile.centred.float().T

    monkeypatch.setattr(stream, "arithmetic", lambda x, patterns, asked: "float64" if asked == "float64" else precision)
    monkeypatch.setattr(Scores, "products", products)
    monkeypatch.setattr(
        torch, "add", lambda bias, products, alpha, out: out.copy_(bias + alpha * products), raising=False
    )
    x, patterns, own = large("offset", n=100, count=2000)
    for beta in (0.1, 1.0, 20.0, 1e3):
        exact = energy(x, patterns, beta, exclude=own, similarity=similarity, precision="float64")
        found = energy(x, patterns, beta, exclude=own, similarity=similarity)
        assert (found - exact).abs().max() < {"tf32": 1e-2, "bfloat16": 5e-2}[precision]


def test_a_kernel_that_does_not_run_is_done_without(monkeypatch):
    def broken(*_, **__):
        with split._launching(torch.empty(1)):
            raise TypeError("no such machine")

    monkeypatch.setattr(stream, "SMALL_PROBLEM", 0)
    monkeypatch.setattr(split, "_broken", set())
    monkeypatch.setattr(split, "available", lambda device: device not in split._broken)
    monkeypatch.setattr(split, "split", broken)
    x, patterns, own = large("centred", n=20, count=300)
    with pytest.warns(UserWarning, match=r"do not run on cpu \(TypeError: no such machine\)"):
        found = energy(x, patterns, 20.0, exclude=own)
    assert torch.equal(found, energy(x, patterns, 20.0, exclude=own, precision="float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(energy(x, patterns, 20.0, exclude=own), found)


def test_lack_of_memory_is_no_fault_of_the_kernel(monkeypatch):
    def full(*_, **__):
        with split._launching(torch.empty(1)):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(stream, "SMALL_PROBLEM", 0)
    monkeypatch.setattr(split, "available", lambda device: True)
    monkeypatch.setattr(split, "split", full)
    with pytest.raises(torch.OutOfMemoryError):
        energy(torch.randn(4, 3), torch.randn(5, 3), 20.0)


def interpret(*arguments):
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.functional._engine.interpreted", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.heavy
@pytest.mark.parametrize("case", ["parts", "strips", "energies", "edges", "nearest", "affinities"])
def test_kernels_in_the_interpreter(case):
    done = interpret(case)
    assert done.returncode == 0, done.stderr


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("right", "wrong", "case"),
    [
        ("if LEAVE_OUT:\n                score", "if not LEAVE_OUT:\n                score", "strips"),
        ("products * scale + constant[None, :]", "products * scale + 0.0 * constant[None, :]", "strips"),
        ("            top = high\n", "", "strips"),
        ("total * shrink + tl.sum", "tl.sum", "strips"),
        ('mask=column < columns, other=float("-inf")', "mask=column < columns, other=0.0", "strips"),
        ("part = _add(part, x2, y1, WIDEN)", "part = part", "strips"),
        ("            step = 0\n", "            step = 1\n", "strips"),
        ("mask=column < depth)", "mask=column < dimension - 1)", "parts"),
        ("rest -= rounded.to(tl.float32)", "rest -= 0.0 * rounded.to(tl.float32)", "parts"),
        ("along += moved * middle", "along += moved", "parts"),
        ("tl.arange(0, SIZE) * WIDTH", "tl.arange(0, SIZE)", "energies"),
        ("tl.max(score, axis=1)", "tl.min(score, axis=1)", "nearest"),
        ("stored - query[None, :]", "stored + query[None, :]", "nearest"),
        ("tl.store(totals + out, total", "tl.store(totals + out, 1.0 + total", "affinities"),
        (
            "there[:, None] * columns + column[None, :], score",
            "there[:, None] * columns + column[None, :], products",
            "affinities",
        ),
    ],
)
def test_a_wrong_kernel_does_not_pass(right, wrong, case, tmp_path):
    source = (ROOT / "hopfield_replay/functional/_engine/split_kernels.py").read_text()
    assert right in source
    (tmp_path / "mutant.py").write_text(source.replace(right, wrong))
    done = interpret(case, "--kernels", tmp_path / "mutant.py")
    assert done.returncode != 0
    assert "AssertionError" in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("kind", ["centred", "offset", "duplicates"])
@pytest.mark.parametrize("d", [1, 64, 100, 640, 1024, 3000])
def test_on_a_gpu(d, kind, precision, monkeypatch):
    monkeypatch.setattr(stream, "SMALL_PROBLEM", 0)
    x, patterns = (t.cuda() for t in data(200, 3001, d, kind))
    own = torch.arange(200).cuda()
    own[50:] = -1
    masses = torch.rand(3001, dtype=torch.float64).cuda()
    masses[::7] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kernel that does not run says so
        for beta in (1.0, 30.0, 1e3, 1e5):
            for similarity in ("distance", "dot"):
                check(x, patterns, own, beta, precision, similarity, masses)
        one, two = (energy_and_retrieval(x, patterns, 30.0, masses=masses, precision=p) for p in (precision, "float64"))
        torch.testing.assert_close(one.retrieval, two.retrieval, rtol=0, atol=10 * BOUNDS[precision])
        expected = effective_patterns(x, patterns, 3.0, masses=masses, exclude=own, precision="float64")
        found = effective_patterns(x, patterns, 3.0, masses=masses, exclude=own, precision=precision)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.heavy
@pytest.mark.parametrize("config", sorted({(c, n) for n, some in split._CONFIGS.items() for c in some}, key=str))
def test_compiled_for_hopper(config):
    """Compiled, not run: for its tensor cores, without spilling registers, in the shared memory there is."""
    pytest.importorskip("triton")
    code = f"from tests.functional._engine.compiled import report; print(report({config[0]!r}, {config[1]}))"
    code = f"from hopfield_replay.functional._engine.split import Config; {code}"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = dict(pair.split("=") for pair in done.stdout.split())
    assert int(report["shared"]) <= 227 << 10
    assert int(report["tensor_core_instructions"]) > 0
    assert int(report["stack"]) == 0
    assert int(report["registers"]) * 32 * config[0].warps <= 1 << 16


@pytest.mark.parametrize(("version", "works"), [("2.7.1", False), ("2.8.0", True), ("2.15.0", True)])
def test_an_older_torch_has_no_product_with_wide_sums(version, works, monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(split, "_kernels", object)
    monkeypatch.setattr(split, "_broken", set())
    assert split.available(torch.device("cuda", 0)) == works
