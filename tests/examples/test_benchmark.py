"""The benchmark: every method runs its tasks to the end, what is tuned is tuned apart, and the tables add up."""

import doctest
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

import benchmark as example
from helpers import benchmark_job, benchmark_measures, noise_levels
from helpers.benchmark_job import Job, run_job
from helpers.benchmark_judge import Judge
from helpers.benchmark_measures import (
    chosen_results,
    class_rises,
    differences,
    measured,
    measures,
    read_runs,
    tuned,
)
from helpers.benchmark_methods import METHODS
from helpers.benchmark_presets import PRESETS
from helpers.benchmark_questions import prediction_table, terciles
from helpers.benchmark_report import report
from helpers.noise_levels import LevelledDDPM
from helpers.splits import Split
from helpers.study_statistics import rejected

TINY = replace(PRESETS["digits"], train=40, epochs=1, batch_size=16, width=16, kept=6, generated=8, steps=3, tasks=2)
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("module", [benchmark_job, benchmark_measures])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


def result(method, seed, final, value=math.nan, kept=50, forgetting=0.1):
    """One run of two tasks in which everything is known."""
    errors = [torch.full((20, 2), 0.5), torch.full((20, 2), 0.4)]
    numbers = dict.fromkeys(
        ("FID-classifier/forgetting_rate", "FID-classifier/average_incremental", "KID-classifier/average_final"), 1.0
    ) | {"FID-classifier/average_final": final, "precision-classifier": 0.5, "recall-classifier": 0.5}
    return Job(method, value, kept, seed), {
        "finite": not math.isnan(final),
        "numbers": {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()},
        "right": torch.tensor([[0.9, math.nan], [0.25, 0.8]]),
        "losses": [[torch.full((20,), 0.3)], [torch.full((20,), 0.7), torch.full((20,), 0.2)]],
        "expected": [{"alone": 3.0, "replayed": final}],
        "energy_before": [torch.arange(20.0)] * 2,
        "energy_after": [torch.arange(20.0) * 2] * 2,
        "error_before": errors,
        "error_after": [errors[0] + forgetting + 0.01 * torch.arange(20.0)[:, None], errors[1]],
        "timesteps": [100, 500],
        "labels": [torch.arange(20) % 2, 2 + torch.arange(20) % 2],
        "by_level": [torch.full((1, 10), 0.1), torch.full((2, 10), 0.3)],
        "boundaries": [
            {
                "energy_before": torch.arange(20.0),
                "energy_after": torch.arange(20.0) * 2,
                "error_before": errors[0].mean(1),
                "error_after": errors[0].mean(1) + forgetting + 0.01 * torch.arange(20.0),
            }
        ],
        "training_seconds": 10.0,
        "boundary_seconds": 1.0,
        "bytes_kept": 2048,
    }


def test_the_numbers_of_one_run():
    found = measures(result("none", 0, 7.0)[1])
    assert found["final"] == 7.0
    assert found["forgetting"] == pytest.approx(0.1 + 0.01 * 9.5)
    assert found["worst_tenth"] == pytest.approx(0.1 + 0.01 * 18.5)
    assert found["worst_class"] == pytest.approx(0.1 + 0.01 * 10)  # the odd ones
    assert class_rises(result("none", 0, 7.0)[1])[0] == pytest.approx(0.1 + 0.01 * 9)
    low, middle, high = terciles(result("none", 0, 7.0)[1]).tolist()  # 7, 7 and 6 of the 20
    assert (low, middle, high) == pytest.approx((0.13, 0.2, 0.265))
    assert found["loss"] == pytest.approx(0.4)
    assert found["new_error"] == pytest.approx(0.2)
    assert (found["old_right"], found["kilobytes"]) == (0.25, 2.0)
    assert all(math.isnan(value) for value in measures(result("none", 0, math.nan)[1]).values())


def test_values_are_tuned_on_a_seed_of_their_own():
    results = dict(
        [
            result("L2", 1000, 5.0, 0.1),
            result("L2", 1000, 4.0, 0.01),
            result("L2", 1000, math.nan, 0.001),
            result("L2", 0, 1.0, 0.1),
            result("L2", 1000, 0.5, 0.1, kept=7),
        ]
    )
    assert tuned(results, "L2", 50, 1000) == 0.01
    assert math.isnan(tuned(results, "none", 50, 1000))
    assert measured(chosen_results(results, {"L2": 0.1, "none": math.nan}, 50, 1000)) == {
        "L2": {0: measures(result("L2", 0, 1.0)[1])}
    }


