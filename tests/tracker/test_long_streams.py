"""A stream of a million samples within a limit on the process's memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="its memory is read where Linux shows it")
@pytest.mark.parametrize("name", ["1M-greedy", "1M-random"])
def test_a_million_samples_pass_in_bounded_memory(name):
    """Both ends of a task and the start of the next, under RLIMIT_DATA 3 GB, in far less beside the data."""
    command = [sys.executable, "-m", "tests.benchmarks.boundary", "--row", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["seconds"]) == 3
    assert max(found["anonymous"]) < 0.6  # GiB; the stream alone would be 3
