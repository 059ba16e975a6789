"""The float32 engine against the literal float64 loop, and against float64 on larger sets: tiles, ties, extremes."""

import numpy as np
import pytest
import torch

from hopfield_replay import functional
from hopfield_replay.functional import energy
from hopfield_replay.functional._engine.scores import Scores, block_norms, exact_float32
from tests.functional import numpy_energy as reference
from tests.functional.test_energy import SIMILARITIES, VARIANTS, problem


@pytest.mark.heavy
@pytest.mark.parametrize("beta", [1e-6, 0.5, 8.0, 1e5])
@pytest.mark.parametrize(("similarity", "with_masses", "leave_out"), VARIANTS)
def test_small_problem_in_float32(similarity, with_masses, leave_out, beta):
    x, patterns, masses, own = (a.astype(np.float32) if a.dtype == np.float64 else a for a in problem())
    given = {"masses": masses if with_masses else None, "exclude": own if leave_out else None}
    options = {name: None if value is None else torch.from_numpy(value) for name, value in given.items()}
    options |= {"similarity": similarity, "precision": "float32"}
    queries, stored = torch.from_numpy(x), torch.from_numpy(patterns)
    expected = reference.energy(x, patterns, beta, similarity=similarity, **given)
    np.testing.assert_allclose(energy(queries, stored, beta, **options).numpy(), expected, atol=3e-6)
    patterns = patterns.astype(np.float64)
    expected = reference.effective_patterns(x.astype(np.float64), patterns, beta, similarity=similarity, **given)
    result = functional.effective_patterns(queries, stored, beta, **options)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5)
    if not leave_out:
        del options["exclude"]
        expected = reference.retrieve(
            x.astype(np.float64), patterns, beta, similarity=similarity, masses=given["masses"]
        )
        np.testing.assert_allclose(functional.retrieve(queries, stored, beta, **options).numpy(), expected, atol=3e-6)


