import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hopfield_replay.denoisers import find_averages


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


class LitEma(nn.Module):
    """As in latent diffusion: each weight as a buffer, its name without dots."""

    def __init__(self, model):
        super().__init__()
        self.register_buffer("decay", torch.tensor(0.9))
        for name, weight in model.named_parameters():
            self.register_buffer(name.replace(".", ""), weight.detach().clone())


class Shadows:
    """As in diffusers and torch_ema: a list."""

    def __init__(self, parameters):
        self.shadow_params = [weight.detach().clone() for weight in parameters]


def lit(net):
    return LitEma(net)


def shadows(net):
    return Shadows(net.parameters())


def diffusers_ema(net):
    return pytest.importorskip("diffusers.training_utils").EMAModel(net.parameters())


def averaged(net):
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def ema_pytorch(net):
    return pytest.importorskip("ema_pytorch").EMA(net, beta=0.9, update_every=1)


def a_copy(net):
    return copy.deepcopy(net).requires_grad_(False)


def tensors(average):
    return [a for _, a in average.pairs]


class Tutorial:
    """As in many tutorials: a dict of the parameters' names."""

    def __init__(self, model):
        self.shadow = {name: weight.detach().clone() for name, weight in model.named_parameters()}


def a_state_dict(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def torch_ema(net):
    return pytest.importorskip("torch_ema").ExponentialMovingAverage(net.parameters(), decay=0.9)


@pytest.mark.parametrize(
    "make", [lit, shadows, diffusers_ema, averaged, ema_pytorch, torch_ema, a_copy, Tutorial, a_state_dict]
)
@pytest.mark.parametrize("first", [True, False])
def test_every_kind_is_found_and_stands_in(make, first):
    module = nn.Module()
    net = network()
    if first:  # registered before the network that it is of
        module.net_ema = make(net)
        module.net = net
    else:
        module.net = net
        module.net_ema = make(net)
    (average,) = find_averages(module, net)
    assert average.path.startswith("net_ema")
    assert {id(trained) for trained, _ in average.pairs} >= {id(weight) for weight in net.parameters()}
    for value in tensors(average):
        if value.is_floating_point():
            value.data.fill_(0.25)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    pointers = [weight.data_ptr() for weight in net.parameters()]
    with average.in_place():
        assert all(bool((weight == 0.25).all()) for weight in net.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in net.named_parameters())
    assert [weight.data_ptr() for weight in net.parameters()] == pointers


@pytest.mark.parametrize("name", ["ema", "EMA", "emaNet", "netEMA", "ModelEma", "net_ema", "averaged_net", "netAvg"])
def test_names(name):
    module = nn.Module()
    module.net = network()
    setattr(module, name, a_copy(module.net))
    assert [average.path for average in find_averages(module, module.net)] == [name]


@pytest.mark.parametrize("name", ["schema", "emanate", "cinema", "teacher", "target", "emap"])
def test_names_of_something_else(name):
    module = nn.Module()
    module.net = network()
    setattr(module, name, a_copy(module.net))
    assert find_averages(module, module.net) == []


def test_they_come_back_after_an_error():
    module = nn.Module()
    module.net = network()
    module.ema = a_copy(module.net)
    (average,) = find_averages(module)
    before = module.net[0].weight.clone()
    with pytest.raises(KeyError), average.in_place():
        raise KeyError
    assert torch.equal(before, module.net[0].weight)


def test_the_average_of_what_is_around_a_network():
    """GaussianDiffusion(unet) is averaged as a whole: the network is a part of it."""
    module = nn.Module()
    module.diffusion = nn.ModuleDict({"unet": network(), "head": nn.Linear(2, 2)})
    module.ema_model = a_copy(module.diffusion)
    (average,) = find_averages(module, module.diffusion["unet"])
    assert len([1 for trained, _ in average.pairs if isinstance(trained, nn.Parameter)]) == 8


def test_what_is_no_average():
    module = nn.Module()
    module.net, module.teacher, module.schema = network(), a_copy(network()), network()
    module.ema = nn.Linear(9, 9)
    assert find_averages(module) == []
    assert find_averages(network()) == []


def test_several_are_listed():
    module = nn.Module()
    module.net = network()
    module.ema_slow, module.ema_fast = a_copy(module.net), averaged(module.net)
    assert [average.path for average in find_averages(module, module.net)] == ["ema_slow", "ema_fast.module"]


def test_an_attribute_that_cannot_be_had_hides_no_average():
    class Lazy(nn.Module):
        @property
        def shadow_params(self):
            raise RuntimeError("set in setup")

    module = Lazy()
    module.net = network()
    module.ema = a_copy(module.net)
    assert [average.path for average in find_averages(module)] == ["ema"]
