"""The Avalanche example, cut short: a table, and a page for each arm."""

import sys

import pytest

pytest.importorskip("avalanche")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]


def test_it_writes_a_page_of_each_arm(tmp_path, monkeypatch, capsys):
    import avalanche_digits

    monkeypatch.setitem(
        avalanche_digits.PRESETS, "digits", avalanche_digits.Preset(12, 1, 1, batch_size=32)
    )  # fmt: skip
    options = ["--arms", "none", "random", "--experiences", "2", "--output", str(tmp_path / "run" / "digits.json")]
    monkeypatch.setattr(sys, "argv", ["avalanche_digits.py", *options])
    avalanche_digits.main()
    assert "| none" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "digits.json", "digits_none.html", "digits_random.html",
    }  # fmt: skip
    for arm in ("none", "random"):
        page = (tmp_path / "run" / f"digits_{arm}.html").read_text()
        assert f"What was forgotten: {arm}" in page
        assert "task 0 (digits 0, 1, 2, 3, 4)" in page
        assert "By class, the worst first" in page
