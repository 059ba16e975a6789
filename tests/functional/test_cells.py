"""Approximate energies: exact when all cells are read, above the exact ones otherwise, and close where it matters."""

import sys

import numpy as np
import pytest
import torch

from hopfield_replay.functional import energy
from hopfield_replay.functional.cells import PatternCells
from tests.functional import numpy_energy as reference
from tests.functional.test_energy import SIMILARITIES


def clustered(n=60, count=3000, d=8):
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(60, d, generator=generator) + 1
    points = centres[torch.randint(60, (count + n,), generator=generator)]
    points = points + 0.2 * torch.randn(count + n, d, generator=generator)
    patterns = points[:count]
    return torch.cat([patterns[: n // 2], points[count + n // 2 :]]), patterns


def test_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'hopfield-replay\[faiss\]'"):
        PatternCells(torch.randn(10, 2))


@pytest.fixture(scope="module")
def cells():
    pytest.importorskip("faiss", reason="needs the extra faiss")
    _, patterns = clustered()
    masses = torch.rand(3000, generator=torch.Generator().manual_seed(1))
    return PatternCells(patterns, masses=masses, cells=50), masses


@pytest.mark.heavy
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("normalize", [True, False])
def test_all_cells_together_are_exact(cells, similarity, normalize):
    x, patterns = clustered()
    x = torch.cat([x[:6], x[-6:]])
    own = np.array([*range(6), *[-1] * 6])
    for beta in (0.1, 5.0):
        found = cells[0].energy(
            x, beta, probes=50, similarity=similarity, normalize=normalize, exclude=torch.from_numpy(own)
        )
        expected = reference.energy(
            x.double().numpy(),
            patterns.double().numpy(),
            beta,
            masses=cells[1].numpy(),
            similarity=similarity,
            normalize=normalize,
            exclude=own,
        )
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@pytest.mark.heavy
def test_a_few_cells_are_close_and_never_below(cells):
    x, patterns = clustered()
    own = torch.cat([torch.arange(30), torch.full((30,), -1)])
    exact = energy(x, patterns, 0.5, masses=cells[1], exclude=own)
    found = cells[0].energy(x, 0.5, probes=8, exclude=own)
    assert (found - exact).min() > -1e-5
    assert 1e-5 < (found - exact).max() < 0.1
    error = cells[0].error(x, 0.5, probes=8, exclude=own, sample=1000)
    assert error.largest == pytest.approx(float((found - exact).max()), abs=1e-6)
    assert error.mean == pytest.approx(float((found - exact).mean()), abs=1e-6)
    assert error.queries == 60
    assert 0.1 < error.share < 0.3


@pytest.mark.heavy
def test_fewer_probes_err_more(cells):
    x, _ = clustered()
    errors = [cells[0].error(x, 0.05, probes=probes).mean for probes in (1, 5, 25, 50)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1  # hot: patterns of all cells count, and leaving them out shows
    assert errors[-1] == pytest.approx(0, abs=1e-5)


def test_no_mass_is_infinite_energy():
    pytest.importorskip("faiss", reason="needs the extra faiss")
    x, patterns = clustered()
    assert PatternCells(patterns, masses=torch.zeros(3000), cells=20).energy(x, 1.0).isposinf().all()


@pytest.mark.heavy
def test_bad_input(cells):
    x, patterns = clustered()
    for probes in (0, 51):
        with pytest.raises(ValueError, match="probes"):
            cells[0].energy(x, 1.0, probes=probes)
    for count in (0, 3001):
        with pytest.raises(ValueError, match="cells"):
            PatternCells(patterns, cells=count)
    with pytest.raises(ValueError, match="same dimension"):
        cells[0].energy(torch.randn(2, 3), 1.0)