def test_differences_are_paired_and_holm_bounds_the_family():
    torch.manual_seed(0)
    random = 10 + torch.randn(5)
    other = random - 1 + 0.1 * torch.randn(5)
    rows = [result("random", seed, float(random[seed]), 0.5) for seed in range(5)]
    rows += [result("L2", seed, float(other[seed]), 0.1) for seed in range(5)]
    runs = measured(chosen_results(dict(rows), {"random": 0.5, "L2": 0.1}, 50, 1000))
    found = differences(runs)["L2", "final"]
    expected = ttest_rel([float(v) for v in other], [float(v) for v in random])
    assert found["p"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert found["half"] == pytest.approx((high - low) / 2)
    assert rejected({"a": 0.01, "b": 0.03, "c": 0.9}) == {"a"}  # .03 > .05 / 2
    assert rejected({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a", "b", "c"}


def test_what_was_foreseen_is_ranked_with_its_sign_and_its_misses():
    gain = {"random": 5.0, "greedy_gain": 9.0, "high_energy": 1.0, "low_energy": 8.0}
    forgotten = {"random": 0.2, "greedy_gain": 0.1, "high_energy": 0.3, "low_energy": 0.9}
    rows = []
    for name in gain:
        for seed in (0, 1):
            job, found = result(name, seed, 7.0, 0.5, forgetting=forgotten[name] + 0.01 * seed)
            found["expected"] = [{"alone": 9.0, "replayed": 9.0 - gain[name], "protected": gain[name]}]
            rows.append((job, found))
    line = next(line for line in prediction_table(dict(rows), 50, 1000).splitlines() if "as certified" in line)
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[:2] == ["replay gain, as certified", "8"]
    assert cells[3] == "+0.40"  # ranks 2 4 1 3 and 2 1 3 4: -(1 - 6 * 14 / 60)
    assert cells[6].startswith("low_energy +0.")


def test_the_page_counts_runs_that_diverged():
    rows = [
        result(name, seed, 5.0 + seed, value)
        for name, value in (("none", math.nan), ("random", 0.5))
        for seed in (0, 1)
    ]
    rows += [result("L2", 0, math.nan, 0.1), result("L2", 1, 6.0, 0.1)]
    values = {"none": math.nan, "random": 0.5, "L2": 0.1}
    page = report(dict(rows), PRESETS["digits"], values, 1000, 0.98)
    assert "| 2, 1 diverged |" in page
    line = next(line for line in page.splitlines() if "+1.00 (+1.00 to +1.00)" in line)  # both rise with the number
    assert [cell.strip() for cell in line.split("|")[3:5]] == ["+1.00", "+1.00"]
    for heading in (
        "Methods",
        "Against random",
        "The paper's questions",
        "Which samples",
        "Who is protected",
        "Which noise levels",
    ):
        assert f"## {heading}" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "nonsense"], "unknown methods ['nonsense']; choose from none, joint"),
        (["--seeds", "1", "1000"], "must not hold 1000"),
        (["--seeds", "3"], "needs two or more for an interval, got [3]"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *options, "--output-dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        example.main()
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_presets_are_those_that_can_be_asked_for():
    (action,) = (one for one in example.make_parser()._actions if one.dest == "preset")
    assert list(action.choices) == list(PRESETS)


def test_results_of_another_configuration_are_not_mixed(tmp_path, monkeypatch, capsys):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "settings.json").write_text('{"epochs": 7}')
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--output-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        example.main()
    assert ended.value.code == 2
    assert "epochs was 7, now 60" in " ".join(capsys.readouterr().err.split())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["none", "joint", "greedy_gain", "EWC, rank 1", "LoRA", "generative distillation"])
def test_a_method_runs_two_tasks(tmp_path, method):
    every_measure_of(method, tmp_path)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_runs_two_tasks(tmp_path, method):
    every_measure_of(method, tmp_path)


def every_measure_of(method, folder):
    if METHODS[method].regulariser == "lora":
        pytest.importorskip("peft")
    value = METHODS[method].grid[0] if METHODS[method].grid else math.nan
    run_job(Job(method, value, TINY.kept, 0), TINY, folder, Path(), "cpu")
    ((job, found),) = read_runs(folder).items()
    assert job.method == method
    assert all(math.isfinite(number) for number in measures(found).values())
    keeps = METHODS[method].keeps
    assert (found["bytes_kept"] > 0) == (keeps != "nothing")


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_joint_training_forgets_nothing_and_none_forgets_most(tmp_path):
    preset = replace(TINY, train=150, epochs=40, width=128, kept=20, generated=20, steps=10)
    for method in ("none", "joint", "random"):
        run_job(Job(method, 0.5 if METHODS[method].grid else math.nan, 20, 0), preset, tmp_path, Path(), "cpu")
    found = {job.method: measures(one) for job, one in read_runs(tmp_path).items()}
    assert found["joint"]["forgetting"] <= 0.005
    assert found["joint"]["forgetting"] < found["random"]["forgetting"] < found["none"]["forgetting"]
    assert found["joint"]["old_right"] > found["none"]["old_right"]


