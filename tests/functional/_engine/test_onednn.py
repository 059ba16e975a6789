"""Both float32 products give the same energies; the choice between them is timed once and can be fixed."""

import pytest
import torch

from hopfield_replay.functional import energy
from hopfield_replay.functional._engine import onednn
from tests.functional.test_energy_float32 import large


@pytest.fixture(autouse=True)
def forget_timings():
    timed = onednn._is_faster
    timed.cache_clear()
    yield
    timed.cache_clear()


@pytest.mark.heavy
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("kind", ["offset", "duplicates"])
def test_both_products_give_the_same(monkeypatch, kind):
    x, patterns, own = large(kind)
    masses = torch.ones(len(patterns))
    masses[::5] = 0.0
    options = {"exclude": own, "masses": masses}
    for beta in (1e-4, 1.0, 20.0, 1e4):
        exact = energy(x, patterns, beta, precision="float64", **options)
        for switch in ("0", "1"):
            monkeypatch.setenv(onednn.SWITCH, switch)
            assert (energy(x, patterns, beta, precision="float32", **options) - exact).abs().max() < 1e-5
            assert (energy(x, patterns, beta, precision="fast", **options) - exact).abs().max() < 5e-5


def test_timing_is_done_once_and_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(onednn.SWITCH, "auto")
    assert onednn.chosen(16) == onednn.chosen(16)
    assert onednn._is_faster.cache_info().misses == torch.backends.mkldnn.is_available()
    monkeypatch.setenv(onednn.SWITCH, "0")
    assert not onednn.chosen(16)
    monkeypatch.setenv(onednn.SWITCH, "yes")
    with pytest.raises(ValueError, match="'yes'"):
        onednn.chosen(16)


def test_few_queries_are_not_worth_converting_the_patterns(monkeypatch):
    monkeypatch.setattr(onednn, "_is_faster", lambda d, threads: True)
    monkeypatch.setenv(onednn.SWITCH, "auto")
    assert onednn.chosen(16, queries=1024) == torch.backends.mkldnn.is_available()
    assert not onednn.chosen(16, queries=512)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_large_dimensions_are_left_to_blas_where_nothing_corrects_the_error(monkeypatch):
    monkeypatch.setenv(onednn.SWITCH, "1")
    assert onednn.chosen(784)
    assert not onednn.chosen(784, accurate=True)
    assert onednn.chosen(256, accurate=True)
