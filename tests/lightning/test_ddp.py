import pytest
import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.run_ddp import odd
from tests.lightning.small import Foreign, energies_of, same, trainer
from tests.lightning.two_processes import results_of

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    return results_of("run_ddp", folder, timeout=240)


def test_ranks_hold_the_same_buffer_and_history(ranks):
    first, second = ranks
    for name in ("buffer", "history", "weight"):
        same_apart_from_draws = [{k: v for k, v in r["buffer"].items() if k != "generator"} for r in ranks]
        assert same(*same_apart_from_draws) if name == "buffer" else same(first[name], second[name])


def test_the_ledger_is_that_of_one_process(ranks):
    """Energies and choices depend on the data alone, however many processes read it."""
    buffer = EnergyReplayBuffer(7, "random", groups="task")
    monitor = ForgettingMonitor(buffer, probe_size=6)
    tasks = [ReplayDataModule(odd(task), buffer, replay_ratio=0.4) for task in range(2)]
    fit_tasks(trainer(monitor, max_epochs=1), Foreign(), tasks)
    assert same(*([energies_of(record) for record in history] for history in (ranks[0]["history"], monitor.history)))
    assert same(ranks[0]["buffer"], buffer.state_dict())


def test_ranks_train_on_other_halves_and_replay_other_samples(ranks):
    own, replayed = [], []
    for rank in ranks:
        second_task = [batch for _, batch in rank["seen"] if 1 in batch["label"]]
        assert [len(batch["image"]) for batch in second_task] == [5, 5, 2]  # 7 own samples, and 2/3 of that replayed
        images = torch.cat([batch["image"] for batch in second_task])
        labels = torch.cat([batch["label"] for batch in second_task])
        own.append({tuple(image.flatten().tolist()) for image in images[labels == 1]})
        replayed.append(images[labels == 0])
    assert len(own[0] | own[1]) == 13  # the distributed sampler was put in: each sample on one rank, one on both
    assert len(own[0] & own[1]) <= 1
    assert replayed[0].shape == replayed[1].shape
    assert not torch.equal(*replayed)


def test_a_checkpoint_resumes(ranks):
    """Cut between the first task's last checkpoint and its boundary."""
    for rank in ranks:
        assert same(rank["resumed_history"], rank["history"])
        assert same(rank["resumed_buffer"], rank["buffer"])
        assert torch.equal(rank["resumed_weight"], rank["weight"])
