"""The forecast against its formulas in numpy, and what it says of data whose answer is known."""

import json
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import GreedyGain, calibrate_beta, forecast
from hopfield_replay.analysis import forecasting, replay_plan
from hopfield_replay.analysis.replay_plan import ReplayPlan
from hopfield_replay.functional import PatternTiles, energy
from hopfield_replay.policies import Candidates, shortlist
from tests.functional import numpy_energy as reference
from tests.functional.test_sparse_affinity import clusters
from tests.policies.test_candidates import key

SIZES = (2, 5, 9)
POLICIES = ("greedy_gain", "random", "high_energy", "k_center")
BETA = 0.4


def data(seed=0, n=24, d=3, shift=1.5):
    rng = np.random.default_rng(seed)
    return (torch.from_numpy(rng.normal(size=(n, d)) + shift * s).float() for s in (0, 1))


def protected(old, after, chosen, ratio):
    mass = ratio / ((1 - ratio) * len(chosen))
    result = []
    for x, e in zip(old, after, strict=True):
        kept = sum(math.exp(-BETA * np.sum((x - old[r]) ** 2) / 2) for r in chosen)
        result.append(math.log1p(mass * kept * math.exp(BETA * e)) / BETA)
    return np.array(result)


@pytest.mark.heavy
@pytest.mark.parametrize("streamed", [False, True])
def test_numbers_are_those_of_the_formulas(monkeypatch, streamed):
    old, new = data()
    if streamed:  # as for affinities beyond float64
        monkeypatch.setattr(replay_plan.StreamedAffinity, "log_totals", lambda self: torch.tensor([1e3]))
    found = forecast(old, new, beta=BETA, capacities=SIZES, policies=POLICIES, replay_ratio=0.4, seed=3)
    x, y = old.double().numpy(), new.double().numpy()
    before = reference.energy(x, x, BETA, exclude=np.arange(24))
    after = reference.energy(x, y, BETA)
    np.testing.assert_allclose(found.energies.numpy(), before, rtol=1e-5)
    np.testing.assert_allclose(found.rises.numpy(), after - before, rtol=1e-4, atol=1e-5)
    assert found.at_risk.tolist() == np.argsort(before - after)[:2].tolist()  # the worst tenth
    assert (found.beta, found.capacities, found.sample_bytes) == (BETA, SIZES, 12)
    assert [curve.policy for curve in found.curves] == list(POLICIES)

    tail = np.argsort(before - after, kind="stable")[:2]
    by_energy = np.argsort(-before)
    counted = np.maximum(after - before, 0.0)
    counted /= counted.mean()
    draws = [sorted(range(24), key=lambda i: -key(i, 3 + draw)) for draw in range(5)]
    for i, size in enumerate(SIZES):
        values = protected(x, after, by_energy[:size], 0.4)
        assert found.curves[2].mean[i] == pytest.approx(values.mean(), rel=1e-5)
        assert found.curves[2].tail[i] == pytest.approx(values[tail].mean(), rel=1e-5)
        assert found.curves[2].rise[i] == pytest.approx((counted * values).mean(), rel=1e-5)
        values = np.mean([protected(x, after, draw[:size], 0.4) for draw in draws], axis=0)
        assert found.curves[1].mean[i] == pytest.approx(values.mean(), rel=1e-5)
        assert found.curves[1].tail[i] == pytest.approx(values[tail].mean(), rel=1e-5)
        assert found.curves[1].rise[i] == pytest.approx((counted * values).mean(), rel=1e-5)
        picks = []
        while len(picks) < size:
            left = [r for r in range(24) if r not in picks]
            # the mass is that of the whole set from the first pick on
            worth = {r: protected(x, after, [*picks, r], 0.4 * share(size, len(picks) + 1)).sum() for r in left}
            picks.append(max(left, key=worth.get))
        greedy = protected(x, after, picks, 0.4)
        assert found.curves[0].mean[i] == pytest.approx(greedy.mean(), rel=1e-5)
        assert found.curves[0].rise[i] == pytest.approx((counted * greedy).mean(), rel=1e-5)
        assert 1 - 1 / math.e < found.certificates[i] <= 1.0
    ids = torch.arange(24)
    pool = Candidates(
        ids, ids * 0, torch.from_numpy(before), old, torch.rand(24), next_energies=torch.from_numpy(after), beta=BETA,
        places=found.capacity,
    )  # fmt: skip
    chosen = GreedyGain(0.4, objective="rise").selection(pool, found.capacity, tighten=10)
    assert found.rise_certificate == pytest.approx(chosen.guaranteed_share, rel=1e-4)
    assert found.rise_certificate != pytest.approx(found.certificates[SIZES.index(found.capacity)], rel=1e-4)


