import math

import numpy as np
import pytest
import torch

from hopfield_replay.functional import (
    StreamedAffinity,
    affinity,
    energy,
    energy_rise,
    far_task_energy,
    replay_gain,
    replay_mass,
    responsibilities,
)
from hopfield_replay.functional.affinity import matrix_or_streamed


def vectors(*counts, dimension=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dimension, generator=g, dtype=torch.float64) for n in counts]


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_affinity_is_mass_times_responsibility_times_the_exponential_of_the_rise(similarity):
    old, new = vectors(7, 5)
    masses = torch.rand(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    new_energies = energy(old, new, 1.3, similarity=similarity, normalize=False)
    got = affinity(old, old, new_energies, 1.3, masses=masses, similarity=similarity)
    rise = energy_rise(old, old, new, 1.3, similarity=similarity, normalize=False)
    q = responsibilities(old, old, 1.3, similarity=similarity)
    torch.testing.assert_close(got, masses * q * torch.exp(1.3 * rise)[:, None], rtol=1e-12, atol=0)


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_affinity_gives_the_replay_gain_of_any_set(similarity):
    old, new, targets = vectors(7, 5, 3, seed=2)
    new_energies = energy(targets, new, 0.8, similarity=similarity, normalize=False)
    matrix = affinity(targets, old, new_energies, 0.8, masses=0.6, similarity=similarity)
    masses = torch.full((3,), 0.6, dtype=torch.float64)
    gain = replay_gain(targets, old, new, old[2:5], 0.8, replay_masses=masses, similarity=similarity)
    torch.testing.assert_close(matrix[:, 2:5].sum(1).log1p() / 0.8, gain, rtol=1e-12, atol=1e-14)


def test_normalised_energies_with_the_replay_mass_give_the_gain_of_the_mixture():
    old, new = vectors(6, 9, seed=3)
    share, k = 0.3, 2
    matrix = affinity(old, old, energy(old, new, 1.1), 1.1, masses=replay_mass(k, share))
    mixture = replay_gain(old, old, new, old[[1, 4]], 1.1, replay_share=share)
    # the mixture also pays log(1 - lam) for the batch places that the new task gives up, the same for every set
    expected = mixture - math.log(1 - share) / 1.1
    torch.testing.assert_close(matrix[:, [1, 4]].sum(1).log1p() / 1.1, expected, rtol=1e-12, atol=1e-14)


def test_a_target_that_is_a_candidate_is_protected_by_its_own_replay():
    old, new = vectors(4, 5)
    matrix = affinity(old, old, energy(old, new, 50.0, normalize=False), 50.0, masses=1.0)
    own = replay_gain(old[:1], old, new, old[:1], 50.0)
    assert math.isclose(math.log1p(matrix[0, 0].item()) / 50.0, own.item(), rel_tol=1e-10)


def test_far_task_energy_is_that_of_a_task_at_the_mean_distance_of_the_old_samples():
    (old,) = vectors(30, dimension=3)
    pairs = [((a - b) ** 2).sum() for i, a in enumerate(old.numpy()) for j, b in enumerate(old.numpy()) if i != j]
    assert math.isclose(far_task_energy(old), np.mean(pairs) / 2, rel_tol=1e-12)
    assert math.isclose(far_task_energy(old + 1000), np.mean(pairs) / 2, rel_tol=1e-9)
    # a task of that kind: along new dimensions, every new sample at squared distance D^2 from every old one
    spread = old - old.mean(0)
    spread = spread / spread.norm(dim=1, keepdim=True)  # old samples on a sphere around their mean
    square = 2 * far_task_energy(spread)
    new = torch.zeros(8, 11, dtype=torch.float64)
    new[:, 3:] = torch.eye(8) * math.sqrt(square - 1)
    raised = torch.cat([spread, torch.zeros(30, 8, dtype=torch.float64)], 1)
    for beta in (0.3, 3.0):
        torch.testing.assert_close(energy(raised, new, beta), torch.full((30,), square / 2, dtype=torch.float64))


def test_gain_before_a_far_task_becomes_capped_coverage_for_large_beta():
    (old,) = vectors(25, dimension=2, seed=4)
    far, beta, kept = far_task_energy(old), 300.0, [3, 8, 20]
    rows = StreamedAffinity(old, old, far, beta, masses=replay_mass(3, 0.5))
    gain = torch.logaddexp(torch.zeros(25, dtype=torch.float64), rows.log_rows(torch.tensor(kept)).logsumexp(0)) / beta
    covered = [max(0.0, far - min(((x - old[r]) ** 2).sum().item() for r in kept) / 2) for x in old]
    np.testing.assert_allclose(gain.numpy(), covered, atol=2 * math.log(3) / beta)


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_totals_are_the_sums_of_the_rows(similarity):
    old, targets = vectors(7, 5)
    masses = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5, 1.0, 3.0])
    rows = StreamedAffinity(targets + 3, old + 3, 0.7, 0.9, masses=masses, similarity=similarity)
    expected = rows.log_rows(torch.arange(7)).exp().sum(0).log()
    torch.testing.assert_close(rows.log_totals(), expected, rtol=1e-10, atol=1e-10)


