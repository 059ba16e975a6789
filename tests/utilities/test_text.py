"""Whatever a name holds, what is shown is one line of characters that stand where they seem to."""

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopfield_replay.utilities.text import figure_label, printable, printable_lines, spreadsheet_cell


@given(st.text(st.characters(codec=None)))
def test_one_line_and_no_controls(text):
    shown = printable(text, None)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable(shown, None) == shown


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_other_characters_stay(text):
    assert printable(text, None) == text


def test_long_names_are_cut_and_lines_kept():
    assert printable("a" * 201) == "a" * 200 + "…"
    assert printable_lines("a\nb\x00\n" + "c" * 300) == "a\nb\\x00\n" + "c" * 300
    assert figure_label("$x$") == r"\$x\$"


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1"])
def test_no_spreadsheet_takes_a_name_for_a_formula(cell):
    held = io.StringIO()
    csv.writer(held).writerow([spreadsheet_cell(cell)])
    assert next(csv.reader(io.StringIO(held.getvalue())))[0][0] == "'"


@pytest.mark.parametrize("cell", ["", "-0.25", "+3", "1e-5", "-inf", "cat", "a=b"])
def test_numbers_and_other_text_stay(cell):
    assert spreadsheet_cell(cell) == cell