def share(size, at):
    """By what 0.4 must be multiplied for ``at`` samples to have the mass that each of ``size`` has."""
    odds = 0.4 / 0.6 * at / size
    return odds / (1 + odds) / 0.4


@pytest.mark.heavy
def test_marginal_is_what_100_more_would_add():
    old, new = data(n=260)
    found = forecast(old, new, beta=BETA, capacities=(20, 120, 220), policies=())
    means = found.curves[0].mean
    assert [curve.policy for curve in found.curves] == ["greedy_gain"]
    assert found.marginal[:2] == pytest.approx((means[1] - means[0], means[2] - means[1]), rel=1e-6)
    everything = forecast(old, new, beta=BETA, capacities=(260,), policies=()).curves[0].mean[0]
    assert found.marginal[2] == pytest.approx(everything - means[2], rel=1e-5)


@pytest.mark.heavy
def test_no_policy_exceeds_the_certified_optimum_and_greedy_is_recommended():
    old, new = data(n=60)
    found = forecast(old, new, capacities=(4, 8, 16, 32), policies=forecasting_policies())
    greedy = found.curves[0]
    for curve in found.curves:
        for value, best, guaranteed in zip(curve.mean, greedy.mean, found.certificates, strict=True):
            assert value <= best / guaranteed * (1 + 1e-6)
    best = max(found.curves, key=lambda c: c.mean[found.capacities.index(found.capacity)])
    assert found.policy == best.policy
    assert found.beta == calibrate_beta(old)


def forecasting_policies():
    from hopfield_replay.policies import POLICIES as everything

    return [name for name in everything if name != "high_loss"]


def test_the_knee_is_where_the_curve_bends():
    assert forecasting._knee((10, 20, 30, 40, 50), (0.0, 8.0, 9.0, 9.5, 10.0)) == 1
    assert forecasting._knee((10, 100, 1000), (0.0, 5.0, 6.0)) == 1
    assert forecasting._knee((10, 20), (1.0, 3.0)) == 1  # two points bend nowhere: the larger
    assert forecasting._knee((1, 2, 3), (2.0, 2.0, 2.0)) == 2


def test_classes_that_the_new_task_resembles_are_safe():
    rng = np.random.default_rng(0)
    labels = torch.arange(90) % 3
    centres = 5.0 * torch.eye(3)
    old = centres[labels] + torch.from_numpy(rng.normal(size=(90, 3))).float()
    new = centres[1] + torch.from_numpy(rng.normal(size=(50, 3))).float()
    found = forecast(old, new, labels=labels, capacities=(5, 10))
    assert set(found.classes) == {0, 1, 2}
    assert found.classes[1]["mean_rise"] < min(found.classes[c]["mean_rise"] for c in (0, 2)) - 1.0
    assert found.classes[1]["at_risk"] == 0.0
    assert {c["samples"] for c in found.classes.values()} == {30.0}
    for label, row in found.classes.items():
        assert row["mean_rise"] == pytest.approx(float(found.rises[labels == label].mean()))
    assert sum(c["at_risk"] for c in found.classes.values()) * 30 == pytest.approx(len(found.at_risk))


def test_the_shares_at_risk_are_those_of_the_samples_at_risk():
    old = torch.randn(25, 3, generator=torch.Generator().manual_seed(0))
    for new in (old[:9] + 2.0, torch.cat([old, old])):  # and of rises that are all equal
        similar = {"beta": 1e-9} if len(new) == 50 else {}
        found = forecast(old, new, labels=torch.arange(25) % 3, capacities=(5,), **similar)
        counts = torch.zeros(3).index_add_(0, found.at_risk % 3, torch.ones(len(found.at_risk)))
        for label, row in found.classes.items():
            assert row["at_risk"] * row["samples"] == pytest.approx(float(counts[label]))


