"""Without avalanche the package works, and its Avalanche integration says what to install."""

import importlib
import sys

import pytest


def test_the_door_names_the_pip_command_when_avalanche_is_missing(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "avalanche"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("hopfield_replay.avalanche")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "avalanche", None)  # what `import avalanche` finds when it is not there
    with pytest.raises(ImportError, match=r'pip install "hopfield-replay\[avalanche\]"'):
        importlib.import_module("hopfield_replay.avalanche")


def test_the_package_itself_does_not_need_avalanche(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("avalanche", "hopfield_replay")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "avalanche", None)
    package = importlib.import_module("hopfield_replay")
    assert package.EnergyReplayBuffer(3).capacity == 3
    assert not [name for name in sys.modules if name.startswith("hopfield_replay.avalanche")]
