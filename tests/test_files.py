"""Files that are replaced only when they are whole, also by processes that are killed while they write."""

import json
import os
import signal
import subprocess
import sys

import pytest

from hopfield_replay.files import replacing, write_json, write_text


def test_a_file_appears_under_its_name(tmp_path):
    write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é\n"
    write_json(str(tmp_path / "b.json"), {"x": [1, None]})
    assert json.loads((tmp_path / "b.json").read_text()) == {"x": [1, None]}
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.json"]


def test_the_partial_file_keeps_the_suffix_and_does_not_look_like_the_target(tmp_path):
    with replacing(tmp_path / "a.png") as partial:
        assert partial.suffix == ".png"  # matplotlib chooses the format by it
        assert not list(tmp_path.glob("a*"))
        partial.write_bytes(b"1")
    assert (tmp_path / "a.png").read_bytes() == b"1"


@pytest.mark.parametrize("wrong", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, wrong):
    write_text(tmp_path / "a", "old")

    def write():
        with replacing(tmp_path / "a") as partial:
            partial.write_text("ne")
            raise wrong

    with pytest.raises(type(wrong)):
        write()
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (done.append(name), real(*args))[1])
    write_text(tmp_path / "a", "1")
    assert done == ["fsync", "replace", "fsync"]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "open", fail)
    write_text(tmp_path / "a", "1")
    assert (tmp_path / "a").read_text() == "1"


KILLED = """
import os, signal, sys
from hopfield_replay import files
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[2], kill)
files.write_text(sys.argv[1], "new")
"""


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_killed_while_it_writes(tmp_path, at):
    write_text(tmp_path / "a", "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a"), at], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == "old"