def test_loaders_encoders_and_labels_from_batches():
    old, new = data(n=30)
    labels = torch.arange(30) % 2
    loader = DataLoader(TensorDataset(old, labels), batch_size=7, shuffle=True)
    found = forecast(loader, [(new[:11], torch.zeros(11)), (new[11:], torch.zeros(19))], beta=BETA, capacities=(3,))
    direct = forecast(old, new, beta=BETA, capacities=(3,), labels=labels)
    torch.testing.assert_close(found.rises, direct.rises)  # in the order of the data set
    assert found.classes == direct.classes
    halves = forecast(loader, [(new, labels)], encoder=lambda batch: batch[0][:, :2], beta=BETA, capacities=(3,))
    torch.testing.assert_close(halves.rises, forecast(old[:, :2], new[:, :2], beta=BETA, capacities=(3,)).rises)


def test_faces():
    pytest.importorskip("matplotlib")
    old, new = data(n=40)
    found = forecast(old, new, labels=torch.arange(40) % 4, capacities=(5, 10, 20))
    table = found.table()
    assert "40 old samples" in table
    assert f"recommended: policy {found.policy}, capacity {found.capacity}, " in table
    for curve in found.curves:
        assert f"\n{curve.policy}  " in table
        assert f"{curve.mean[0]:.4g} ({curve.tail[0]:.4g})" in table
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["rises"] == found.rises.tolist()
    assert plain["curves"][0]["policy"] == "greedy_gain"
    assert plain["diagnosis"]["beta"] == found.beta
    axes = found.figure().axes
    assert [line.get_label() for line in axes[1].lines][: len(found.curves)] == [c.policy for c in found.curves]


OLD, NEW = data()
IDS = torch.arange(3)


@pytest.mark.parametrize(
    ("old", "new", "arguments", "error", "message"),
    [
        (OLD[:3], NEW, {}, ValueError, "forecast needs at least 4 old samples, got 3"),
        (OLD, NEW[:0], {}, ValueError, "new holds no samples"),
        (OLD[:0], NEW, {}, ValueError, "old holds no samples"),
        ([], NEW, {}, ValueError, "old holds no samples"),
        (OLD, NEW[:, :2], {}, ValueError, "old vectors have dimension 3, new ones 2"),
        (OLD, NEW, {"capacities": (100,)}, ValueError, r"capacities must rise .* 24 old samples, got \[100\]"),
        (OLD, NEW, {"capacities": (5, 5)}, ValueError, "capacities must rise"),
        (OLD, NEW, {"capacities": (0, 5)}, ValueError, "capacities must rise from at least 1"),
        (OLD, NEW, {"capacities": ()}, ValueError, "capacities must rise"),
        (OLD, NEW, {"capacities": (5,), "labels": IDS}, ValueError, r"labels must have shape \(24,\), got \(3,\)"),
        (OLD, NEW, {"capacities": (5,), "policies": ("best",)}, ValueError, "Unknown policy 'best'"),
        (OLD, NEW, {"capacities": (5,), "policies": ("high_loss",)}, ValueError, "needs losses"),
        (OLD, NEW, {"capacities": (5,), "replay_ratio": 1.0}, ValueError, "must lie strictly between 0 and 1, got 1.0"),
        (OLD, NEW, {"beta": -1.0, "capacities": (5,)}, ValueError, "beta .* positive"),
        (OLD * torch.nan, NEW, {"capacities": (5,)}, ValueError, "NaN"),
        (OLD, NEW * torch.inf, {"capacities": (5,)}, ValueError, "NaN or infinite"),
        (OLD, NEW, {"similarity": "cosine", "capacities": (5,)}, ValueError, "similarity must be one of"),
        (torch.rand(9, 3, 4, 4), torch.rand(9, 4, 4, 3), {}, ValueError, r"shapes \(3, 4, 4\) and \(4, 4, 3\)"),
        (7, NEW, {}, TypeError, "Expected a DataLoader or an iterable of batches, got int"),
    ],
)  # fmt: skip
def test_bad_input_is_named(old, new, arguments, error, message):
    with pytest.raises(error, match=message):
        forecast(old, new, **arguments)


def worth(old, after, chosen, ratio, beta=BETA):
    """Protected energies of all old samples in float64, one kept sample after the other."""
    x = old.double().numpy()
    total = np.zeros(len(x))
    for r in chosen:
        total += np.exp(-beta * ((x - x[r]) ** 2).sum(1) / 2 + beta * after)
    return np.log1p(ratio / ((1 - ratio) * len(chosen)) * total) / beta


