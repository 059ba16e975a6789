"""Whether the rows that a network is shown are the samples of the batch, in their order."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from hopfield_replay.denoisers.doors import Doors
from hopfield_replay.denoisers.draws import Draws
from hopfield_replay.denoisers.row_order import in_order

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(7))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x, t=None):
        self.seen += 1
        return self.layer(x)


def noisy(net, x):
    t = torch.rand(len(x), 1)
    return net((1 - t) * x + t * torch.randn_like(x), t)


def in_latents(net, x):
    return noisy(net, x.flip(1).tanh())


def noise_is_moved(net, x):
    noise = torch.randn_like(x)
    return net(x + noise[torch.cdist(x, noise).argmin(1)])


def all_scaled(net, x):
    return noisy(net, (x - x.mean()) / x.std())


def mixed_up(net, x):
    return net(0.8 * x + 0.2 * x[torch.randperm(len(x))])


def by_python(net, x):
    order = list(range(len(x)))
    random.shuffle(order)
    return noisy(net, x[order])


def by_numpy(net, x):
    return noisy(net, x[np.random.permutation(len(x))])  # noqa: NPY002 as people write it


def by_torch(net, x):
    return noisy(net, x[torch.randperm(len(x))])


def by_transport(net, x):
    """Minibatch optimal transport that moves the samples."""
    from scipy.optimize import linear_sum_assignment

    noise = torch.randn_like(x)
    return net(0.5 * noise + 0.5 * x[linear_sum_assignment(torch.cdist(noise, x))[1]])


def sorted_by_size(net, x):
    return noisy(net, x[x.square().sum(1).argsort()])


def replayed_first(net, x):
    return noisy(net, x.roll(4, 0))


def twice(net, x):
    return noisy(net, x.repeat(2, 1))


def never(net, x):
    return x


def asked(step, x=X):
    net = Network()
    return in_order(lambda batch: step(net, batch), net, net, x), net


@pytest.mark.parametrize("step", [noisy, in_latents, noise_is_moved, all_scaled, mixed_up])
def test_in_order(step):
    assert asked(step)[0] is True


@pytest.mark.parametrize("step", [by_python, by_numpy, by_torch, by_transport, sorted_by_size, replayed_first])
def test_out_of_order(step):
    assert asked(step)[0] is False


@pytest.mark.parametrize("step", [twice, never])
def test_what_cannot_be_seen(step):
    assert asked(step)[0] is None
    assert asked(noisy, X[:1])[0] is None
    assert asked(noisy, torch.ones(4, 5))[0] is None


def test_nothing_is_left_behind_and_no_witness_sees_it():
    net = Network()
    state = torch.get_rng_state(), random.getstate()
    with Doors(net) as doors, Draws() as draws:
        in_order(lambda batch: noisy(net, batch), net, net, X)
    assert not doors.calls
    assert not draws.made
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert net.seen == 0
    assert not net._forward_pre_hooks
