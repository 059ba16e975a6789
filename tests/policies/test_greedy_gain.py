"""GreedyGain against greedy written down literally, and against the best of all sets."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hopfield_replay import GreedyGain, balanced
from hopfield_replay.functional import Rows
from hopfield_replay.policies import requirements, shortlist
from hopfield_replay.policies.candidates import Candidates, sample_keys
from tests.functional import numpy_energy as reference


def pool(x, *, beta=0.6, new=None, weights=None, similarity="distance", places=3, ids=None):
    n = len(x)
    ids = torch.arange(n) if ids is None else ids
    own = reference.energy(x, x, beta, similarity=similarity, exclude=np.arange(n))
    after = None if new is None else torch.from_numpy(reference.energy(x, new, beta, similarity=similarity))
    return Candidates(
        ids, torch.zeros(n, dtype=torch.int64), torch.from_numpy(own), torch.from_numpy(x), sample_keys(ids, 0),
        weights=weights, next_energies=after, beta=beta, similarity=similarity, places=places,
    )  # fmt: skip


def affinities(x, beta, after, mass, similarity="distance"):
    """a[k][r] = m exp(score_r(x_k)) / Z_new(x_k), with Z_new from the energy of either form."""
    result = np.empty((len(x), len(x)))
    for k, target in enumerate(x):
        for r, candidate in enumerate(x):
            if similarity == "distance":
                log = -beta * np.sum((target - candidate) ** 2) / 2 + beta * after[k]
            else:
                log = beta * target @ candidate + beta * (after[k] - target @ target / 2)
            result[k, r] = mass * math.exp(log)
    return result


def worth(a, chosen, weights, beta):
    return sum(w * math.log1p(a[k, list(chosen)].sum()) for k, w in enumerate(weights)) / beta


def literal_greedy(a, size, weights, beta):
    picks = []
    while len(picks) < size:
        left = [r for r in range(a.shape[1]) if r not in picks]
        picks.append(max(left, key=lambda r: (worth(a, [*picks, r], weights, beta), -r)))
    return picks


def unknown(x):
    """Half of the mean squared distance of two samples, as if every one were that far from the next task."""
    pairs = [np.sum((p - q) ** 2) for p, q in itertools.combinations(x, 2)]
    return np.full(len(x), np.mean(pairs) / 2)


def draw(seed, n=9, d=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(6, d)) + 1.0, rng.integers(1, 5, size=n).astype(float)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("known", [False, True], ids=["next task unknown", "next task known"])
@pytest.mark.parametrize("ratio", [0.5, 0.2])
def test_it_is_greedy_and_close_to_the_best_of_all_sets(seed, known, ratio):
    x, new, weights = draw(seed)
    candidates = pool(x, new=new if known else None, weights=torch.from_numpy(weights))
    after = reference.energy(x, new, 0.6) if known else unknown(x)
    a = affinities(x, 0.6, after, ratio / ((1 - ratio) * 3))
    found = GreedyGain(ratio).selection(candidates, 3, tighten=4)
    assert found.indices.tolist() == literal_greedy(a, 3, weights, 0.6)
    assert found.value == pytest.approx(worth(a, found.indices.tolist(), weights, 0.6), rel=1e-9)
    best = max(worth(a, chosen, weights, 0.6) for chosen in itertools.combinations(range(9), 3))
    assert (1 - 1 / math.e) * best <= found.value <= best * (1 + 1e-12) <= found.upper_bound * (1 + 1e-9)
    assert GreedyGain(ratio).select(candidates, 5)[:3].tolist() == found.indices.tolist()  # nested


@pytest.mark.parametrize("known", [False, True])
def test_dot_form(known):
    x, new, weights = draw(11)
    x, new = x / np.linalg.norm(x, axis=1, keepdims=True), new / np.linalg.norm(new, axis=1, keepdims=True)
    after = reference.energy(x, new, 2.0, similarity="dot") if known else 0.5 * (x**2).sum(1)  # <x, xi> about 0
    candidates = pool(x, beta=2.0, new=new if known else None, weights=torch.from_numpy(weights), similarity="dot")
    a = affinities(x, 2.0, after, 1 / 3, "dot")
    assert GreedyGain().select(candidates, 4).tolist() == literal_greedy(a, 4, weights, 2.0)


@pytest.mark.parametrize("objective", ["tail", "blend"])
@pytest.mark.parametrize("known", [False, True])
def test_tail_counts_the_tenth_that_is_most_at_risk(objective, known):
    x, new, _ = draw(5, n=20)
    candidates = pool(x, new=new if known else None)
    own = candidates.energies.numpy()
    after = reference.energy(x, new, 0.6) if known else unknown(x)
    worst = np.argsort(-(after - own if known else own))[:2]
    weights = np.zeros(20) if objective == "tail" else np.full(20, 0.5)
    weights[worst] += (1.0 if objective == "tail" else 0.5) * 20 / 2
    a = affinities(x, 0.6, after, 1 / 3)
    assert GreedyGain(objective=objective).select(candidates, 4).tolist() == literal_greedy(a, 4, weights, 0.6)


@pytest.mark.parametrize("in_parts", [False, True])
def test_the_choice_from_sparse_affinities_is_that_of_the_matrix_where_all_are_listed(in_parts, monkeypatch):
    x, new, _ = draw(2, n=40)
    for candidates in (pool(x), pool(x, new=new)):
        whole = GreedyGain().selection(candidates, 10)
        with monkeypatch.context() as patch:
            patch.setattr(shortlist, "MATRIX", 0)
            patch.setattr(shortlist, "_LEAST", 40)
            many = replace(candidates, vectors=Rows(*candidates.vectors.split(7))) if in_parts else candidates
            found = GreedyGain().selection(many, 10)
            assert torch.equal(GreedyGain().select(many, 10), whole.indices)
        assert torch.equal(found.indices, whole.indices)
        assert found.value == pytest.approx(whole.value, rel=1e-9)
        assert whole.value < found.upper_bound <= whole.upper_bound * 1.001


def test_affinities_beyond_float64_are_streamed():
    x, new, _ = draw(2, n=12)
    found = GreedyGain().selection(pool(100 * x, new=100 * new), 4)
    assert len(found.indices.unique()) == 4
    assert math.isfinite(found.value)


def test_where_there_are_too_many_samples_a_random_share_counts_and_competes(monkeypatch):
    x, _, weights = draw(7, n=60)
    weights[5:] = 1.0  # five samples stand for others
    for name, value in {"MATRIX": 0, "_COUNTED": 30, "_COMPETING": 40, "_LEAST": 40}.items():
        monkeypatch.setattr(shortlist, name, value)
    candidates = pool(x, weights=torch.from_numpy(weights))
    short = shortlist.Shortlist.of(candidates, 5, 5)
    assert len(short.counted) == 30
    assert len(short.competing) == 40
    assert set(torch.arange(5)[torch.from_numpy(weights[:5] > 1)].tolist()) <= set(short.counted.tolist())
    assert float(short.weights.sum()) == pytest.approx(weights.sum())
    assert torch.equal(short.competing[short.own[short.own >= 0]], short.counted[short.own >= 0])
    assert not torch.isin(short.counted[short.own < 0], short.competing).any()
    a = affinities(x, 0.6, unknown(x), 1 / 3)[short.counted.numpy()][:, short.competing.numpy()]
    expected = short.competing[literal_greedy(a, 5, short.weights.numpy(), 0.6)]
    policy = GreedyGain(oversample=1)
    assert policy.select(candidates, 5).tolist() == expected.tolist()
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    again = policy.select(candidates.pick(shuffled), 5)
    assert shuffled[again].tolist() == expected.tolist()  # of the ids and the seed, not of the order


def test_less_memory_means_shorter_lists_among_fewer():
    ids = torch.arange(50_000)
    none = torch.zeros(50_000, dtype=torch.float64)
    candidates = Candidates(ids, ids, none, none[:, None], sample_keys(ids, 0))
    much, little = (shortlist.Shortlist.of(replace(candidates, memory=m), 2000, 500) for m in (1 << 30, 1 << 26))
    assert much.listed == 3 * 50_000 // 500
    assert len(much.competing) == 50_000
    assert little.listed * 24 * 50_000 <= 1 << 25
    assert 2000 <= len(little.competing) < 50_000


def test_equal_gains_go_to_the_smaller_id_in_any_order():
    x = np.repeat([[0.0], [4.0], [9.0]], 4, axis=0)
    ids = torch.from_numpy(np.random.default_rng(0).permutation(12))
    picks = []
    for order in (
        torch.arange(12),
        torch.arange(12).flip(0),
        torch.from_numpy(np.random.default_rng(1).permutation(12)),
    ):
        candidates = pool(x[order.numpy()], ids=ids[order])
        picks.append(candidates.ids[GreedyGain().select(candidates, 3)].tolist())
    assert picks[0] == picks[1] == picks[2]
    assert set(picks[0]) == {int(ids[i : i + 4].min()) for i in (0, 4, 8)}


def test_nothing_to_choose_from():
    assert GreedyGain().select(pool(np.ones((1, 2)), places=4), 1).tolist() == [0]
    assert GreedyGain().select(pool(np.ones((5, 2))), 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "worst"}, 'objective must be "mean", "tail", "blend" or "rise", got \'worst\''),
        ({"oversample": 0}, "oversample must be a whole number >= 1, got 0"),
        ({"oversample": 2.5}, "oversample must be a whole number >= 1, got 2.5"),
        ({"replay_ratio": 0.0}, "replay_ratio must lie strictly between 0 and 1, got 0.0"),
        ({"replay_ratio": 1.0}, "replay_ratio must lie strictly between 0 and 1, got 1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GreedyGain(**arguments)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temper", [1.0, 0.5])
def test_protection_counts_by_the_rise_of_what_is_protected(seed, temper):
    """Against greedy and the best of all sets, with weights written down; plain values are told beside them."""
    x, new, weights = draw(seed)
    candidates = pool(x, new=new, weights=torch.from_numpy(weights))
    after = reference.energy(x, new, 0.6)
    a = affinities(x, 0.6, after, 1 / 3)
    rises = np.maximum(after - reference.energy(x, x, 0.6, exclude=np.arange(9)), 0.0) ** temper
    weighted = weights * rises / np.average(rises, weights=weights)
    policy = GreedyGain(objective="rise", temper=temper)
    found = policy.selection(candidates, 3, tighten=4)
    chosen = found.indices.tolist()
    assert chosen == literal_greedy(a, 3, weighted, 0.6) == policy.select(candidates, 3).tolist()
    best = max(worth(a, c, weighted, 0.6) for c in itertools.combinations(range(9), 3))
    assert found.value == pytest.approx(worth(a, chosen, weighted, 0.6), rel=1e-9)
    assert (1 - 1 / math.e) * best <= found.value <= best * (1 + 1e-12) <= found.upper_bound * (1 + 1e-9)
    assert found.mean == pytest.approx(worth(a, chosen, weights, 0.6) / weights.sum(), rel=1e-9)
    assert policy.select(candidates, 5)[:3].tolist() == chosen  # nested


def test_without_rises_all_samples_count_alike():
    x, new, _ = draw(0)
    plain, risen = GreedyGain(), GreedyGain(objective="rise")
    for candidates in (pool(x), pool(x, new=x), pool(np.concatenate([x, x + 50.0]), new=np.concatenate([x, x + 50.0]))):
        assert risen.select(candidates, 4).tolist() == plain.select(candidates, 4).tolist()
    assert risen.select(pool(x, new=new), 4).tolist() != plain.select(pool(x, new=new), 4).tolist()


def test_a_sample_alone_or_beyond_reach_is_chosen_by_its_place_and_not_by_infinity():
    candidates = pool(draw(0)[0], new=draw(0)[1])
    energies, after = candidates.energies.clone(), candidates.next_energies.clone()
    energies[3], after[5] = math.inf, 600.0
    picks = GreedyGain(objective="rise").select(replace(candidates, energies=energies, next_energies=after), 4)
    assert sorted(set(picks.tolist())) == sorted(picks.tolist())
    assert 5 in picks.tolist()


def test_needs_of_rises():
    needs = requirements(GreedyGain(objective="rise", temper=0.5))
    assert (needs.energies, needs.rises, needs.temper) == (False, True, 0.5)
    assert not requirements(GreedyGain(objective="mean")).energies
    wrapped = requirements(balanced(GreedyGain(objective="rise", temper=0.5), by="task"))
    assert (wrapped.rises, wrapped.temper) == (True, 0.5)
    with pytest.raises(ValueError, match=r"temper must be finite and not negative, got -0\.5"):
        GreedyGain(temper=-0.5)
