import functools
from types import SimpleNamespace

import torch
from torch import nn

from hopfield_replay.utilities.holdings import holdings, is_plain, modules_of

NET = nn.Linear(1, 1)


def of_a_global(x):
    return NET(x)


def through_another(x):
    return of_a_global(x)


class Owner:
    def __init__(self, net):
        self.net = net

    def method(self, x):
        return self.net(x)


def test_modules_of_everything_that_refers_to_them():
    net, other = nn.Linear(2, 2), nn.Linear(3, 3)
    found = [
        net,
        lambda x: net(x),
        functools.partial(lambda f, x: f(x), net),
        functools.partial(print, x=net),
        Owner(net),
        Owner(net).method,
        lambda x, f=net: f(x),
        [{"a": (net,)}],
        SimpleNamespace(inner=SimpleNamespace(net=net)),
        (lambda inner: lambda x: inner(x))(lambda x: net(x)),
    ]
    for value in found:
        assert modules_of(value) == [net], value
    assert modules_of(net, other, lambda x: net(x)) == [net, other]
    assert modules_of(of_a_global) == modules_of(through_another) == [NET]
    assert modules_of(None, 3, "text", print) == []


def test_a_part_is_left_to_the_whole():
    outer = nn.Sequential(nn.Linear(1, 1))
    assert modules_of(lambda x: outer[0](x), outer) == [outer]


def test_hidden_ones_are_found_and_circles_end():
    module = nn.Module()
    module.hidden, module.itself = [nn.Linear(1, 1)], module
    module.plain = SimpleNamespace(back=module, deep={"net": nn.Linear(2, 2)})
    paths = {path for path, value in holdings(module) if isinstance(value, nn.Module)}
    assert paths == {"", "hidden.0", "plain.deep.net"}


def test_each_thing_once_with_tensors_and_without_data():
    module = nn.Linear(2, 2)
    module.table, module.again, module.data = torch.ones(3), module.weight, list(range(1000))
    found = [path for path, _ in holdings(module)]
    assert found == ["", "weight", "bias", "table", "data"]
    assert is_plain(Owner(1))
    assert not is_plain(torch.ones(1))


def test_what_is_not_to_be_entered_is_not():
    module = nn.Sequential(nn.Sequential(nn.Linear(1, 1)))
    assert [path for path, _ in holdings(module, enter=lambda part: part is module)] == ["", "0"]
