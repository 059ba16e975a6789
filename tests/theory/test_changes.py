import numpy as np
import pytest
import scipy.linalg
import torch

from hopfield_replay.theory import NewTask, Replacement, Rotation, Translation, WithReplay
from tests.theory import reference

STORED = torch.from_numpy(reference.patterns(5, 0.5, 9))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.heavy
@pytest.mark.parametrize("variance", [0.5, 2.0])
def test_rotation_is_the_exponential_of_its_generator(variance):
    matrices = Rotation(0.1, variance).matrices(8, 400, generator()).numpy()
    omegas = np.stack([scipy.linalg.logm(v).real / 0.1 for v in matrices])
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(8), (400, 8, 8)), atol=1e-13
    )
    np.testing.assert_allclose(omegas, -omegas.transpose(0, 2, 1), atol=1e-12)
    entries = omegas[:, *np.triu_indices(8, 1)]
    # 11,200 normal entries: the variance is known to variance * sqrt(2 / 11200)
    assert entries.var() == pytest.approx(variance, abs=4 * variance * np.sqrt(2 / entries.size))
    assert abs(entries.mean()) < 4 * np.sqrt(variance / entries.size)


@pytest.mark.parametrize("similarity", ["dot", "distance"])
def test_rotated_energies_in_one_batch_are_those_of_rotated_patterns(similarity):
    change, beta = Rotation(0.3), 6.0
    points = torch.randn(4, 9, dtype=torch.float64, generator=generator(5))
    found = change.energies_after(points, STORED, beta, 3, generator(1), similarity)
    for rotation, row in zip(change.matrices(9, 3, generator(1)).numpy(), found, strict=True):
        turned = np.stack([rotation @ xi for xi in STORED.numpy()])
        for x, value in zip(points.numpy(), row.tolist(), strict=True):
            if similarity == "dot":
                expected = reference.energy(x, turned, beta)
            else:
                expected = -np.log(sum(np.exp(-beta * np.sum((x - xi) ** 2) / 2) for xi in turned)) / beta
            assert value == pytest.approx(expected, rel=1e-12)


def test_chunks_of_rotations_are_the_stream_of_one():
    change = Rotation(0.1)
    together = change.energies_after(STORED, STORED, 4.0, 1100, generator(2))
    assert together.shape == (1100, 6)
    first = change.energies_after(STORED, STORED, 4.0, 500, generator(2))
    torch.testing.assert_close(together[:500], first, rtol=1e-12, atol=0)
    assert len(torch.unique(together[:, 0])) == 1100


def test_replacement():
    task = Replacement(0.5).apply(2 * STORED, generator())
    same = (task.patterns == 2 * STORED).all(1)
    assert same.sum() == 3
    torch.testing.assert_close(task.patterns.norm(dim=1), torch.full((6,), 2.0, dtype=torch.float64))
    assert torch.equal(task.masses, torch.ones(6, dtype=torch.float64))
    assert not torch.equal(task.patterns, Replacement(0.5).apply(2 * STORED, generator(1)).patterns)


def test_translation():
    task = Translation(0.7).apply(STORED, generator())
    shifts = task.patterns - STORED
    torch.testing.assert_close(shifts, shifts[:1].expand_as(shifts))
    assert shifts[0].norm().item() == pytest.approx(0.7)


def test_new_task_with_replay_masses():
    fresh = torch.randn(3, 9, generator=generator(3))
    change = WithReplay(NewTask(fresh), (5, 0), (2.0, 0.25))
    found = change.energies_after(STORED[:2], STORED, 3.0, 1, generator())[0]
    both = np.concatenate([fresh.double().numpy(), STORED.numpy()[[5, 0]]])
    expected = [reference.energy(x, both, 3.0, [1, 1, 1, 2.0, 0.25]) for x in STORED.numpy()[:2]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_names():
    changes = [Rotation(0.02), Replacement(0.25), Translation(0.2), WithReplay(NewTask(STORED), (1,), (1.0,))]
    assert [c.name for c in changes] == [
        "rotation eps=0.02",
        "replacement of 25%",
        "translation by 0.2",
        "new task of 6 patterns + replay of 1",
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rotation(-0.1),
        lambda: Rotation(0.1, 0.0),
        lambda: Rotation(float("nan")),
        lambda: Replacement(1.1),
        lambda: Translation(-1.0),
        lambda: WithReplay(Translation(1.0), (1, 2), (1.0,)),
        lambda: WithReplay(Translation(1.0), (1,), (0.0,)),
    ],
)
def test_refuses(make):
    with pytest.raises(ValueError, match=r"need|must lie|must be"):
        make()
