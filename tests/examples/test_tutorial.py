"""The tutorial runs from top to bottom, here with one epoch a task in the place of a hundred."""

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[2]


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")
def test_the_tutorial_runs(tmp_path, monkeypatch):
    source = (ROOT / "examples" / "tutorial.py").read_text()
    assert source.count("max_epochs=100") == 1
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source.replace("max_epochs=100", "max_epochs=1"), "tutorial.py", "exec"), {"__name__": "tutorial"})
    lines = printed.getvalue().splitlines()
    assert os.listdir(tmp_path) == []
    assert re.fullmatch(r"beta 1\.76; energies from 3\.3 to 10\.0, mean 5\.2", lines[0])
    assert "expected rise: mean 5.70; most for digit 2" in lines
    assert (
        sum(bool(re.match(r"forgetting with \w+: mean -?\d\.\d{4}, worst tenth -?\d\.\d{4}", line)) for line in lines)
        == 5
    )
    assert lines[-1] == "50 samples came back; the same ids: True"
