"""Bars are shown where somebody asks for them and a person waits, and change nothing of what is iterated."""

import sys

import pytest

from hopfield_replay.utilities import progress
from hopfield_replay.utilities.progress import show_progress, track


class Terminal:
    """A standard error that is a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "_DELAY", 0.0)


def test_only_where_it_is_asked_for(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(track(range(3), "Counting")) == [0, 1, 2]
    with show_progress(False), show_progress(False, everywhere=True):
        assert list(track(range(3), "Counting")) == [0, 1, 2]
    assert terminal.text == ""
    with show_progress():
        assert list(track(iter(range(3)), "Counting", 3)) == [0, 1, 2]
    assert "Counting" in terminal.text
    assert "/3" in terminal.text
    shown = terminal.text
    assert list(track(range(3), "Counting")) == [0, 1, 2]
    assert terminal.text == shown


def test_without_a_terminal_only_where_it_is_asked_for(capsys):
    with show_progress():
        assert list(track(range(3), "Counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    with show_progress(everywhere=True):
        assert list(track(range(3), "Counting")) == [0, 1, 2]
    assert "Counting" in capsys.readouterr().err


def test_short_work_has_no_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_DELAY", 60.0)
    with show_progress(everywhere=True):
        assert list(track(range(3), "Counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_without_a_terminal_a_line_takes_the_place_of_a_bar(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))  # seconds; it is asked at every item, and when a line was told
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with show_progress():
        assert list(track([5, 6, 7, 8, 9], "Counting")) == [5, 6, 7, 8, 9]
        assert list(track(iter([1, 2, 3, 4]), "More")) == [1, 2, 3, 4]
        assert capsys.readouterr().err == "Counting: 2 of 5 done\nMore: 2 done\n"
    with show_progress(False):
        assert list(track(range(9), "Counting")) == list(range(9))
    assert capsys.readouterr().err == ""
