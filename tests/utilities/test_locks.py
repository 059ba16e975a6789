"""A lock is held by one object of one process, is no file system without locks, and goes with its holder."""

import gc
import os
import subprocess
import sys
import threading

import pytest

from hopfield_replay.utilities.locks import InUse, PathLock

TRIES = """
import sys
from pathlib import Path
from hopfield_replay.utilities.locks import InUse, PathLock
try:
    PathLock(Path(sys.argv[1]))
    print("free")
except InUse as error:
    print("held by", error)
"""


def seen_from_outside(path):
    done = subprocess.run(
        [sys.executable, "-c", TRIES, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "in_use"
    lock = PathLock(path)
    assert lock.shared
    for _ in range(2):  # a try that fails frees nothing
        with pytest.raises(InUse, match=f"process {os.getpid()}, which is this one"):
            PathLock(path)
        assert seen_from_outside(path).startswith(f"held by process {os.getpid()} on ")
    lock.release()
    assert seen_from_outside(path) == "free"
    again = PathLock(path)
    again.release()
    again.release()


def test_the_end_of_its_holder_frees_it(tmp_path):
    lock = PathLock(tmp_path / "in_use")
    del lock
    gc.collect()
    PathLock(tmp_path / "in_use").release()


def test_a_lock_that_removes_its_file_leaves_none_and_is_never_held_twice(tmp_path):
    path, held, most, errors = tmp_path / "in_use", [], [], []

    def work():
        for _ in range(200):
            try:
                lock = PathLock(path, remove=True)
            except InUse:
                continue
            except BaseException as error:
                errors.append(error)
                return
            held.append(1)
            most.append(len(held))
            held.pop()
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert max(most) == 1
    assert not path.exists()


def test_links_are_not_followed(tmp_path):
    (tmp_path / "in_use").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="in_use"):
        PathLock(tmp_path / "in_use")
    assert not (tmp_path / "elsewhere").exists()
