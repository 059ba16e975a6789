"""Two processes of which one is short of memory: they go on together, and choose and weigh as one process does."""

import datetime

import pytest
import torch
import torch.distributed as dist

from hopfield_replay import GreedyGain, calibrate_beta
from hopfield_replay.buffer.choice import weigh
from hopfield_replay.functional import StreamedAffinity, far_task_energy, many
from hopfield_replay.functional.rows import Rows
from hopfield_replay.functional.shared_rows import SharedRows, by_share
from hopfield_replay.memory import temperature
from hopfield_replay.policies import Candidates

N = 80
WHOLE = torch.randn(N, 7, generator=torch.Generator().manual_seed(0))
SPLITS = {"uneven": [torch.arange(0, N, 3), torch.arange(N)[torch.arange(N) % 3 > 0]], "one empty": [torch.arange(N)]}


def answers(rows):
    ids = torch.arange(N)
    keys = torch.rand(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pool = Candidates(ids, ids // 50, keys, rows, keys, beta=0.8, places=9, device=torch.device("cpu"))
    chosen = GreedyGain().select(pool, 9)
    affinities = StreamedAffinity(rows, rows, far_task_energy(rows), 0.8, masses=0.1)
    return {
        "chosen": chosen,
        "weights": weigh(pool, chosen, "task").weights,
        "matrix": affinities.matrix(),
        "totals": affinities.log_totals(),
        "beta": torch.tensor(calibrate_beta(rows)),
    }


def short_of_memory():
    """Whatever is computed of more than 6 samples together does not fit."""

    def short(function, which):
        def called(*arguments, **options):
            if len(arguments[which]) > 6:
                raise torch.OutOfMemoryError("pretended")
            return function(*arguments, **options)

        return called

    StreamedAffinity._scores = short(StreamedAffinity._scores, 1)
    many.energy = short(many.energy, 0)


def failing(rows):
    if dist.get_rank():
        raise ValueError("no rows here")
    return rows[:]


def work(rank, folder, name):
    torch.set_num_threads(1)
    time = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=time)
    temperature.HELD = 0
    if rank:
        short_of_memory()
    where = SPLITS[name][rank] if rank < len(SPLITS[name]) else torch.arange(0)
    rows = Rows(SharedRows.of(WHOLE[where], where))
    found = answers(rows)
    with pytest.raises(ValueError if rank else RuntimeError, match="no rows here"):
        by_share(rows, torch.arange(5), failing)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.heavy
@pytest.mark.parametrize("name", SPLITS)
def test_processes_go_on_together(name, tmp_path, monkeypatch):
    torch.multiprocessing.spawn(work, args=(str(tmp_path), name), nprocs=2)
    monkeypatch.setattr(temperature, "HELD", 0)
    expected = answers(WHOLE)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=key)
