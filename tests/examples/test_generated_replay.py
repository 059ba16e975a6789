"""The comparison of generated with stored replay: one tiny run of each arm, and the table of what has finished."""

import doctest
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import generated_replay as example
from helpers.study_job import Settings

pytestmark = pytest.mark.slow


SETTINGS = Settings(
    data="digits", train=40, epochs=1, batch_size=16, network="mlp", width=16, ema_decay=None, gradient_clip=None,
    seen=0, replay_ratio=0.5, generated=20, sequences={"split": [[0, 1], [2, 3]]},
)  # fmt: skip


def test_doctests():
    assert doctest.testmod(example).failed == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(6))
def test_every_arm_runs_and_replays_what_it_says(tmp_path, monkeypatch, number):
    monkeypatch.setattr(example, "GenerativeDistance", lambda *_: lambda generated: float(len(generated)))
    arm = example.arms_of(5, 12)[number]
    path = tmp_path / example.file_name(arm, 0)
    example.run(arm, 0, SETTINGS, Path(), path)
    found = json.loads(path.read_text())
    assert found["replayed"] == [0, arm.kept]
    assert all(torch.isfinite(torch.tensor(found[name])) for name in example.MEASURES)


def test_draws_of_a_model_differ_from_batch_to_batch():
    from helpers.ddpm import DDPM
    from helpers.splits import drawn_batch

    model = DDPM(8, width=16, network="mlp")
    first, second = drawn_batch(model, 3, [])[0], drawn_batch(model, 3, [])[0]
    assert not torch.equal(first, second)


def test_the_table_compares_seed_by_seed_and_leaves_out_other_settings(tmp_path):
    arms = example.arms_of(5, 12)
    values = {"forgetting": 0.5, "worst_tenth": 1.0, "new_task_error": 0.2, "distance": 7.0, "seconds": 3.0}
    for arm in (arms[1], arms[4]):
        for seed in range(3):
            more = 0.1 * seed - (0.25 if arm is arms[4] else 0.0)
            found = {"arm": example.asdict(arm), "seed": seed, **values, "forgetting": 0.5 + more}
            (tmp_path / example.file_name(arm, seed)).write_text(json.dumps(found))
    odd = replace(arms[1], kept=7)
    (tmp_path / example.file_name(odd, 0)).write_text(json.dumps({"arm": example.asdict(odd), "seed": 0, **values}))
    lines = example.table(tmp_path, arms).splitlines()
    assert len(lines) == 4
    real, generated = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert real[:3] == ["real, random", "5", "3"]
    assert real[3].startswith("0.6000 [")
    assert real[-1] == ""
    assert generated[0] == "generated, greedy_gain"
    assert generated[-1].startswith("-0.2500")
