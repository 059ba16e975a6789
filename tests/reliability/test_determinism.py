"""One seed, one buffer: across processes, orders, batch sizes, workers, chunks and kinds of storage."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.policies import POLICIES
from tests.lightning.small import Foreign, loader, trainer
from tests.utilities.test_nested import same

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
    # torch, of workers that are forked beside the threads of other tests
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
ROOT = Path(__file__).parents[2]


def offers(count=700):
    """Two tasks of samples in id order, a quarter of them copies of others: (vectors, ids, losses)."""
    for task in range(2):
        generator = torch.Generator().manual_seed(task)
        x = torch.rand(count, 12, generator=generator) + task
        x[count // 2 : count // 2 + count // 4] = x[: count // 4]
        yield x, torch.arange(count) + 10_000 * task, torch.rand(count, generator=generator).double()


def filled(policy, shuffle=None, storage=None, lazily=False):
    """A buffer after two tasks and both phases."""
    buffer = EnergyReplayBuffer(30, policy, groups="label", sampling="energy", storage=storage, seed=5)
    for task, (x, ids, losses) in enumerate(offers()):
        order = torch.arange(len(x)) if shuffle is None else shuffle(len(x))
        images, labels = (x[order] * 100).to(torch.uint8), (x[order, 0] * 3).long()
        batch = (lambda at, images=images: {"x": images[at]}) if lazily else {"x": images}
        buffer.refine(x)
        buffer.update(batch, x[order], ids=ids[order], task=task, labels=labels, losses=losses[order])
    return buffer


def digest():
    """A number for all that all policies keep and draw."""
    found = hashlib.sha256()
    for policy in POLICIES:
        buffer = filled(policy)
        for tensor in (buffer.ids, buffer.energies, buffer.draw(50), buffer.sample(5)["x"]):
            found.update(tensor.numpy().tobytes())
        found.update(repr(buffer.beta).encode())
    return found.hexdigest()


def test_another_process_keeps_and_draws_the_same():
    code = "import torch; torch.set_num_threads(1); from tests.reliability import test_determinism as t; "
    code += "print(t.digest())"
    other = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=other, capture_output=True, text=True)
    assert result.stdout.strip() == digest(), result.stderr


@pytest.mark.parametrize("policy", POLICIES)
def test_neither_order_nor_storage_matter(policy, tmp_path):
    generator = torch.Generator().manual_seed(9)
    state = filled(policy).state_dict()
    for other in (
        filled(policy, lambda n: torch.arange(n).flip(0), storage=tmp_path / "a"),
        filled(policy, lambda n: torch.randperm(n, generator=generator), lazily=True),
    ):
        assert same(other.state_dict(), state)


@pytest.mark.parametrize("policy", ["random", "reservoir", "high_loss", "high_energy", "low_energy"])
@pytest.mark.parametrize("size", [23, 350])
def test_chunks_do_not_matter_where_samples_compete_one_by_one(policy, size):
    """For policies that look at each sample alone, and with energies that are given."""
    buffers = []
    for step in (size, 700):
        buffer = EnergyReplayBuffer(30, policy, beta=1.0, seed=5)
        for task, (x, ids, losses) in enumerate(offers()):
            for at in torch.arange(len(x)).split(step):
                given = {"ids": ids[at], "losses": losses[at], "energies": x[at].sum(1).double()}
                buffer.update(x[at], x[at], task=task, **given)
        buffers.append(buffer)
    assert same(buffers[0].state_dict(), buffers[1].state_dict())


def run(policy="greedy_gain", *, encoder=None, **settings):
    """Two tasks through a Trainer; the buffer and what the module saw."""
    buffer = EnergyReplayBuffer(10, policy, seed=3)
    module = Foreign()
    monitor = ForgettingMonitor(buffer, probe_size=8, encoder=encoder)
    tasks = [ReplayDataModule(loader(task, 40, **settings), buffer) for task in range(2)]
    fit_tasks(trainer(monitor, max_epochs=1), module, tasks)
    return buffer, monitor, module


@pytest.mark.parametrize("policy", ["greedy_gain", "high_energy", "random"])
def test_batch_sizes_do_not_matter(policy):
    first, monitor, _ = run(policy, batch_size=40)
    for size in (7, 16):
        other, measured, _ = run(policy, batch_size=size)
        assert same(other.state_dict(), first.state_dict())
        rises, expected = ([entry["energy"] for entry in m.history[1]["probes"]] for m in (measured, monitor))
        assert same(rises, expected)


def test_numbers_of_workers_do_not_matter():
    first, monitor, module = run(batch_size=16)
    for workers in (1, 2):
        other, measured, saw = run(batch_size=16, num_workers=workers)
        assert same(other.state_dict(), first.state_dict())
        assert [record["task"] for record in measured.history] == [0, 1]
        assert same(measured.tracker._probes, monitor.tracker._probes)
        assert same([batch["image"] for _, batch in saw.seen], [batch["image"] for _, batch in module.seen])


def test_an_encoder_rounds_differently_in_other_batches_and_the_choice_is_the_same():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 32))
    first, *_ = run("high_energy", encoder=encoder, batch_size=40)
    for size in (1, 7):
        other, *_ = run("high_energy", encoder=encoder, batch_size=size)
        assert torch.equal(other.ids, first.ids)
        torch.testing.assert_close(other.energies, first.energies, rtol=1e-4, atol=1e-7)
