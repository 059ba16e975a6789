"""Files that are replaced only when they are whole, also by processes that are killed while they write."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from hopfield_replay.utilities import files
from hopfield_replay.utilities.files import files_below, replacing, write_json, write_text
from hopfield_replay.utilities.ownership import owner


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
from hopfield_replay.utilities import files
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


LEAVES = """
import os, signal, sys
from hopfield_replay.utilities.files import replacing
with replacing(sys.argv[1]) as partial:
    partial.write_text("half")
    print(partial, flush=True)
    input()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(owner() is None, reason="this system does not tell its processes apart")
def test_the_next_write_removes_what_killed_processes_left_and_nothing_else(tmp_path):
    target, other = tmp_path / ("a" * 240 + ".txt"), tmp_path / "b.txt"

    def begin(path):
        process = subprocess.Popen(
            [sys.executable, "-c", LEAVES, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return process, Path(process.stdout.readline().strip())

    def kill(process):
        process.communicate("\n", timeout=60)
        assert process.returncode == -signal.SIGKILL

    killed, running, elsewhere = begin(target), begin(target), begin(other)
    kill(killed[0])
    kill(elsewhere[0])
    boot = owner().split("-")[0]
    foreign = killed[1].with_name(killed[1].name.replace(boot, "0" * len(boot)))  # of another machine
    foreign.write_text("half")
    unnamed = killed[1].with_name(f".{uuid.uuid4().hex}.partial.txt")
    unnamed.write_text("half")
    assert killed[1].exists()
    write_text(target, "whole")
    assert target.read_text() == "whole"
    left = {target, running[1], elsewhere[1], foreign, unnamed}
    assert set(tmp_path.iterdir()) == left
    kill(running[0])
    write_text(target, "whole")
    assert set(tmp_path.iterdir()) == left - {running[1]}


def test_a_write_that_fails_removes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "has_ended", lambda _: True)
    monkeypatch.setattr(files, "owner", lambda: "gone")
    with replacing(tmp_path / "a") as partial:
        monkeypatch.setattr(files, "owner", lambda: "own")
        with pytest.raises(OSError, match="full"), replacing(tmp_path / "a"):
            raise OSError("full")
        partial.write_text("1")
    assert (tmp_path / "a").read_text() == "1"


def test_files_below_a_folder_are_found_behind_links_and_once(tmp_path):
    for name in ("own/cat", "own/.hidden", "elsewhere/deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.png").touch()
    for name, target in (("own/again", "own/cat"), ("own/dog", "elsewhere"), ("elsewhere/circle", "own")):
        (tmp_path / name).symlink_to(tmp_path / target)
    found = [str(file.relative_to(tmp_path)) for file in files_below(tmp_path / "own", hidden=False)]
    assert found == ["own/cat/x.png", "own/dog/deep/x.png"]  # by its own name, and not as own/again
    assert len(list(files_below(tmp_path / "own"))) == 3