def large(kind, n=300, count=5000, d=96):
    """More queries and patterns than one tile holds, in clusters; the first queries are patterns."""
    generator = torch.Generator().manual_seed(3)
    centres = 0.5 * torch.randn(40, d, generator=generator)
    patterns = centres[torch.randint(40, (count,), generator=generator)]
    patterns = patterns + 0.3 * torch.randn(count, d, generator=generator)
    if kind == "duplicates":
        patterns = patterns[torch.randint(count // 4, (count,), generator=generator)]
    if kind == "identical":
        patterns = patterns[:1].expand(count, d).contiguous()
    if kind == "sorted":  # the best come last: every tile beats the one before
        patterns = patterns[(patterns - centres[0]).square().sum(1).argsort(descending=True)]
    x = torch.cat([patterns[: n // 2], centres[:1] + 0.3 * torch.randn(n - n // 2, d, generator=generator)])
    if kind == "offset":
        x, patterns = x + 8.6, patterns + 8.6  # |x|^2 / 2 = 3560
    return x, patterns, torch.cat([torch.arange(n // 2), torch.full((n - n // 2,), -1)])


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["centred", "offset", "duplicates", "identical", "sorted"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("with_masses", [False, True])
def test_large_problem_in_float32(kind, similarity, with_masses):
    x, patterns, own = large(kind)
    masses = torch.rand(len(patterns), generator=torch.Generator().manual_seed(1)) if with_masses else None
    if masses is not None:
        masses[::7] = 0.0
    options = {"similarity": similarity, "masses": masses, "exclude": own}
    for beta in (1e-5, 0.1, 1.0, 20.0, 1e3, 1e5):
        exact = energy(x, patterns, beta, precision="float64", **options)
        error = (energy(x, patterns, beta, precision="float32", **options) - exact).abs().max()
        assert error < 1e-5, (beta, error)


@pytest.mark.heavy
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_retrieval_and_effective_patterns_in_float32(similarity):
    x, patterns, own = large("offset")
    for beta in (0.1, 20.0, 1e5):
        options = {"similarity": similarity}
        exact, fast = (functional.retrieve(x, patterns, beta, precision=p, **options) for p in ("float64", "float32"))
        assert (exact - fast).abs().max() < 1e-5
        options["exclude"] = own
        exact, fast = (
            functional.effective_patterns(x, patterns, beta, precision=p, **options) for p in ("float64", "float32")
        )
        torch.testing.assert_close(fast, exact, rtol=1e-4, atol=1e-6)


def test_rise_is_as_exact_as_the_energies():
    """A common centre for old and new patterns, far from the origin."""
    x, old, _ = large("offset")
    new = old + 1e-3 * torch.randn(old.shape, generator=torch.Generator().manual_seed(2))
    for beta in (0.1, 20.0, 1e3):
        exact, fast = (functional.energy_rise(x, old, new, beta, precision=p) for p in ("float64", "float32"))
        assert (exact - fast).abs().max() < 3e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_inputs_lose_nothing_more(dtype):
    x, patterns, _ = (t.to(dtype) if t.is_floating_point() else t for t in large("centred"))
    exact = energy(x.double(), patterns.double(), 20.0)
    assert (energy(x, patterns, 20.0, precision="float32") - exact).abs().max() < 1e-5


@pytest.mark.heavy
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_hot_limit_is_the_mean_score(precision, similarity):
    """beta -> 0: E = mean of |x - xi|^2 / 2 - (beta / 2) variance, to the last digits."""
    x, patterns, _ = large("offset")
    half = 0.5 * torch.cdist(x.double(), patterns.double()).square()
    if similarity == "dot":
        half = 0.5 * x.double().square().sum(1, keepdim=True) - x.double() @ patterns.double().T
    for beta in (1e-12, 1e-9, 1e-6):
        expected = half.mean(1) - beta / 2 * half.var(1, correction=0)
        result = energy(x, patterns, beta, similarity=similarity, precision=precision)
        torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-5 if precision == "float32" else 1e-9)


def test_precision_is_checked_and_chosen_by_size():
    x, patterns, _ = large("centred")
    exact = energy(x, patterns, 5.0, precision="float64")
    assert torch.equal(energy(x, patterns, 5.0), exact)  # n N d is small
    assert not torch.equal(energy(x, patterns, 5.0, precision="float32"), exact)
    with pytest.raises(ValueError, match="'half'"):
        energy(x, patterns, 5.0, precision="half")


def test_the_result_does_not_depend_on_the_tiles(monkeypatch):
    from hopfield_replay.functional._engine import scores

    x, patterns, own = large("centred", n=70, count=300)
    whole = [energy(x, patterns, 20.0, exclude=own, precision=p) for p in ("float64", "float32")]
    monkeypatch.setattr(scores.TileShape, "of", classmethod(lambda cls, x: cls(13, 64)))
    tiled = [energy(x, patterns, 20.0, exclude=own, precision=p) for p in ("float64", "float32")]
    torch.testing.assert_close(tiled[0], whole[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(tiled[1], whole[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("d", [511, 512, 640, 784, 1001])
@pytest.mark.parametrize("size", [0.0, 1e-22, 1.0, 1e3, 1e22])
def test_norms_summed_in_blocks(d, size):
    """As exact as one rounding of the whole to float32, whatever the size of the numbers and the dimension."""
    points = torch.randn(50, d, generator=torch.Generator().manual_seed(d)) * size
    points[3] = 0.0
    exact = (points.double().numpy() ** 2).sum(1)
    np.testing.assert_allclose(block_norms(points).numpy(), exact, rtol=2**-22, atol=0)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("far", [0.0, 0.03, 1.0])
def test_patterns_near_the_origin_are_not_moved(far, similarity, monkeypatch):
    x, patterns, own = large("centred", d=520)
    x, patterns = 0.6 * x + far, 0.6 * patterns + far  # |x - c|^2 is about 64
    given, moved = patterns.clone(), []
    every = Scores._moved
    monkeypatch.setattr(Scores, "_moved", lambda self, *a: moved.append(len(a)) or every(self, *a))
    masses = torch.rand(len(patterns), generator=torch.Generator().manual_seed(1))
    for beta in (0.1, 20.0, 1e4):
        options = {"exclude": own, "masses": masses, "similarity": similarity}
        exact = energy(x, patterns, beta, precision="float64", **options)
        moved.clear()
        assert (energy(x, patterns, beta, precision="float32", **options) - exact).abs().max() < 1e-5
        assert (2 in moved) == (far == 1.0)  # tiles of patterns are moved into a buffer
    assert torch.equal(patterns, given)


@pytest.mark.parametrize("beta", [1e6, 1e8])
def test_rounding_left_over_from_the_best_scores_is_no_score(beta):
    """Cold: one pattern is all there is, and what float32 made of it must not stay beside its exact score."""
    x, patterns, own = large("offset")
    exact = energy(x, patterns, beta, exclude=own, precision="float64")
    found = energy(x, patterns, beta, exclude=own, precision="float32")
    assert (found - exact).abs().max() < 1e-8


@pytest.mark.parametrize("precision", ["float32", "fast"])
def test_scores_beyond_float32_are_no_scores(precision):
    patterns = torch.tensor([[1e25], [-1e25]])
    found = energy(torch.zeros(2, 1), patterns, 1.0, precision=precision)
    assert (found == torch.inf).all()  # not the logarithm of the smallest float32
    assert torch.isfinite(energy(torch.zeros(2, 1), patterns, 1.0, precision="float64")).all()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("given", ["none", "tf32", "ieee"])
def test_the_precision_of_a_gpus_products_is_put_back_whichever_way_it_was_set(exact, given):
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("before torch 2.9 there is one way to set it")
    before = matmul.fp32_precision
    matmul.fp32_precision = given  # then torch.get_float32_matmul_precision() raises where it says otherwise
    try:
        with exact_float32(torch.device("cuda"), exact):
            assert matmul.fp32_precision == ("ieee" if exact else "tf32")
        assert matmul.fp32_precision == given
    finally:
        matmul.fp32_precision = before


def test_mixed_precision_does_not_reach_energies():
    """Products of a training step in mixed precision have 8 bits; near beta = 0 the sums are such products."""
    generator = torch.Generator().manual_seed(0)
    x, patterns = torch.randn(30, 16, generator=generator), torch.randn(500, 16, generator=generator)
    masses = torch.rand(500, generator=generator)
    for beta in (1e-7, 1.0):
        expected = energy(x, patterns, beta, masses=masses, precision="float32")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = energy(x, patterns, beta, masses=masses, precision="float32")
        assert found.equal(expected)
