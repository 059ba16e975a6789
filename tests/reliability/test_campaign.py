"""The campaign of faults finds nothing in a short run, and finds what is wrong when something is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability import campaign

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.heavy


def test_a_short_campaign(tmp_path):
    pytest.importorskip("diffusers")
    pytest.importorskip("jsonargparse")
    pytest.importorskip("PIL")
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.campaign", "--minutes", "5", "--attempts", "36", "--seed", "5",
         "--json", str(tmp_path / "found.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["attempts"] >= 36
    zero = ("losses", "half states", "code executions", "exit codes", "crashes and others", "memory")
    assert {name: found[name] for name in zero} == dict.fromkeys(zero, 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_what_is_wrong_is_found(tmp_path):
    def violate():
        raise campaign.Violated("half made")

    def crash():
        raise KeyError("a bug")

    assert campaign.forked(violate, tmp_path / "log")[0] == campaign.VIOLATION
    status, _, said = campaign.forked(crash, tmp_path / "log")
    assert (status, "a bug" in said) == (campaign.VIOLATION, True)
    assert campaign.forked(lambda: (_ for _ in ()).throw(ValueError("no")), tmp_path / "log")[0] == campaign.REFUSED
    assert campaign.forked(lambda: None, tmp_path / "log")[0] == campaign.FINE

    def hungry():
        held = bytearray(300 << 20)
        held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])

    assert campaign.forked(hungry, tmp_path / "log")[1] > 250 << 20
    assert campaign.forked(lambda: campaign.time.sleep(30), tmp_path / "log", seconds=0.2)[0] == -9
