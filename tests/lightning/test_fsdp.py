"""Modules that FSDP2 spreads over two processes are trained and measured as whole ones are."""

import pytest
import torch
from torch import nn

from hopfield_replay.denoisers.averages import find_averages
from hopfield_replay.functional import reconstruction_error
from hopfield_replay.lightning.gathered import gathered
from tests.lightning.small import Images, same
from tests.lightning.two_processes import (
    assert_errors_are_those_of_the_whole_model,
    assert_the_ledger_is_that_of_one_process,
    results_of,
)

pytest.importorskip("torch.distributed.fsdp", reason="this torch has no FSDP")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:.*could not be verified"),  # ours: the step calls the network without a time
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]


@pytest.fixture
def alone(tmp_path):
    """A process group of this process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_weights_are_whole_while_they_are_measured_and_spread_afterwards(alone):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = net(x).detach()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    for part, after in ((net[0], False), (net[2], True), (net, True)):
        fully_shard(part, mesh=mesh, reshard_after_forward=after)

    def spread():
        return {isinstance(weight, DTensor) for weight in net.parameters()}

    def settings():
        groups = [part._get_fsdp_state()._fsdp_param_groups for part in (net[0], net[2], net)]
        return [group.post_forward_mesh_info for part in groups for group in part]

    before = settings()
    assert spread() == {True}
    for _ in range(2):
        with gathered(net):
            assert spread() == {False}
            with gathered(net), torch.no_grad():  # nothing to do
                torch.testing.assert_close(net(x), expected)
            assert spread() == {False}
            torch.testing.assert_close(net[0](x), x @ net[0].weight.T + net[0].bias)
        assert spread() == {True}
        assert [a is b for a, b in zip(settings(), before, strict=True)] == [True] * len(before)
        net(x).sum().backward()  # training goes on
        assert spread() == {True}
    assert isinstance(net[0].weight.grad, DTensor)
    with pytest.raises(RuntimeError, match="inside"), gathered(net):
        raise RuntimeError("inside")
    assert spread() == {True}


def test_averages_that_are_spread_stand_in_for_the_weights(alone):
    from torch.distributed.fsdp import fully_shard

    module = nn.Module()
    module.net = nn.Linear(3, 4)
    fully_shard(module.net, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    module.ema = {name: weight.detach() * 2 for name, weight in module.net.named_parameters()}
    with torch.no_grad(), gathered(module):
        plain = module.net(x)
        for network in (None, module.net):
            (average,) = find_averages(module, network)
            with average.in_place():
                torch.testing.assert_close(module.net(x), 2 * plain)
            torch.testing.assert_close(module.net(x), plain)
    assert [average.path for average in find_averages(module)] == ["ema"]  # also while they are spread
    module.ema = {name: weight.detach() for name, weight in module.net.named_parameters()}
    assert find_averages(module) == []  # the weights themselves


def test_a_module_that_is_not_spread_is_left_alone(alone):
    net = nn.Linear(2, 2)
    weight = net.weight
    with gathered(net):
        assert net.weight is weight


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    return results_of("run_fsdp", folder, timeout=600)


@pytest.mark.heavy
def test_all_processes_know_the_same(ranks):
    first, second = ranks
    assert same(first["history"], second["history"])
    assert same(first["weights"], second["weights"])
    assert same(*({k: v for k, v in rank["buffer"].items() if k != "generator"} for rank in ranks))
    for rank in ranks:
        assert rank["spread"]
        assert all(rank["spread"])  # outside of measurements


@pytest.mark.heavy
def test_errors_are_those_of_the_whole_model(ranks):
    assert_errors_are_those_of_the_whole_model(ranks)


@pytest.mark.heavy
def test_averages_that_are_spread_are_measured_whole(ranks):
    from tests.lightning.run_fsdp import Diffusion, denoiser

    for rank in ranks:
        assert same(rank["last"], ranks[0]["last"])
        (record,) = rank["averaged_history"]
        (probe,) = record["probes"]
        images = Images(0, 13).images[probe["ids"]]
        for weights, equal in (({f"layer.{k}": v for k, v in rank["average"].items()}, True), (rank["last"], False)):
            module = Diffusion()
            module.load_state_dict(weights)
            expected = reconstruction_error(denoiser(module), images, record["timesteps"], 0, ids=probe["ids"])
            assert torch.allclose(probe["error"], expected, rtol=1e-5, atol=1e-8) == equal


@pytest.mark.heavy
def test_the_ledger_is_that_of_one_process(ranks):
    assert_the_ledger_is_that_of_one_process(ranks)


@pytest.mark.heavy
def test_a_checkpoint_resumes(ranks):
    """Cut between the first task's last checkpoint and its boundary."""
    for rank in ranks:
        assert same(rank["resumed_history"], rank["history"])
        assert same(rank["resumed_buffer"], rank["buffer"])
        assert same(rank["resumed_weights"], rank["weights"])
