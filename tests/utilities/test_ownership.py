"""A process is known by its name while it runs, and known to have ended only where that is certain."""

import os
import subprocess
import sys

import pytest

from hopfield_replay.utilities import ownership
from hopfield_replay.utilities.ownership import has_ended, owner

pytestmark = pytest.mark.skipif(owner() is None, reason="this system does not tell its processes apart")

SAYS = "from hopfield_replay.utilities.ownership import owner; print(owner(), flush=True); input()"


def test_another_process_has_another_name_and_is_seen_to_end():
    with subprocess.Popen([sys.executable, "-c", SAYS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        name = other.stdout.readline().decode().strip()
        assert name != owner()
        assert name.split("-")[2] == str(other.pid)
        assert not has_ended(name)
        other.kill()
        other.wait()
        assert has_ended(name)


def test_a_number_that_was_given_again_is_another_process():
    boot, space, number, started = owner().split("-")
    assert not has_ended(f"{boot}-{space}-{number}-{started}")
    assert has_ended(f"{boot}-{space}-{number}-{int(started) - 1}")


@pytest.mark.parametrize("part", [0, 1])
def test_of_other_machines_and_containers_nothing_is_known(part):
    parts = owner().split("-")
    parts[part] = "1"
    parts[2] = "99999999"
    assert not has_ended("-".join(parts))


@pytest.mark.parametrize("name", ["", "x", "-", "a-b-c-d", "a-b"])
def test_what_is_no_name_is_left_alone(name):
    assert not has_ended(name)


def test_a_process_of_somebody_else_is_alive(monkeypatch):
    boot, space, _, _ = owner().split("-")

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not has_ended(f"{boot}-{space}-99999999-5")  # and /proc does not show it


def test_a_system_that_does_not_tell(monkeypatch):
    name = owner()
    monkeypatch.setattr(os, "readlink", lambda _: "1")
    assert owner() is None
    assert not has_ended(name)
    monkeypatch.setattr(ownership, "owner", lambda: None)
    assert not has_ended(name)
