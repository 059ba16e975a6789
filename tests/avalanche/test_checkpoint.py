"""Checkpoints: a resumed run is the run that was never interrupted, and the file does not hold the data set."""

import pytest
import torch
from torch.utils.data import TensorDataset

from tests.avalanche.streams import KINDS, QUIET, benchmark, data, naive, silent

from avalanche.benchmarks import nc_benchmark  # isort: skip

from hopfield_replay.avalanche import EnergyReplayPlugin, IntrinsicForgetting, load_checkpoint, save_checkpoint

pytestmark = QUIET


def strategy_of(policy):
    return naive(
        EnergyReplayPlugin(10, policy=policy, sampling="rise"), evaluator=silent(IntrinsicForgetting()), train_epochs=2
    )


def finish(strategy, made, first: int, stop: int, results: list) -> None:
    for experience in list(made.train_stream)[first:stop]:
        strategy.train(experience)
        results.append(strategy.eval(made.test_stream))


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["greedy_gain", "high_energy"])
def test_save_and_resume_in_the_middle_of_a_stream(tmp_path, kind, policy):
    made = benchmark(kind, *data(), experiences=3)
    whole, parts = [], []
    torch.manual_seed(1)
    uninterrupted = strategy_of(policy)
    finish(uninterrupted, made, 0, 3, whole)

    torch.manual_seed(1)
    strategy = strategy_of(policy)
    finish(strategy, made, 0, 2, parts)
    save_checkpoint(strategy, tmp_path / "strategy.pkl")
    del strategy
    torch.manual_seed(99)
    evaluated, _ = load_checkpoint(strategy_of(policy), tmp_path / "strategy.pkl")
    assert evaluated.eval(made.test_stream) == parts[-1]
    resumed, experiences = load_checkpoint(strategy_of(policy), tmp_path / "strategy.pkl")
    assert experiences == 2
    finish(resumed, made, experiences, 3, parts)

    assert parts == whole
    for a, b in zip(resumed.model.parameters(), uninterrupted.model.parameters(), strict=True):
        assert a.equal(b)
    mine, other = (s.plugins[0].storage_policy for s in (resumed, uninterrupted))
    assert mine.memory.ids.equal(other.memory.ids)
    assert mine.memory.energies.equal(other.memory.energies)
    assert mine.memory.observed.nan_to_num().equal(other.memory.observed.nan_to_num())
    assert mine.memory.gather(torch.arange(10))["sample"][0].equal(other.memory.gather(torch.arange(10))["sample"][0])
    assert len(mine.buffer) == 10


@pytest.mark.heavy
def test_the_file_grows_with_the_buffer_and_not_with_the_data(tmp_path):
    sizes = {}
    for count, mem_size in ((200, 10), (2000, 10), (2000, 100)):
        images = torch.rand(count, 1, 8, 8)
        made_of = TensorDataset(images, torch.arange(count) % 2)
        made_of.targets = torch.arange(count) % 2
        made = nc_benchmark(made_of, made_of, 2, task_labels=False)
        strategy = naive(
            EnergyReplayPlugin(mem_size, policy="high_energy"),
            evaluator=silent(IntrinsicForgetting()),
            train_mb_size=100,
        )
        for experience in made.train_stream:
            strategy.train(experience)
            strategy.eval(made.test_stream)
        save_checkpoint(strategy, tmp_path / "s.pkl")
        sizes[count, mem_size] = (tmp_path / "s.pkl").stat().st_size
        assert len(strategy.plugins[0].storage_policy.buffer) == mem_size  # a copy is made where the data set is read
        save_checkpoint(strategy, tmp_path / "s.pkl")
        assert abs((tmp_path / "s.pkl").stat().st_size - sizes[count, mem_size]) < 512
    assert abs(sizes[2000, 10] - sizes[200, 10]) < 4096  # the data grew by 460 kB
    grown = sizes[2000, 100] - sizes[2000, 10]
    assert 90 * 256 < grown < 90 * 256 * 4


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    from hopfield_replay.avalanche import checkpoint

    path = tmp_path / "s.pkl"
    save_checkpoint(naive(), path)
    before = path.read_bytes()

    def fails(strategy, file):
        with open(file, "wb") as out:
            out.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "upstream_save", fails)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(naive(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_torch_optim_is_left_as_it_was(tmp_path):
    before = set(vars(torch.optim))
    save_checkpoint(naive(), tmp_path / "s.pkl")
    assert set(vars(torch.optim)) == before
