import numpy as np
import pytest
import torch

from hopfield_replay.theory import Rotation, Setting, cluster_and_outlier, measure_recovery, reproduce_recovery
from tests.theory import reference


def test_against_a_retrieval_of_one_pattern_after_the_other():
    n, d, beta, mass = 4, 9, 8.0, 2.5
    change = Rotation(0.35)
    found = measure_recovery(cluster_and_outlier(n, 0.35, d), beta, [change], mass=mass, draws=6, seed=5)
    stored = reference.patterns(n, 0.35, d)
    right = np.zeros((6, n + 2, n + 1))  # draw; nothing or the replayed pattern; target
    for i, v in enumerate(change.matrices(d, 6, torch.Generator().manual_seed(5)).numpy()):
        for r in range(-1, n + 1):
            new = stored @ v.T if r < 0 else np.vstack([stored @ v.T, stored[r]])
            weights = np.ones(n + 1) if r < 0 else np.append(np.ones(n + 1), mass)
            for k, x in enumerate(stored):
                for _ in range(3000):
                    x = reference.softmax(beta * new @ x + np.log(weights)) @ new
                right[i, r + 1, k] = int(np.argmax(stored @ x) == k)
    assert 0.2 < right.mean() < 0.95  # or nothing is tested
    others = np.stack([np.delete(right[:, r + 1], r, 1).mean(1) for r in range(n + 1)], 1)
    whole = right.mean(2)
    expected = {
        "nothing": whole[:, 0],
        "random": whole[:, 1:].mean(1),
        "cluster": whole[:, 1 : n + 1].mean(1),
        "outlier": whole[:, n + 1],
    }
    for row in found.rows:
        share = expected[row.replayed]
        assert row.share.mean == pytest.approx(share.mean())
        assert row.over_random.mean == pytest.approx((share - expected["random"]).mean())
        assert row.over_random.error == pytest.approx((share - expected["random"]).std(ddof=1) / 6**0.5)
    assert found.rows[-1].others_over_random.mean == pytest.approx((others[:, n] - others.mean(1)).mean())


def test_without_rotation_every_identity_is_recovered():
    result = measure_recovery(cluster_and_outlier(4, 0.35, 9), 8.0, [Rotation(0.0)], draws=3)
    assert {row.share.mean for row in result.rows} == {1.0}


def test_the_sentences_say_what_the_numbers_do():
    result = reproduce_recovery(n=4, d=9, eps=(0.0, 0.4), draws=30)
    outlier = result.rows[-1]
    assert outlier.replayed == "outlier"
    sign = {1: "more than", 0: "not distinguishably from", -1: "less than"}[outlier.over_random.direction]
    assert f"{sign} a random sample ({100 * outlier.over_random.mean:+.2f} points)" in result.findings()[1]
    assert "no more at eps=0.0 (+0.00 points; of the others no more, +0.00)" in result.verdict()
    assert ["rotation eps=0.4", "outlier", f"{100 * outlier.share.mean:.2f} %"] in [
        [cell.strip() for cell in line.split("|")[1:4]] for line in result.table().splitlines()
    ]


def test_bad_input():
    alone = Setting("alone", torch.eye(3), torch.zeros(3, dtype=torch.int64), ("all",))
    with pytest.raises(ValueError, match="alone has only the group"):
        measure_recovery(alone, 8.0, [Rotation(0.1)])
    for wrong in ({"draws": 1}, {"mass": 0.0}, {"changes": []}):
        with pytest.raises(ValueError, match="need draws >= 2, a change and mass > 0"):
            measure_recovery(cluster_and_outlier(3, 0.3, 7), 8.0, **{"changes": [Rotation(0.1)], **wrong})
