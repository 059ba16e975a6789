"""When memory runs out, it is said what for and what helps; other errors stay what they are."""

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from hopfield_replay.utilities.memory import is_out_of_memory, memory_for


@pytest.mark.parametrize(
    "make",
    [lambda: torch.empty(1 << 58), lambda: np.empty(1 << 58), lambda: bytearray(1 << 60), lambda: [0] * (1 << 58)],
)
def test_whoever_asks_for_too_much(make):
    said = r"There is not enough memory for a table.*: use a smaller one\."
    with pytest.raises(MemoryError, match=said), memory_for("a table", "use a smaller one"):
        make()


def test_the_innermost_reason_is_kept_and_others_pass():
    outer, inner = memory_for("the outer one", "x"), memory_for("the inner one", "y")
    with pytest.raises(MemoryError, match="for the inner one"), outer, inner:
        raise MemoryError
    for error in (RuntimeError("shapes"), OSError(2, "no such file"), ValueError("bad")):
        with pytest.raises(type(error)), memory_for("x", "y"):
            raise error
        assert not is_out_of_memory(error)
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))


LIMITED = """
import resource, sys, torch
from pathlib import Path
from hopfield_replay import EnergyReplayBuffer
from hopfield_replay.cli import main
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20),) * 2)
x = torch.randn(4, 3)
try:
    EnergyReplayBuffer(100_000, "random").update(torch.zeros(4, 3000), x, ids=torch.arange(4), task=0)
except MemoryError as error:
    print(error)
from hopfield_replay import ForgettingTracker, TaskSource
wide = torch.zeros(1, 1 << 20).expand(100, -1)
try:
    ForgettingTracker(probe_size=2, beta=1.0).begin_task(TaskSource([wide, wide]))
except MemoryError as error:
    print(error)
sys.exit(main(["forecast", sys.argv[1], sys.argv[1]]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.heavy
def test_of_the_host_in_a_buffer_and_in_a_command(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((20_000, 3000), np.float32))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "x.npz")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert (
        "not enough memory for a buffer of 100000 samples of (3000,) torch.float32 (1200000000 bytes more)"
        in done.stdout
    )
    assert "not enough memory for the vectors of task 0 (" in done.stdout
    assert "give an encoder with shorter vectors" in done.stdout
    assert "lower its capacity, or give it a storage folder" in done.stdout
    assert "There is not enough memory for the samples in " in done.stderr
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 0
