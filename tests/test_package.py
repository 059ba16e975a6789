"""The package is light to import, every public name loads, and it says that it is typed."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hopfield_replay

HEAVY = ["lightning", "pytorch_lightning", "avalanche", "diffusers", "matplotlib", "tensorboard", "torchmetrics"]


def loaded_after(code):
    code += "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


def test_import_pulls_in_nothing_heavy():
    loaded = loaded_after("import hopfield_replay")
    assert "hopfield_replay" in loaded
    assert loaded.isdisjoint({*HEAVY, "torch"})


def test_the_framework_free_part_needs_no_framework():
    names = ["EnergyReplayBuffer", "ForgettingTracker", "HopfieldMemory", "TaskSource", "calibrate_beta", "functional"]
    loaded = loaded_after(f"from hopfield_replay import {', '.join(names)}")
    assert "torch" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", sorted(hopfield_replay._HOMES))
def test_public_names_load(name):
    assert getattr(hopfield_replay, name) is getattr(
        import_module(f"hopfield_replay.{hopfield_replay._HOMES[name]}"), name
    )
    assert name in dir(hopfield_replay)


def test_type_checkers_see_the_same_names():
    text = Path(hopfield_replay.__file__).read_text()
    block = text.split("if TYPE_CHECKING:")[1].split("_HOMES")[0]
    assert {line.split(" as ")[-1].strip() for line in block.splitlines() if " as " in line} == {
        *hopfield_replay._HOMES,
        "functional",
    }


def test_functional_is_listed_and_loads():
    assert hopfield_replay.functional is import_module("hopfield_replay.functional")
    assert "functional" in dir(hopfield_replay)


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'hopfield_replay' has no attribute 'EnergyBuffer'"):
        hopfield_replay.EnergyBuffer  # noqa: B018
    with pytest.raises(ImportError):
        from hopfield_replay import EnergyBuffer  # noqa: F401


def test_typed_and_versioned():
    root = Path(hopfield_replay.__file__).parent
    assert (root / "py.typed").exists()
    major, minor, patch, *_ = hopfield_replay.__version__.split(".")
    assert all(part.isdigit() for part in (major, minor, patch))
    pyproject = root.parent / "pyproject.toml"
    if pyproject.exists():  # the version has one home
        assert 'path = "hopfield_replay/__about__.py"' in pyproject.read_text()
