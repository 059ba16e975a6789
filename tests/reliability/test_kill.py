"""Runs that are killed for real lose nothing. The campaign script, tests.reliability.kill, does the same for longer."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.kill import MOMENTS, RESUMING

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """One kill at every moment, and a few at random ones; in a process of its own, which forks all attempts."""
    file = tmp_path_factory.mktemp("kill") / "trials.json"
    options = ["--every-moment", "--kills", "3", "--seed", "3", "--json", file]
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.kill", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert file.exists(), done.stderr[-3000:]
    return json.loads(file.read_text())


@pytest.mark.parametrize("moment", [*MOMENTS, *RESUMING])
def test_a_run_killed_at_this_moment_goes_on_as_if_it_had_not_been(trials, moment):
    reached = [(trial, status) for trial in trials for name, _, status in trial["kills"] if name == moment]
    assert reached[0][1] == -signal.SIGKILL  # the first is chosen to be reached; a random one may come too late
    assert [trial["lost"] for trial, _ in reached] == [[] for _ in reached]


def test_runs_killed_at_random_moments_and_again_and_again(trials):
    assert sum(status == -signal.SIGKILL for trial in trials for _, _, status in trial["kills"]) >= 3 + len(MOMENTS) + 4
    assert max(len(trial["kills"]) for trial in trials) >= 3
    assert {trial["settings"]["storage"] for trial in trials} == {True, False}
    assert [trial["lost"] for trial in trials if trial["lost"]] == []


def test_a_kill_costs_the_steps_since_the_last_checkpoint_and_no_task(trials):
    assert max(trial["redone"] for trial in trials) <= 3  # one every second step, and the step at hand
