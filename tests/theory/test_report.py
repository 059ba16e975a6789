import json
import re

import pytest

from hopfield_replay.theory import report
from hopfield_replay.theory.boltzmann_replay import reproduce_boltzmann
from hopfield_replay.theory.falsify import reproduce_falsify
from hopfield_replay.theory.recovery import reproduce_recovery
from hopfield_replay.theory.replay_gain import reproduce_replay_gain
from hopfield_replay.theory.rise import reproduce_rise
from hopfield_replay.theory.selection import reproduce_selection


@pytest.fixture
def small(monkeypatch):
    """The experiments at a size that takes a second, asked for as the report asks for them."""
    asked = {}

    def shrink(name, run, **sizes):
        def smaller(**arguments):
            asked[name] = arguments
            return run(**{**arguments, **sizes})

        monkeypatch.setattr(report, name, smaller)

    shrink("reproduce_rise", reproduce_rise, d=20)
    shrink("reproduce_replay_gain", reproduce_replay_gain, d=20, n=3)
    shrink("reproduce_recovery", reproduce_recovery, d=20, n=3, eps=(0.1,))
    shrink("reproduce_falsify", reproduce_falsify, n=(2,), c=(0.9,), beta=(4, 8), mixed_beta=(8,), mixed_seeds=2)
    shrink("reproduce_boltzmann", reproduce_boltzmann, hidden=(3,), beta=(8.0,), steps=5, more_steps=2)
    shrink("reproduce_selection", reproduce_selection, per_class=3)
    return asked


@pytest.mark.heavy
def test_report_is_whole(tmp_path, small):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    written = report.reproduce_all(str(tmp_path / "new" / "folder"), draws=5, seeds=2, seed=9)
    folder = tmp_path / "new" / "folder"
    page = written.page.read_text()
    assert written.page == folder / "README.md"
    assert set(written.files) == set(folder.iterdir())
    names = ["rise", "rise_distance", "replay_gain", "recovery", "falsify", "boltzmann", "selection"]
    assert list(written.seconds) == names
    for name in names:
        data = json.loads((folder / f"{name}.json").read_text())
        assert data
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    linked = re.findall(r"\]\(([^)]+)\)", page)
    assert sorted(linked) == sorted(f"{name}.{ending}" for name in names for ending in ("json", "png"))
    assert "What could not be checked" in page
    assert "Which statements hold" in page
    assert all(arguments["seed"] == 9 for arguments in small.values())
    assert small["reproduce_rise"]["draws"] == 5
    assert small["reproduce_boltzmann"]["seeds"] == 2
