import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hopfield_replay.theory import (
    Setting,
    by_energy,
    cluster_and_outlier,
    digits,
    from_file,
    mixed_density,
    several_clusters,
)
from tests.theory import reference


@pytest.mark.parametrize(("n", "c", "d"), [(12, 0.35, 50), (2, 0.9, 3), (5, 0.0, 8)])
def test_cluster_and_outlier_gram(n, c, d):
    setting = cluster_and_outlier(n, c, d)
    gram = np.full((n + 1, n + 1), c)
    gram[n], gram[:, n] = 0, 0
    np.fill_diagonal(gram, 1)
    np.testing.assert_allclose(setting.patterns @ setting.patterns.T, gram, atol=1e-14)
    assert setting.members(0).tolist() == list(range(n))
    assert setting.members(1).tolist() == [n]


def test_several_clusters_gram():
    setting = several_clusters([3, 2], [0.2, 0.7], 8, outliers=2)
    gram = (setting.patterns @ setting.patterns.T).numpy()
    for i in range(7):
        for j in range(7):
            same = setting.groups[i] == setting.groups[j] and setting.groups[i] < 2
            between = [0.2, 0.7][int(setting.groups[i])] if same else 0.0
            assert gram[i, j] == pytest.approx(1.0 if i == j else between, abs=1e-14)


def test_mixed_density_is_mixed_and_repeatable():
    setting = mixed_density(seed=3)
    np.testing.assert_allclose(setting.patterns.norm(dim=1), 1.0)
    assert torch.equal(setting.patterns, mixed_density(seed=3).patterns)
    assert not torch.equal(setting.patterns, mixed_density(seed=4).patterns)
    gram = (setting.patterns @ setting.patterns.T).numpy()
    for group, c in enumerate((0.2, 0.5, 0.8)):
        inside = gram[np.ix_(setting.members(group), setting.members(group))]
        assert inside[~np.eye(16, dtype=bool)].mean() == pytest.approx(c, abs=0.1)


def test_digits():
    pytest.importorskip("sklearn")
    setting = digits(7, (2, 5), seed=1)
    assert setting.patterns.shape == (14, 64)
    assert setting.group_names == ("digit 2", "digit 5")
    assert len({tuple(row) for row in setting.patterns.tolist()}) == 14
    with pytest.raises(ValueError, match="digit 2 has 177 images, cannot draw 1000"):
        digits(1000, (2,))


@pytest.mark.parametrize("ending", ["npy", "csv", "safetensors"])
def test_from_file(tmp_path, ending):
    stored = np.random.default_rng(0).normal(size=(6, 4))
    path = tmp_path / f"x.{ending}"
    if ending == "npy":
        np.save(path, stored.astype(np.float32))
    elif ending == "csv":
        np.savetxt(path, stored, delimiter=",")
    else:
        save_file({"patterns": torch.from_numpy(stored), "groups": torch.tensor([0, 0, 1, 1, 0, 1])}, path)
    setting = from_file(path)
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    np.testing.assert_allclose(setting.patterns, unit, atol=1e-6)
    np.testing.assert_allclose(from_file(path, unit=False).patterns, stored, atol=1e-6)
    assert setting.group_names == (("group 0", "group 1") if ending == "safetensors" else ("patterns",))


def test_from_file_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"'x\.txt'"):
        from_file(tmp_path / "x.txt")
    save_file({"images": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"\['images'\].*'patterns'"):
        from_file(tmp_path / "x.safetensors")
    np.save(tmp_path / "zero.npy", np.zeros((3, 2)))
    with pytest.raises(ValueError, match="3 patterns of length 0"):
        from_file(tmp_path / "zero.npy")


def test_by_energy_takes_the_highest():
    setting = by_energy(mixed_density(), 8.0, share=0.1)
    stored = setting.patterns.numpy()
    levels = np.array([reference.energy(x, stored, 8.0) for x in stored])
    assert set(setting.members(1).tolist()) == set(np.argsort(-levels)[:5])
    with pytest.raises(ValueError, match="leaves a group empty"):
        by_energy(setting, 8.0, share=0.001)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cluster_and_outlier(50, 0.3, 50), "51 patterns in orthogonal groups do not fit into d = 50"),
        (lambda: cluster_and_outlier(3, 1.0, 9), "correlation c must lie in"),
        (lambda: cluster_and_outlier(1, 0.3, 9), "at least 2 patterns"),
        (lambda: several_clusters([3], [0.1, 0.2], 9), "equally long"),
        (lambda: mixed_density((3,), (1.2,)), "correlations must lie in"),
        (lambda: mixed_density((3, 4), (0.2,)), "as many sizes"),
        (lambda: Setting("x", torch.zeros(3), torch.zeros(3, dtype=torch.long), ("a",)), "floating"),
        (lambda: Setting("x", torch.eye(3), torch.zeros(2, dtype=torch.long), ("a",)), "each of the 3 patterns"),
        (lambda: Setting("x", torch.eye(3), torch.tensor([0, 2, 2]), ("a", "b")), "every index from 0 to 1"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
