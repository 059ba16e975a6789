import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch

from hopfield_replay.theory import reproduce_falsify
from hopfield_replay.theory.falsify import judge, judge_mixed, rank_correlation
from hopfield_replay.theory.settings import mixed_density
from tests.theory import reference


@pytest.fixture(scope="module")
def result():
    return reproduce_falsify(
        n=(2, 12), c=(0.35, 0.9), beta=(1, 4, 8, 16, 32), d=50, mixed_beta=(4, 20), mixed_seeds=2, draws=1000, seed=1
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("n", "c", "beta", "verdict"),
    [
        (12, 0.35, 8.0, "holds"),
        (12, 0.35, 1.0, "merged"),
        (12, 0.35, 2.0, "merged"),
        (12, 0.35, 4.0, "merged"),
        (2, 0.9, 4.0, "reversed"),
        (12, 0.35, 16.0, "equal"),
        (12, 0.35, 32.0, "equal"),
    ],
)
def test_verdicts_at_the_fixed_points(n, c, beta, verdict):
    stored = reference.patterns(n, c, 50)
    ends = [reference.fixed_point(x, stored, beta) for x in stored[[0, n]]]
    rises = [reference.expected(x, stored, beta) for x in ends]
    gap = reference.energy(ends[1], stored, beta) - reference.energy(ends[0], stored, beta)
    surplus = (rises[1] - rises[0]) / max(rises)
    independent = (
        "merged"
        if np.linalg.norm(ends[0] - ends[1]) < 1e-6
        else "equal"
        if abs(surplus) < 0.01
        else "holds"
        if surplus * gap > 0
        else "reversed"
    )
    cell = judge(n, c, 50, beta)[1]
    assert (cell.place, cell.verdict, independent) == ("fixed point", verdict, verdict)
    assert (cell.rise_cluster, cell.rise_outlier) == pytest.approx(rises, rel=1e-8)
    assert cell.energy_gap == pytest.approx(gap, abs=1e-12)
    assert gap > -1e-12  # the outlier's energy is never the lower one


def test_at_the_patterns_small_beta_reverses():
    cell = judge(12, 0.35, 50, 1.0)[0]
    stored = reference.patterns(12, 0.35, 50)
    assert (cell.place, cell.verdict) == ("pattern", "reversed")
    assert cell.rise_outlier == pytest.approx(reference.expected(stored[12], stored, 1.0))
    assert cell.rise_cluster > cell.rise_outlier
    assert cell.energy_gap > 0


@pytest.mark.heavy
def test_the_diagnosis_flags_every_merged_or_reversed_setting(result):
    failing = result.failing()
    assert {c.verdict for c in failing} == {"merged", "reversed"}
    assert all(c.merged_fraction > 0 and c.warned for c in failing)
    assert result.undiagnosed() == []


@pytest.mark.heavy
@pytest.mark.parametrize("change", [{"merged_fraction": 0.0}, {"warned": False}])
def test_a_failing_setting_that_the_diagnosis_misses_is_named(result, change):
    missed = dataclasses.replace(result.failing()[0], **change)
    assert dataclasses.replace(result, cells=(missed, *result.cells)).undiagnosed() == [missed]


def test_the_diagnosis_finds_the_reference_setting_unmerged():
    assert judge(12, 0.35, 50, 8.0)[0].merged_fraction == 0


@pytest.mark.heavy
def test_the_counterexample_is_confirmed_by_rotations(result):
    (order,) = result.counterexamples
    assert order.change == "rotation eps=0.05, n=2, c=0.9, beta=4"
    assert (order.high, order.low) == ("outlier", "cluster")
    assert order.difference.direction == -1


@pytest.mark.heavy
def test_mixed_density_flips_its_sign(result):
    for beta, seeds in ((4.0, (0, 1)), (20.0, (0, 1))):
        correlations = []
        for seed in seeds:
            stored = mixed_density(seed=seed).patterns.numpy()
            levels = [reference.energy(x, stored, beta) for x in stored]
            rises = [reference.expected(x, stored, beta) for x in stored]
            correlations.append(scipy.stats.spearmanr(levels, rises).statistic)
        found = next(m for m in result.mixed if m.beta == beta and m.place == "pattern")
        assert found.correlation.mean == pytest.approx(np.mean(correlations), abs=1e-6)
        assert found.correlation.direction == 0 or np.sign(np.mean(correlations)) == (1 if beta > 10 else -1)
    merged = judge_mixed(2.0, 50, [0])[1]
    assert (merged.place, merged.correlation.mean, merged.merged_fraction) == ("fixed point", 0.0, 1.0)


def test_rank_correlation_is_spearmans_with_ties():
    x, y = np.random.default_rng(0).integers(0, 6, (2, 40)).astype(float)
    found = rank_correlation(torch.from_numpy(x), torch.from_numpy(y))
    assert found == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    noisy = torch.from_numpy(x + 1e-9 * np.arange(40))
    assert rank_correlation(noisy, torch.from_numpy(y), 1e-6) == pytest.approx(found)
    assert rank_correlation(torch.ones(3), torch.arange(3.0)) == 0.0


@pytest.mark.heavy
def test_result_is_plain_and_drawn(result):
    assert len(result.to_dict()["cells"]) == 2 * 2 * 2 * 5
    assert "| 2             | 0.9 | 4    |" in result.table()
    assert result.verdict().startswith("No: at each pattern it holds in")
    assert any("Counter-example" in sentence for sentence in result.findings())
    figure = pytest.importorskip("matplotlib.figure").Figure
    assert isinstance(result.figure(), figure)
