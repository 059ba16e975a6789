"""Two processes that hold a share of the vectors each come to the results of one; also with an empty share."""

import datetime

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource
from hopfield_replay.functional.rows import Rows
from hopfield_replay.functional.shared_rows import is_shared, share_of
from tests.utilities.test_nested import same

pytestmark = pytest.mark.heavy

SIZE, SMALL = 2, 1 << 20  # 64 KiB stay in memory: 273 vectors of 60 numbers
COUNTS = (547, 401, 300, 2, 1)  # one share or both in memory; all; a share that is empty


def sequence(policy):
    """A tracker's state and what its tasks' vectors were held in."""
    tracker = ForgettingTracker(EnergyReplayBuffer(20, policy=policy), beta=0.1, probe_size=30, memory=SMALL)
    kinds, held = [], []
    for task, count in enumerate(COUNTS):
        images = torch.randn(count, 60, generator=torch.Generator().manual_seed(task)) + task
        source = TaskSource(DataLoader(TensorDataset(images), batch_size=50))
        tracker.begin_task(source)
        vectors = tracker._at_hand.begun(task).vectors
        kinds.append(isinstance(vectors, Rows))
        if kinds[-1] and dist.is_initialized():
            assert is_shared(vectors)
            held.append(len(share_of(vectors)[0]))
            assert sum(part.own.shape[0] for part in vectors.parts) == held[-1]  # no more than that is here
        assert torch.equal(vectors[:], images)
        tracker.end_task(source)
    buffer, probes = tracker.buffer, [probe for record in tracker.history for probe in record.probes]
    energies = [buffer.energies, buffer.observed.nan_to_num(), *(probe.energy for probe in probes)]
    return {
        "kinds": kinds,
        "held": held,
        "kept": [buffer.ids, buffer.vectors, buffer.weights],
        "density": [probe.density for probe in probes],
        "n_eff": torch.tensor([record.n_eff for record in tracker.history]),
        "energies": [*energies, buffer.draw_shares, buffer.rises],
    }


def sequences():
    return [sequence(policy) for policy in ("greedy_gain", "random", "high_energy", "k_center")]


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=SIZE,
        timeout=datetime.timedelta(seconds=120),
    )
    torch.save(sequences(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_history_and_buffer_are_those_of_one_process(tmp_path):
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=SIZE)
    alone = sequences()
    assert alone[0]["kinds"] == [True, True, True, False, False]
    for rank in range(SIZE):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for theirs, expected in zip(found, alone, strict=True):
            for name in ("energies", "n_eff"):  # of shares: another rounding
                torch.testing.assert_close(theirs[name], expected[name])
            for name in ("kinds", "kept", "density"):
                assert same(theirs[name], expected[name])
            assert theirs["held"] == [(count + 1 - rank) // SIZE for count in COUNTS[:3]]
