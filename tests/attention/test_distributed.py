"""Two processes with half a batch each come to the gradients of one."""

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("diffusers")

from hopfield_replay.attention import install_hopfield_attention
from tests.attention.models import assert_same_gradients, call, gradients, make


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = make("dit")
    install_hopfield_attention(model, 0.5)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    call(parallel, "dit", n=2, seed=rank).square().mean().backward()
    torch.save(gradients(model), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.heavy
def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    model = make("dit")
    install_hopfield_attention(model, 0.5)
    loss = sum(call(model, "dit", n=2, seed=rank).square().mean() for rank in range(2)) / 2
    loss.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_same_gradients(found, gradients(model), 1e-12)
