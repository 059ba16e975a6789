from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hopfield_replay.denoisers.doors import Doors, Passed


class Net(nn.Module):
    def __init__(self, answer=lambda x: x):
        super().__init__()
        self.weight, self.answer = nn.Parameter(torch.ones(())), answer

    def forward(self, x, t, y=None):
        return self.answer(x * self.weight)


@dataclass
class Output:
    sample: torch.Tensor


X, T = torch.randn(4, 2, 3), torch.arange(4)


@pytest.mark.parametrize(
    "answer", [lambda x: x, lambda x: (x, 1), lambda x: {"sample": x}, Output, lambda x: SimpleNamespace(mean=x)]
)
def test_answers_of_every_kind(answer):
    net = Net(answer)
    with Doors(net) as doors:
        net(X, T)
    (call,) = doors.calls
    assert torch.equal(call.answer, X)
    assert not call.doubled


def test_twice_the_channels():
    net = Net(lambda x: torch.cat([x, 5 * x], 1))
    with Doors(net) as doors:
        found = net(X, T)
        found.square().sum().backward()
    (call,) = doors.calls
    assert torch.equal(call.answer, X)
    assert call.doubled
    assert torch.equal(call.gradient, 2 * X)


@pytest.mark.parametrize(
    ("args", "kwargs", "noisy", "times"),
    [
        ((X, T), {}, 0, {1: [0, 1, 2, 3]}),
        ((T.view(4, 1), X), {}, 1, {0: [0, 1, 2, 3]}),
        ((), {"x": X, "t": T / 4}, "x", {"t": [0, 0.25, 0.5, 0.75]}),
        ((X, torch.tensor(7)), {}, 0, {1: [7, 7, 7, 7]}),
        ((X, 0.5), {}, 0, {1: [0.5] * 4}),
        ((X, T.view(4, 1, 1)), {"y": T + 9}, 0, {1: [0, 1, 2, 3], "y": [9, 10, 11, 12]}),
    ],
)
def test_samples_and_times_are_told_apart(args, kwargs, noisy, times):
    class Any(nn.Module):
        def forward(self, *args, **kwargs):
            return X

    net = Any()
    with Doors(net) as doors:
        net(*args, **kwargs)
    (call,) = doors.calls
    assert call.noisy == noisy
    assert {name: value.tolist() for name, value in call.times.items()} == times


@pytest.mark.parametrize(
    "call", [lambda net: net(X, None), lambda net: net(T, T), lambda net: net(X, torch.randn(4, 9))]
)
def test_other_calls_are_not_noted(call):
    class Any(nn.Module):
        def forward(self, x, t):
            return X

    net = Any()
    with Doors(net) as doors:
        call(net)
    assert doors.calls == []


def test_what_was_shown_is_a_copy_and_hooks_are_taken_away():
    class InPlace(nn.Module):
        def forward(self, x, t):
            return x.mul_(0)

    net, x = InPlace(), X.clone()
    with Doors(net) as doors:
        net(x, T)
    assert torch.equal(doors.calls[0].shown, X)
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_networks_inside_of_networks_and_of_plain_objects():
    outer = nn.Module()
    inner = Net()
    outer.forward = lambda x, t: inner(x, t)
    holder = nn.Module()
    holder.pipeline = SimpleNamespace(parts={"outer": outer}, hidden=[inner])
    with Doors(holder) as doors:
        outer(X, T)
    assert [call.path for call in doors.calls] == ["pipeline.parts.outer", "pipeline.parts.outer.forward.inner"]
    assert doors.calls[1].inside is doors.calls[0]
    assert doors.calls[0].inside is None


def test_a_call_that_fails_is_closed():
    class Fails(nn.Module):
        def forward(self, x, t):
            raise RuntimeError("no")

    both = nn.ModuleDict({"fails": Fails(), "net": Net()})
    with Doors(both) as doors:
        with pytest.raises(RuntimeError, match="no"):
            both["fails"](X, T)
        both["net"](X, T)
    answered = [call for call in doors.calls if call.answer is not None]
    assert [call.path for call in answered] == ["net"]
    assert answered[0].inside is None or answered[0].inside.answer is None


def test_stopping_passes_every_handler():
    net = Net()

    def step():
        try:
            net(X, T)
        except Exception:
            pytest.fail("was caught")

    with Doors(net, stop=lambda call: call.network is net) as doors, pytest.raises(Passed):
        step()
    assert torch.equal(doors.calls[0].shown, X)
    assert doors.calls[0].answer is None


def test_names_of_arguments():
    net = Net()
    with Doors(net) as doors:
        net(X, T, y=T)
    assert list(doors.calls[0].named) == ["x", "t", "y"]
    assert doors.calls[0].name(1) == "t"


def test_what_is_compiled_runs_compiled_again_once_the_doors_are_closed():
    runs = []

    def backend(graph, inputs):
        runs.append("compiled")
        return graph.forward

    torch._dynamo.reset()
    function = torch.compile(lambda x: x + 1, backend=backend)
    with Doors(nn.Linear(1, 1)):
        function(torch.ones(2))
        with pytest.raises(ZeroDivisionError), Doors(nn.Linear(1, 1)):
            raise ZeroDivisionError
        function(torch.ones(2))
    assert runs == []
    function(torch.ones(2))
    assert runs == ["compiled"]