def test_every_value_is_run_of_methods_whose_frontier_is_asked_for():
    jobs = example.jobs_of(["none", "random"], {"none": math.nan, "random": 0.5}, TINY, [0, 1], ["random"])
    assert [(job.method, job.seed) for job in jobs[:4]] == [("none", 0), ("random", 0), ("none", 1), ("random", 1)]
    assert [job.value for job in jobs if (job.method, job.seed) == ("random", 1)] == [0.5, 0.35, 0.65]


def test_what_is_foreseen_is_the_literal_energy_and_gain():
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 2, 2, generator=draw) * 2 - 1
    tasks = [Split(images, torch.arange(40) % 4, classes, 12, 4) for classes in ([0, 1], [2, 3])]
    old, new = (split.train.tensors[0].flatten(1).double().numpy() for split in tasks)
    x, kept = tasks[0].held_out.tensors[0].flatten(1).double().numpy(), tasks[0].train.tensors[0][:3].flatten(1)
    shares, beta, ratio = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 3.0, 0.4

    class Buffer:
        vectors, draw_shares = kept, shares

        def __len__(self):
            return 3

    judge = Judge.__new__(Judge)
    judge.tasks, judge.learned, judge.ratio = tasks, 1, ratio
    found = judge.expect(SimpleNamespace(buffer=Buffer(), history=[SimpleNamespace(beta=beta)]))

    def sums(patterns, masses):
        squares = ((x[:, None] - np.asarray(patterns, dtype=np.float64)[None]) ** 2).sum(2)
        return (masses * np.exp(-beta * squares / 2)).sum(1)

    before, alone = sums(old, 1 / len(old)), sums(new, 1 / len(new))
    mixed = (1 - ratio) * alone + ratio * sums(kept, shares.numpy())
    rise = -np.log(alone / before) / beta
    total = len(new) * ratio / (1 - ratio)
    gains = [np.log1p(sums(kept, masses) / sums(new, 1.0)) / beta for masses in (total / 3, total * shares.numpy())]
    weights = (1 + rise.clip(0) / rise.clip(0).mean()) / 2
    assert found["alone"] == pytest.approx(rise.mean())
    assert found["replayed"] == pytest.approx((-np.log(mixed / before) / beta).mean())
    assert (found["protected"], found["drawn"]) == pytest.approx((gains[0].mean(), gains[1].mean()))
    assert found["weighted"] == pytest.approx((weights * gains[1]).mean())


def test_replayed_samples_draw_the_levels_that_forget():
    model = LevelledDDPM(2, width=8, network="mlp", classes=4)
    model.own, model.shares = 3, torch.zeros(10).index_fill_(0, torch.tensor([4]), 1.0)
    torch.manual_seed(0)
    times = torch.stack([model.draw_timesteps(9, torch.device("cpu")) for _ in range(200)])
    assert ((times[:, 3:] >= 400) & (times[:, 3:] < 500)).all()
    assert times[:, 3:].unique().numel() == 100
    assert times[:, :3].float().mean() == pytest.approx(500, abs=50)  # the task's own are uniform
    assert times[:, :3].min() < 50


def test_levels_are_drawn_by_what_their_loss_rose_since_each_task_was_learned(monkeypatch):
    losses = iter([torch.ones(10), torch.ones(10).index_fill_(0, torch.tensor([2, 7]), 3.0) - 0.5, torch.ones(10)])
    monkeypatch.setattr(noise_levels, "loss_by_level", lambda model, split: next(losses))
    model = LevelledDDPM(2, width=8, network="mlp", classes=4)
    callback = noise_levels.ForgettingLevels([SimpleNamespace(batch_size=5)] * 2, 0.6)
    callback.on_train_end(None, model)
    assert model.shares is None  # nothing has been learned before
    callback.on_train_end(None, model)
    expected = torch.full((10,), 0.04).index_fill_(0, torch.tensor([2, 7]), 0.04 + 0.3)
    assert torch.allclose(model.shares, expected)
    assert model.own == 5
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 1.5"):
        noise_levels.ForgettingLevels([], 1.5)
