import doctest
import json
import math
import re
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr, ttest_1samp

import energy_forgetting_study as study
from helpers import study_job
from helpers import study_statistics as statistics
from helpers.splits import Split, make_buffer
from helpers.study_report import capacity_text, draw_correlations, draw_policies, markdown, summarize
from hopfield_replay.tracker import BoundaryRecord, sample_ids

SETTINGS = study_job.Settings(
    data="digits",
    train=64,
    epochs=1,
    batch_size=32,
    network="unet",
    width=8,
    ema_decay=None,
    gradient_clip=1.0,
    seen=5,
    replay_ratio=0.5,
    generated=40,
    sequences={
        "split": [[0, 1], [2, 3]],
        "similar": [[2, 9], [3, 8]],
        "similar_reversed": [[3, 8], [2, 9]],
        "dissimilar": [[0], [1]],
        "dissimilar_reversed": [[1], [0]],
    },
)


@pytest.mark.parametrize("module", [study, statistics])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


def test_the_pairs_are_the_nearest_and_the_farthest():
    images, labels = study_job.images_of("digits", None)
    sequences = study_job.make_sequences(images, labels, 5)
    assert sequences["split"] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    means = np.stack([images[labels == digit].numpy().reshape(-1, 64).mean(0) for digit in range(10)])

    def distance(first, second):
        return np.mean([np.linalg.norm(means[a] - means[b]) for a in first for b in second])

    every = [
        distance((a, b), (c, d))
        for a in range(10)
        for b in range(a + 1, 10)
        for c in range(10)
        for d in range(c + 1, 10)
        if len({a, b, c, d}) == 4
    ]
    assert distance(*sequences["similar"]) == pytest.approx(min(every), rel=1e-5)
    assert distance(*sequences["dissimilar"]) == pytest.approx(max(every), rel=1e-5)
    assert sequences["similar_reversed"] == sequences["similar"][::-1]


def test_crossing_and_its_ends():
    assert statistics.crossing([10, 100], [3.0, 1.0], 3.0) == 10
    assert statistics.crossing([10, 100], [3.0, 1.0], 1.0) == pytest.approx(100)
    assert statistics.crossing([10, 100], [3.0, 1.0], 2.0) == pytest.approx(10**1.5)
    assert math.isinf(statistics.crossing([10, 100], [3.0, 1.0], 0.5))
    assert capacity_text(math.inf, [10, 100]) == "> 100"
    assert capacity_text(10, [10, 100]) == "<= 10"


def test_matching_capacity_finds_a_known_answer():
    def runs(values):
        return {seed: {"x": value} for seed, value in enumerate(values)}

    arms = {("random", 10): runs([3.0, 3.2]), ("random", 100): runs([1.0, 1.2]), ("greedy", 10): runs([2.0, 2.2])}
    (found,) = statistics.matching_capacity(arms, "greedy", "x")
    assert found["random_needs"] == pytest.approx(10**1.5)
    assert found["low"] == pytest.approx(10**1.5)  # the seeds differ by a shift that all runs share
    assert found["high"] == pytest.approx(10**1.5)
    assert found["random_measured_at"] == [10, 100]


def test_interval_against_every_resample():
    values = [1.0, 2.0, 4.0]
    found = statistics.interval(values)
    means = [np.mean([a, b, c]) for a in values for b in values for c in values]
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["low"] == pytest.approx(np.quantile(means, 0.025), abs=0.34)
    assert found["high"] == pytest.approx(np.quantile(means, 0.975), abs=0.67)
    assert math.isnan(statistics.interval([1.0])["low"])


def test_paired_difference_uses_common_seeds():
    arm, other = {0: {"x": 1.0}, 1: {"x": 5.0}, 7: {"x": 9.0}}, {1: {"x": 2.0}, 0: {"x": 0.5}}
    found = statistics.paired_difference(arm, other, "x")
    assert found["mean"] == pytest.approx((0.5 + 3.0) / 2)
    assert found["seeds"] == 2
    expected = ttest_1samp([0.5, 3.0], 0)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert math.isnan(statistics.student([1.0])["p"])
    assert statistics.student([2.0, 2.0])["p"] == 0.0


def test_the_terciles_are_of_the_energy_before():
    draw = torch.Generator().manual_seed(0)
    n = 30
    last = [
        {name: torch.rand(n, generator=draw) for name in ("error", "error_start", "energy_start")} for _ in range(3)
    ]
    last = [probe | {f"seen_{name}": probe[name] for name in ("error", "error_start")} for probe in last]
    result = {"records": [{"probes": last}], "generated": None}
    found = statistics.measure(result, lambda _: 0.0, lambda _: 0.0)
    expected = np.zeros((3, 0))
    for probe in last[:-1]:
        order = np.argsort(probe["energy_start"].numpy())
        rise = (probe["error"] - probe["error_start"]).numpy()[order]
        expected = np.hstack([expected, rise.reshape(3, 10)])
    assert [found[name] for name in statistics.TERCILES] == pytest.approx(expected.mean(1).tolist())


def test_correlations_use_the_boundary_and_average_both_orders():
    draw = torch.Generator().manual_seed(0)

    def result():
        n = 30
        probes = [{name: torch.rand(n, generator=draw) for name in ("energy", "error", "error_start")} for _ in "123"]
        records = [{"probes": [probes[0]]}, {"probes": [probes[1], probes[2]]}]
        return {"records": records, "density": [torch.rand(n, generator=draw), torch.rand(n, generator=draw)]}

    results = {
        study_job.Job(name, policy, 0, 0): result()
        for name in SETTINGS.sequences
        for policy in ("none", "random")
        if not name.startswith("dissimilar")
    }
    split, similar = statistics.correlations(results, SETTINGS)  # no row for a pair without runs

    def expected(name):
        before, after = (record["probes"][0] for record in results[study_job.Job(name, "none", 0, 0)]["records"])
        return spearmanr(after["energy"] - before["energy"], after["error"] - before["error"]).statistic

    assert split["rise"]["mean"] == pytest.approx(expected("split"))
    assert similar["rise"]["mean"] == pytest.approx((expected("similar") + expected("similar_reversed")) / 2)