def test_matrix_does_not_depend_on_the_chunks_and_is_laid_out_by_candidate(monkeypatch):
    import sys

    from hopfield_replay.functional import affinity as module_function  # the function shadows its module

    old, targets = vectors(7, 5)
    whole = affinity(targets, old, 0.5, 1.0, masses=1.0)
    monkeypatch.setattr(sys.modules[module_function.__module__], "_CHUNK_ELEMENTS", 11)
    torch.testing.assert_close(affinity(targets, old, 0.5, 1.0, masses=1.0), whole, rtol=1e-12, atol=0)
    assert whole.shape == (5, 7)
    assert whole.T.is_contiguous()
    assert affinity(targets, old, 0.5, 1.0, masses=1.0, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("similarity", ["distance", "dot"])
def test_a_factor_multiplies_every_mass(similarity):
    old, targets = vectors(7, 5)
    masses = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5, 1.0, 3.0])
    rows = StreamedAffinity(targets, old, 0.7, 0.9, masses=masses, similarity=similarity)
    other = StreamedAffinity(targets, old, 0.7, 0.9, masses=2.5 * masses, similarity=similarity)
    index = torch.arange(7)
    torch.testing.assert_close((rows * 2.5).log_rows(index), other.log_rows(index), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((rows * 2.5).log_totals(), other.log_totals(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rows.log_totals(), other.log_totals() - math.log(2.5), rtol=1e-9, atol=1e-9)  # untouched


@pytest.mark.parametrize(
    ("logarithm", "wide", "narrow"),
    [(59.0, torch.float64, torch.float32), (61.0, torch.float64, torch.float64), (601.0, None, None)],
)
def test_a_matrix_is_held_only_where_the_floats_have_room_for_its_sums(logarithm, wide, narrow):
    x = torch.zeros(4, 2, dtype=torch.float64)  # every kernel is 1: the total of a target is 4 m exp(beta energy)
    rows = StreamedAffinity(x, x, logarithm, 1.0, masses=0.25)
    for held, dtype in ((matrix_or_streamed(rows), wide), (matrix_or_streamed(rows, narrow=True), narrow)):
        if dtype is None:
            assert held is rows
            continue
        assert held.dtype == dtype
        expected = torch.full((4, 4), 0.25 * math.exp(logarithm), dtype=dtype)
        torch.testing.assert_close(held, expected)
        assert held.sum(1).isfinite().all()
    assert matrix_or_streamed(rows, elements=15) is rows


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"new_energies": torch.zeros(4)}, ValueError, "one number or have shape"),
        ({"new_energies": float("nan")}, ValueError, "new_energies"),
        ({"new_energies": 1e6}, ValueError, "StreamedAffinity"),
        ({"masses": -1.0}, ValueError, "masses"),
        ({"masses": torch.ones(3)}, ValueError, "masses"),
        ({"beta": -1.0}, ValueError, "beta"),
        ({"similarity": "cosine"}, ValueError, "similarity"),
        ({"targets": torch.zeros(5, 3)}, ValueError, "dimension"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"targets": torch.zeros(5, 2), "candidates": torch.zeros(4, 2), "new_energies": 0.0, "beta": 1.0}
    with pytest.raises(error, match=message):
        affinity(**{**arguments, "masses": 1.0, **change})


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match="two samples"):
        far_task_energy(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="k must"):
        replay_mass(0, 0.5)
    with pytest.raises(ValueError, match="replay_share"):
        replay_mass(3, 1.0)