@pytest.mark.slow
def test_all_old_samples_count_however_many_there_are():
    g = torch.Generator().manual_seed(0)
    old = torch.randn(3000, 3, generator=g)
    # these lie at none of 2048 positions that are spread evenly
    aside = torch.ones(3000, dtype=torch.bool)
    aside[torch.linspace(0, 2999, 2048, dtype=torch.float64).round().long()] = False
    old[aside] *= 3.0
    new = torch.randn(50, 3, generator=g) + 2.0
    found = forecast(old, new, beta=BETA, capacities=(5, 20), policies=("high_energy",))
    after, chosen = found.rises.numpy() + found.energies.numpy(), np.argsort(-found.energies.numpy(), kind="stable")
    for i, size in enumerate((5, 20)):
        values = worth(old, after, chosen[:size], 0.5)
        assert found.curves[1].mean[i] == pytest.approx(values.mean(), rel=1e-6)
        assert found.curves[1].tail[i] == pytest.approx(values[found.at_risk].mean(), rel=1e-6)


@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("known", [True, False])
def test_where_all_affinities_are_kept_the_plan_is_that_of_the_whole_matrix(known, similarity, monkeypatch):
    old, new = data(n=150)
    patterns = PatternTiles(old)
    energies = energy(old, patterns, BETA, similarity=similarity, exclude=torch.arange(150))
    ids = torch.arange(150)
    pool = Candidates(
        ids, ids * 0, energies, old, torch.rand(150, generator=torch.Generator().manual_seed(0)), beta=BETA,
        similarity=similarity, next_energies=energy(old, new, BETA, similarity=similarity) if known else None,
    )  # fmt: skip
    among = ids[ids % 5 != 2]
    for options in ({}, {"among": among, "most": 77}):
        dense = ReplayPlan(pool, 0.4, **options)
        whole = dense.certified([dense.greedy(6), dense.greedy(13), dense.greedy(13, by_rise=True)])
        with monkeypatch.context() as patch:
            patch.setattr(shortlist, "MATRIX", 0)
            patch.setattr(shortlist, "_LEAST", 150)
            plan = ReplayPlan(pool, 0.4, **options)
            found = plan.certified([plan.greedy(6), plan.greedy(13), plan.greedy(13, by_rise=True)])
        for one, other in zip(found, whole, strict=True):
            assert one.indices.tolist() == other.indices.tolist()
            for name in ("value", "mean", "tail"):
                assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5)
            assert one.value <= one.upper_bound <= other.upper_bound * 1.001
        mine = among[found[1].indices] if options else found[1].indices
        torch.testing.assert_close(plan.protected(mine), found[1].protected)
        every = list(plan.nested(mine, [2, 13]))
        torch.testing.assert_close(every[0], plan.protected(mine[:2]), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(every[1], plan.protected(mine), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(plan.everything(), plan.protected(ids), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1 << 30, 2 * 24 * 600 * 40])
def test_sets_chosen_by_the_largest_affinities_are_nearly_as_good_and_certified_by_all(memory, monkeypatch):
    x = clusters(600, 40, kinds=60)
    ids = torch.arange(600)
    pool = Candidates(
        ids, ids * 0, torch.zeros(600, dtype=torch.float64), x,
        torch.rand(600, generator=torch.Generator().manual_seed(0)), beta=4.0, memory=memory,
    )  # fmt: skip
    whole = ReplayPlan(pool, 0.5)
    best = [whole.greedy(size).selection for size in (10, 30, 60)]
    monkeypatch.setattr(shortlist, "MATRIX", 0)
    plan = ReplayPlan(pool, 0.5)
    found = plan.certified([plan.greedy(size) for size in (10, 30, 60)])
    for size, one, other in zip((10, 30, 60), found, best, strict=True):
        chance = np.mean([float(whole.protected(torch.randperm(600)[:size]).mean()) for _ in range(10)])
        assert one.mean - chance >= (0.95 if memory == 1 << 30 else 0.8) * (other.mean - chance)
        assert other.value <= one.upper_bound  # no set, so also not that of the whole matrix
        assert one.guaranteed_share > 1 - 1 / math.e
    assert plan._built[1].kept <= 40 or memory == 1 << 30
