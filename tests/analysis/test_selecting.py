"""The choice against literal loops, its certificate against every subset, and the shares of groups."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import select
from hopfield_replay.analysis import ImageCollection
from hopfield_replay.analysis.near_duplicates import near_duplicates
from tests.functional import numpy_energy as reference
from tests.policies.test_candidates import key

BETA = 0.7


def data(n=14, d=2, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d))).float()


def protected(old, after, chosen, ratio, beta=BETA):
    """Energy that a replay set protects of each old sample, sample by sample."""
    mass = ratio / ((1 - ratio) * len(chosen))
    found = []
    for x, e in zip(old, after, strict=True):
        kept = sum(math.exp(-beta * np.sum((x - old[r]) ** 2) / 2) for r in chosen)
        found.append(math.log1p(mass * kept * math.exp(beta * e)) / beta)
    return np.array(found)


def far(old):
    return np.full(len(old), np.sum((old - old.mean(0)) ** 2) / (len(old) - 1))


def by_greed(old, after, k, ratio):
    mass, chosen = ratio / ((1 - ratio) * k), []

    def value(subset):
        kernel = [[math.exp(-BETA * np.sum((x - old[r]) ** 2) / 2) for r in subset] for x in old]
        return sum(math.log1p(mass * sum(row) * math.exp(BETA * e)) for row, e in zip(kernel, after, strict=True))

    for _ in range(k):
        rest = [i for i in range(len(old)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: value([*chosen, i])))
    return chosen


@pytest.mark.parametrize("known", [False, True])
def test_the_choice_and_what_it_protects_are_those_of_literal_loops(known):
    old = data()
    new = data(seed=1) + 1.0
    found = select(old, new if known else None, keep=4, beta=BETA, replay_ratio=0.4, seed=3)
    x = old.double().numpy()
    after = reference.energy(x, new.double().numpy(), BETA) if known else far(x)
    assert found.indices.tolist() == by_greed(x, after, 4, 0.4)
    risk = after - reference.energy(x, x, BETA, exclude=np.arange(14))
    worst = np.argmax(risk if known else -risk)  # a tenth of 14 is one; of an unknown task: the highest energy
    values = protected(x, after, found.indices.tolist(), 0.4)
    everything = protected(x, after, range(14), 0.4)
    draws = [sorted(range(14), key=lambda i: -key(i, 3 + draw))[:4] for draw in range(5)]
    random = np.mean([protected(x, after, draw, 0.4) for draw in draws], axis=0)
    for name, expected in (("kept", values), ("random", random), ("everything", everything)):
        assert getattr(found, name).mean == pytest.approx(expected.mean(), rel=1e-5)
        assert getattr(found, name).tail == pytest.approx(expected[worst], rel=1e-5)
    order = np.argsort(values - everything)
    assert found.uncovered.tolist() == order.tolist()
    np.testing.assert_allclose(found.shortfall, (everything - values)[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["greedy_gain", "random", "k_center", "high_energy"])
def test_no_set_protects_more_than_the_certificate_allows(policy):
    old = data(n=9)
    found = select(old, keep=3, beta=BETA, policy=policy)
    x = old.double().numpy()
    best = max(protected(x, far(x), subset, 0.5).mean() for subset in combinations(range(9), 3))
    assert found.kept.mean <= best * (1 + 1e-6)
    assert best <= found.kept.mean / found.certificate * (1 + 1e-6)
    assert 0 < found.certificate <= 1


def test_the_choice_is_nested_and_does_not_depend_on_batches():
    old = data(n=30)
    whole = select(old, keep=12, beta=BETA, policy="k_center").indices
    assert select(old, keep=5, beta=BETA, policy="k_center").indices.tolist() == whole[:5].tolist()
    batches = DataLoader(TensorDataset(old, torch.arange(30) % 2), batch_size=7)
    found = select(batches, keep=12, beta=BETA, policy="k_center")
    assert found.indices.tolist() == whole.tolist()
    assert {name: row["samples"] for name, row in found.classes.items()} == {"0": 15, "1": 15}


def test_weights_count_the_samples_that_each_one_stands_for():
    old = data(n=20)
    found = select(old, keep=4, beta=BETA)
    x, kept = old.double().numpy(), found.indices.tolist()
    nearest = [min(kept, key=lambda r: np.sum((row - x[r]) ** 2)) for row in x]
    assert found.weights.tolist() == [nearest.count(r) for r in kept]
    assert select(old, keep=4, beta=BETA, policy="random").weights.tolist() == [5.0] * 4


def test_groups_share_the_places_in_turns_and_weigh_what_they_have():
    old, kinds = data(n=20), ["b"] * 14 + ["a"] * 4 + ["c"] * 2
    found = select(old, keep=9, beta=BETA, by=kinds)
    assert [kinds[i] for i in found.indices.tolist()] == ["a", "b", "c"] * 2 + ["a", "b", "a"]  # c has two only
    assert {name: (row["samples"], row["kept"]) for name, row in found.classes.items()} == {
        "a": (4, 4),
        "b": (14, 3),
        "c": (2, 2),
    }
    for name, count in (("a", 4), ("b", 14), ("c", 2)):
        own = [i for i, at in enumerate(found.indices.tolist()) if kinds[at] == name]
        assert float(found.weights[own].sum()) == count
    labels = torch.tensor([0] * 10 + [1] * 10)
    by_label = select([(old, labels)], keep=4, beta=BETA, by="label")
    assert by_label.classes == {"0": {"samples": 10, "kept": 2}, "1": {"samples": 10, "kept": 2}}


def test_a_pool_is_drawn_at_random_and_the_same_for_the_same_seed():
    old = data(n=40)
    found = [select(old, keep=5, beta=BETA, pool=10, seed=seed) for seed in (0, 0, 1)]
    assert found[0].candidates == 10
    assert found[0].indices.tolist() == found[1].indices.tolist() != found[2].indices.tolist()
    assert float(found[0].weights.sum()) == 40  # it stands for all, not for the pool


def test_near_duplicates_are_reported_and_one_of_them_may_be_chosen():
    old = data(n=12)
    old = torch.cat([old, old[:3], old[3:4] + 1e-3])
    found = select(old, keep=12, beta=BETA, unique=0.01)
    assert found.duplicates == [(12, 0), (13, 1), (14, 2), (15, 3)]
    assert sorted(found.indices.tolist()) == list(range(12))
    assert select(old, keep=12, beta=BETA, unique=0.0).duplicates == [(12, 0), (13, 1), (14, 2)]
    assert select(old, keep=12, beta=BETA).duplicates == []
    with pytest.raises(ValueError, match="keep=13 is more than the 12 samples"):
        select(old, keep=13, beta=BETA, unique=0.01)


@pytest.mark.parametrize("tile", [1, 40, 1 << 22])
def test_near_duplicates_are_those_of_a_literal_loop(monkeypatch, tile):
    monkeypatch.setattr("hopfield_replay.analysis.near_duplicates._TILE_ELEMENTS", tile)
    rng = np.random.default_rng(2)
    x = 1000 + rng.normal(size=(30, 3))
    x[20:] = x[:10] + rng.normal(size=(10, 3)) * 0.02
    distances = np.sqrt(((x[:, None] - x[None]) ** 2).sum(2))
    usual = np.sort(np.sort(distances, axis=1)[:, 10])[14]  # torch's median is the lower one
    expected = []
    for i in range(30):
        firsts = [j for j in range(i) if expected[j] < 0 and distances[i, j] <= 0.1 * usual]
        expected.append(firsts[0] if firsts else -1)
    assert near_duplicates(torch.from_numpy(x), 0.1).tolist() == expected
    assert any(first >= 0 for first in expected)


def test_the_report_reads_as_a_table_and_as_json():
    images = ImageCollection.of_pixels(torch.rand(12, 1, 4, 4), labels=["cat", "dog"] * 6, names=list("abcdefghijkl"))
    found = select(images, keep=3, unique=True)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row["rank"] for row in told["chosen"]] == [1, 2, 3]
    assert [row["name"] for row in told["chosen"]] == [images[i].name for i in found.indices.tolist()]
    assert sum(row["kept"] for row in told["classes"].values()) == 3
    table = found.table()
    assert "3 of 12 samples chosen by greedy_gain" in table
    assert "near-duplicates left out: 0" in table
    assert "protected energy" in table
    assert "worst covered: " in table
    figure = found.figure(lambda at: images.pictures(at, 16))
    assert [axis.get_title("left") for axis in figure.axes] == ["chosen, best first (3)", "worst covered"]


def test_colour_images_in_raw_pixels_get_a_warning_and_an_encoder_takes_it_away():
    images = ImageCollection.of_pixels(torch.rand(6, 3, 32, 32))
    with pytest.warns(UserWarning, match="compared pixel by pixel"):
        select(images, keep=2)

    def means(batch):
        assert batch.shape[1:] == (3, 8, 8)
        return batch.mean((2, 3))

    assert len(select(images, keep=2, encoder=means, size=8)) == 2
    two = ImageCollection([*images, *ImageCollection.of_pixels(torch.rand(2, 3, 8, 9))])
    with pytest.raises(ValueError, match="several sizes; give the size"):
        select(two, keep=2, encoder=means)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0}, "keep must be a whole number >= 1"),
        ({"keep": 21}, "keep=21 is more than the 20 samples"),
        ({"keep": 2, "pool": 21}, "pool=21 is more than the 20"),
        ({"keep": 5, "pool": 4}, "keep=5 is more than the 4"),
        ({"keep": 2, "policy": "no"}, "Unknown policy"),
        ({"keep": 2, "policy": "high_loss"}, "knows no model"),
        ({"keep": 2, "by": "label"}, "have none"),
        ({"keep": 2, "by": ["a"]}, "as many labels or groups, got 1"),
        ({"keep": 2, "by": list("abcde" * 4)}, "5 groups cannot share keep=2"),
        ({"keep": 2, "new": torch.zeros(3, 5)}, "old vectors have dimension 2, new ones 5"),
        ({"keep": 2, "new": torch.zeros(0, 2)}, "new holds no samples"),
        ({"keep": 2, "unique": -1.0}, "must not be negative"),
        ({"keep": 2, "replay_ratio": 1.0}, "replay_ratio must lie strictly between 0 and 1"),
    ],
)
def test_bad_input_is_refused_with_what_was_given(change, message):
    with pytest.raises(ValueError, match=message):
        select(data(n=20), **change)


def test_a_policy_of_ones_own_chooses_and_is_checked():
    class Newest:
        def select(self, candidates, k):
            return candidates.ids.argsort(descending=True)[:k]

    class Twice:
        def select(self, candidates, k):
            return torch.zeros(k, dtype=torch.int64)

    assert select(data(n=20), keep=3, policy=Newest()).indices.tolist() == [19, 18, 17]
    with pytest.raises(ValueError, match="must select 3 distinct candidates"):
        select(data(n=20), keep=3, policy=Twice())