@pytest.mark.parametrize("policy", ["nonsense", "random@some", "random@0", "random+weights", "best_by_label"])
def test_bad_arms(policy):
    with pytest.raises(ValueError, match=r"unknown policies|whole number|at least 1"):
        study.parse_arms([policy], [20])


def test_arms_with_a_sampling_and_with_equal_shares_for_classes():
    arms = study.parse_arms(["random_by_label@20", "greedy_gain+rise_weight", "k_means"], [50])
    assert arms == [("random_by_label", 20), ("greedy_gain+rise_weight", 50), ("k_means", 50)]
    made = [make_buffer(*arm) for arm in arms]
    assert [buffer.sampling for buffer in made] == ["uniform", "rise_weight", "weight"]
    images, labels = torch.rand(40, 1, 2, 2), (torch.arange(40) < 4).long()
    made[0].update(images, images, ids=torch.arange(40), task=0, labels=labels)
    assert made[0].labels.bincount().tolist() == [16, 4]


@pytest.mark.heavy
def test_jobs_run_and_are_summed_up(tmp_path):
    arms = study.parse_arms(["none", "random", "greedy_gain"], [4, 8])
    jobs = study.list_jobs(SETTINGS, arms, [0])
    assert len(jobs) == 1 + 2 * 2 + 4
    study.start_worker()
    for job in jobs[:6]:  # the split's arms and one pair in one order
        study_job.run_job(job, SETTINGS, tmp_path, None, "cpu")
    again = tmp_path / "again"
    again.mkdir()
    study_job.run_job(jobs[0], SETTINGS, again, None, "cpu")
    one, two = (study_job.read_tensors(path / jobs[0].file) for path in (tmp_path, again))
    assert torch.equal(one["generated"], two["generated"])  # the same seed gives the same run
    probe = one["records"][1]["probes"][0]
    assert torch.equal(probe["error_start"], one["records"][0]["probes"][0]["error"])
    assert len(one["density"][0]) == len(probe["error"])
    assert len(probe["seen_error"]) == len(probe["seen_error_start"]) == SETTINGS.seen

    summary = summarize(tmp_path, SETTINGS, None)
    text = markdown(summary)
    assert {(row["policy"], row["capacity"]) for row in summary["policies"]} == set(arms)
    rows = {(row["policy"], row["capacity"]): row for row in summary["policies"]}
    trained_on = (probe["seen_error"] - probe["seen_error_start"]).mean()
    assert rows["none", 0]["seen"]["mean"] == pytest.approx(float(trained_on), rel=1e-5)
    rise = (probe["error"] - probe["error_start"]).mean()
    assert rows["none", 0]["reconstruction"]["mean"] == pytest.approx(float(rise), rel=1e-5)
    gain, random = rows["greedy_gain", 8], rows["random", 8]
    assert gain["against_random"]["worst_tenth"]["mean"] == pytest.approx(
        gain["worst_tenth"]["mean"] - random["worst_tenth"]["mean"]
    )
    assert re.search(r"^\| greedy_gain +\| rise_weight +\| 8 +\| 1 +\|", text, re.M)
    assert re.search(r"^\| random +\| uniform +\| 8 +\| 1 +\|", text, re.M)
    assert "FID-DigitClassifier(digits)" in text
    json.dumps(study.finite(summary), allow_nan=False)
    draw_policies(summary, tmp_path / "policies.png")
    draw_correlations(summary, tmp_path / "correlations.png")


def test_no_job_begins_after_the_deadline(tmp_path):
    queue = deque([(study_job.Job("split", "none", 0, 0), SETTINGS, tmp_path)])
    args = SimpleNamespace(accelerator="cpu", jobs=1, gpu_jobs=None, data_dir=None)
    assert study.run_all([queue], args, -math.inf) == []
    assert len(queue) == 1


def test_probes_are_told_apart_by_their_ids():
    images, labels = study_job.images_of("digits", None)
    split = Split(images, labels, [0, 1], 100, 10, seen=30)
    count = len(split.held_out)
    at = torch.tensor([0, 3, count - 1, count, count + 29])  # some of the validation data, as with fewer probes
    errors = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    probe = {"task": 0, "ids": sample_ids(0, at, held_out=True), "error": errors, "energy": errors[:, 0]}
    numbers = {"beta": 1.0, "n_eff": 5.0, "replayed": 0, "timesteps": [1, 2]}
    record = BoundaryRecord.of({"task": 0, "probes": [probe], **numbers})
    (found,) = study_job.lean(record, [split])["probes"]
    torch.testing.assert_close(found["error"], errors[:3].mean(1))
    torch.testing.assert_close(found["seen_error"], errors[3:].mean(1))
    expected = np.linalg.norm(
        split.held_out.tensors[0][at[:3], None].numpy() - split.train.tensors[0][None].numpy(), axis=(3, 4)
    )[:, :, 0]
    np.testing.assert_allclose(
        study_job.log_density(split, record.probes[0]),
        np.log(np.sort(expected, 1)[:, study_job.NEIGHBOUR - 1]),
        rtol=1e-5,
    )
