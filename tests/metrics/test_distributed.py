"""Two processes that hold uneven shares, one of them partly nothing, give the numbers of one process."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hopfield_replay.metrics import (
    EnergyForgettingCorrelation,
    GenerativeTaskMatrix,
    IntrinsicForgetting,
    KNNPrecisionRecall,
    ReconstructionForgetting,
)
from tests.metrics.test_metrics import Extractor, draw, fill, shrink


def measure(rank, world):
    torch.set_num_threads(1)
    cut = slice(None) if world == 1 else (slice(0, 9) if rank == 0 else slice(9, None))
    x, results = draw(30, 4), {}
    for reduction in ("mean", "none"):
        metric = IntrinsicForgetting(draw(5, 4, seed=5), draw(7, 4, seed=1), 1.5, reduction=reduction)
        metric.update(x[cut])
        results[f"intrinsic {reduction}"] = metric.compute()
    metric = ReconstructionForgetting([1, 5], reduction="none")
    ids = torch.arange(30)
    metric.remember(shrink(1.0), x[cut], ids=ids[cut])
    metric.update(shrink(0.5), x[cut], ids=ids[cut])
    results["reconstruction"] = metric.compute()
    metric = EnergyForgettingCorrelation(resamples=100)
    if world == 1 or rank == 1:  # rank 0 has nothing
        metric.update(x[:, 0], x[:, 1], x[:, 2])
    results |= metric.compute()
    metric = KNNPrecisionRecall(Extractor().eval())
    if world == 1 or rank == 1:
        metric.update(draw(60, 4, 4), real=True)
    metric.update(draw(60, 4, 4, seed=1)[rank::world] + 0.5, real=False)
    results |= metric.compute()
    results |= fill(GenerativeTaskMatrix(3, Extractor().eval()), rank, world).compute()
    return results


def work(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    torch.save(measure(rank, 2), f"{path}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:.*torch.distributed.:DeprecationWarning")
def test_two_processes_equal_one(tmp_path):
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    alone = measure(0, 1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, equal_nan=True)
