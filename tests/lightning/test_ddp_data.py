"""Under DDP what is measured and kept is what all processes were trained on together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.lightning.run_ddp_data import LOADERS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    plain = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.lightning.run_ddp_data", str(folder)],
        cwd=ROOT, env={**plain, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.heavy
def test_trained_on_in_any_process_is_measured_kept_and_replayed(ranks, name):
    first, second = (rank[name] for rank in ranks)
    trained = {*first["trained"][0], *second["trained"][0]}
    assert set(first["measured"]) == trained
    assert first["measured"] == second["measured"]
    assert torch.equal(first["ids"], second["ids"])
    kept = {label for label in first["kept"] if label < 10**7}
    assert kept
    assert kept <= trained
    assert first["belong"]
    assert second["belong"]
    replayed = {label for rank in (first, second) for label in rank["trained"][1] if label < 10**7}
    assert replayed
    assert replayed <= trained
