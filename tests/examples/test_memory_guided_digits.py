import json
import runpy
import sys
from pathlib import Path

import pytest

for needed in ("diffusers", "matplotlib", "sklearn"):
    pytest.importorskip(needed)

SCRIPT = Path(__file__).parents[2] / "examples" / "memory_guided_digits.py"


def start(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:  # by its exit code
        if end.code:
            raise


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_at_full_strength_every_sample_is_a_stored_one(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    start(
        monkeypatch, "--epochs", 1, "--samples", 60, "--stored", 40, "--strength", 1, "--output-dir", tmp_path / "out"
    )
    lines = capsys.readouterr().out.splitlines()
    (header,) = [number for number, line in enumerate(lines) if line.startswith("| % of digit")]
    alone, guided, baseline = (line.strip("|").split("|")[1:] for line in lines[header + 2 : header + 5])
    for row in (alone, guided, baseline):
        assert len(row) == 14
        assert sum(map(int, row[:10])) == pytest.approx(100, abs=6)  # each rounded
    for row in (guided, baseline):
        assert row[-2].strip() == "1.000"
        assert float(row[-1]) < 0.05
        assert sum(map(int, row[:8])) > 90
    assert float(alone[-2]) < 0.5
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert f"{written['guided']['recall']:.3f}" == guided[11].strip()
    assert (tmp_path / "out" / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert "was forgotten" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strength", "1.5"], "--strength must lie in [0, 1], got 1.5"),
        (["--stored", "3"], "--stored must be at least 4, got 3"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
    ],
)
def test_wrong_options(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        start(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
