"""HopfieldMemory gives what the literal loops give for its patterns, masses, beta and similarity."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hopfield_replay import HopfieldMemory, calibrate_beta
from hopfield_replay.functional import PatternTiles
from hopfield_replay.memory.memory import default_n_eff
from tests.functional import numpy_energy as reference

PATTERNS = np.random.default_rng(3).normal(size=(14, 6))
QUERIES = np.concatenate([PATTERNS[:4], np.random.default_rng(4).normal(size=(3, 6))])
OWN = np.array([0, 1, 2, 3, -1, -1, -1])
MASSES = np.random.default_rng(5).uniform(0.0, 2.0, size=14)


@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("masses", [None, MASSES], ids=["uniform", "masses"])
def test_every_method(masses, similarity):
    beta = 1.3
    given = None if masses is None else torch.from_numpy(masses)
    memory = HopfieldMemory(torch.from_numpy(PATTERNS).view(14, 2, 3), beta, masses=given, similarity=similarity)
    x, own = torch.from_numpy(QUERIES).view(7, 2, 3), torch.from_numpy(OWN)
    options = {"masses": masses, "similarity": similarity}
    for name in ("energy", "responsibilities", "effective_patterns"):
        for exclude in (None, OWN):
            expected = getattr(reference, name)(QUERIES, PATTERNS, beta, exclude=exclude, **options)
            found = getattr(memory, name)(x, exclude=None if exclude is None else own)
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12, err_msg=name)
    expected = reference.retrieve(QUERIES, PATTERNS, beta, steps=2, **options)
    np.testing.assert_allclose(memory.retrieve(x, steps=2).numpy(), expected, rtol=1e-10)
    ends = memory.fixed_points(x, max_iter=5000).numpy()
    np.testing.assert_allclose(ends, reference.retrieve(ends, PATTERNS, beta, **options), atol=1e-8)


def test_beta_auto_is_calibrated_with_masses_and_similarity():
    patterns, masses = torch.from_numpy(PATTERNS), torch.from_numpy(MASSES)
    assert HopfieldMemory(patterns).beta == calibrate_beta(patterns, n_eff=5.0)
    memory = HopfieldMemory(patterns, masses=masses, similarity="dot")
    assert memory.beta == calibrate_beta(patterns, n_eff=5.0, masses=masses, similarity="dot")


@pytest.mark.parametrize(("count", "target"), [(3, 1.5), (4, 1.5), (7, 3.0), (11, 5.0), (1000, 5.0)])
def test_default_target_fits_small_sets(count, target):
    assert default_n_eff(count) == target
    if count < 100:
        assert HopfieldMemory(torch.randn(count, 3, generator=torch.Generator().manual_seed(0))).beta > 0


def test_diagnose_uses_its_own_beta_and_masses():
    memory = HopfieldMemory(torch.from_numpy(PATTERNS), 1.3, masses=torch.from_numpy(MASSES))
    found = memory.diagnose()
    n_eff = reference.effective_patterns(PATTERNS, PATTERNS, 1.3, masses=MASSES, exclude=np.arange(14))
    assert found.beta == 1.3
    np.testing.assert_allclose(found.n_eff, np.sort(n_eff)[6], rtol=1e-9)


def test_size_description_and_moving():
    memory = HopfieldMemory(torch.eye(4), 2.0, masses=torch.ones(4))
    assert len(memory) == 4
    assert repr(memory) == "HopfieldMemory(patterns=(4, 4), beta=2, similarity='distance')"
    assert memory.to("cpu") is memory


def test_bad_input():
    with pytest.raises(ValueError, match=r"at least one pattern, got none \(an empty data set\?\)"):
        HopfieldMemory(torch.empty(0, 3), 1.0)
    with pytest.raises(ValueError, match="beta must be a number or \"auto\", got 'best'"):
        HopfieldMemory(torch.eye(4), "best")
    with pytest.raises(ValueError, match="at least 3 patterns, got 2; pass beta as a number"):
        HopfieldMemory(torch.eye(2))
    with pytest.raises(ValueError, match=r"beta .* must be positive and finite, got 0"):
        HopfieldMemory(torch.eye(4), 0.0)
    with pytest.raises(TypeError, match=r"patterns must be a torch.Tensor, got ndarray"):
        HopfieldMemory(PATTERNS, 1.0)
    with pytest.raises(ValueError, match=r"patterns holds NaN .*\[1\]"):
        HopfieldMemory(torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), 1.0)
    with pytest.raises(ValueError, match=r"masses must have shape \(4,\).*got \(3,\)"):
        HopfieldMemory(torch.eye(4), 1.0, masses=torch.ones(3))
    with pytest.raises(ValueError, match="similarity must be one of"):
        HopfieldMemory(torch.eye(4), 1.0, similarity="cosine")
    with pytest.raises(ValueError, match="x and patterns must have the same dimension, got x with d = 3"):
        HopfieldMemory(torch.eye(4), 1.0).energy(torch.eye(3))


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_patterns_in_batches_give_what_the_whole_gives(similarity, tmp_path):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 4)))
    path = tmp_path / "patterns.bin"
    x.numpy().tofile(path)
    mapped = torch.from_file(str(path), size=x.numel(), dtype=torch.float64).view(50, 4)
    whole = HopfieldMemory(x, 1.3, similarity=similarity)
    queries, own = x[:9] + 0.0, torch.arange(9)
    for patterns in ([x[:20], x[20:]], DataLoader(x, batch_size=16), PatternTiles(mapped), [mapped[:1], mapped[1:]]):
        memory = HopfieldMemory(patterns, 1.3, similarity=similarity)
        assert len(memory) == 50
        assert torch.allclose(memory.energy(queries, exclude=own), whole.energy(queries, exclude=own), rtol=1e-12)
        assert torch.allclose(memory.retrieve(queries), whole.retrieve(queries), rtol=1e-10)
        assert torch.allclose(memory.effective_patterns(queries), whole.effective_patterns(queries), rtol=1e-10)
        assert "(50, 4)" in repr(memory)
    automatic = HopfieldMemory([x[:20], x[20:]], similarity=similarity)
    assert math.isclose(automatic.beta, HopfieldMemory(x, similarity=similarity).beta, rel_tol=1e-4)


def test_patterns_in_batches_bad_input():
    x = torch.randn(8, 2)
    with pytest.raises(TypeError, match="bring their masses along"):
        HopfieldMemory([x], 1.0, masses=torch.ones(8))
    with pytest.raises(TypeError, match="need the patterns as one tensor"):
        HopfieldMemory([x], 1.0).responsibilities(x)
    with pytest.raises(TypeError, match="cannot be moved"):
        HopfieldMemory([x], 1.0).to("cpu")
    with pytest.raises(TypeError, match="more than once"):
        HopfieldMemory((part for part in [x]), 1.0)
    with pytest.raises(ValueError, match="at least one pattern"):
        HopfieldMemory([x[:0]], 1.0)
