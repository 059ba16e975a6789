import random
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hopfield_replay.denoisers.inferred import Shared, others
from hopfield_replay.denoisers.own_step import at_the_door, copied, middle, traceless
from hopfield_replay.denoisers.paired_loss import PairedLoss, is_loss, loss_of

Pair = namedtuple("Pair", "x y")


class Busy(nn.Module):
    """Changes everything that it has whenever it is called."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(4))
        self.plain, self.total = torch.zeros(3), 0
        self.losses, self.seen, self.kinds = [], {"a": 1}, {1}
        self.generator = torch.Generator().manual_seed(0)
        self.meter = SimpleNamespace(count=0, values=[])
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def step(self, x):
        self.train()
        h = self.norm(self.layer(x))
        self.mean += 1
        self.plain += 1
        self.mean = self.mean * 2
        self.total += 1
        self.losses.append(float(h.detach().sum()))
        self.seen["b"] = 2
        self.kinds.add(2)
        self.meter.count += 1
        self.meter.values.append(3)
        self.new = "attribute"
        del self.seen["a"]
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        for weight in self.parameters():
            weight.grad = torch.ones_like(weight)
            weight.requires_grad_(True)
        return torch.randn(len(x), generator=self.generator).mean() + h.mean()


def everything(module):
    plain = {
        key: (value.clone() if isinstance(value, torch.Tensor) else value.copy() if hasattr(value, "copy") else value)
        for key, value in vars(module).items()
        if key in ("plain", "total", "losses", "seen", "kinds")
    }
    weights = [(p.grad, p.requires_grad) for p in module.parameters()]
    flags = [part.training for part in module.modules()]
    states = module.generator.get_state(), torch.get_rng_state(), random.getstate()
    return plain, {k: v.clone() for k, v in module.named_buffers()}, weights, flags, vars(module.meter).copy(), states


def test_whatever_a_step_does_comes_back():
    module = Busy()
    module.layer.weight.grad = torch.full((4, 4), 5.0)
    module.norm.eval()
    before, names, held = everything(module), set(vars(module)), module.mean
    for _ in range(2):
        with traceless(module):
            module.step(torch.randn(3, 4))
            assert not hasattr(module, "nothing")
    after = everything(module)
    assert set(vars(module)) == names
    assert module.mean is held
    for one, other in zip(before, after, strict=True):
        assert str(one) == str(other)
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    assert torch.equal(module.layer.weight.grad, torch.full((4, 4), 5.0))
    assert module.meter.values == []


def test_it_comes_back_when_the_step_fails():
    module = Busy()
    before = str(everything(module))

    def step():
        module.step(torch.randn(3, 4))
        raise KeyError("a")

    with pytest.raises(KeyError), traceless(module):
        step()
    assert str(everything(module)) == before


def test_a_frozen_mapping_is_no_obstacle():
    class Frozen(OrderedDict):
        def update(self, *args):
            raise RuntimeError("frozen")

        clear = update

    module = nn.Linear(1, 1)
    module.config = Frozen(a=1)
    with traceless(module):
        pass


@pytest.mark.parametrize("batch", [
    torch.ones(2), [torch.ones(2), "a"], (torch.ones(2),), {"x": torch.ones(2), "y": [torch.ones(1)]},
    Pair(torch.ones(2), ["a"]), OrderedDict(x=torch.ones(2)),
])  # fmt: skip
def test_copies_of_batches(batch):
    new = copied(batch)
    assert type(new) is type(batch)
    assert str(new) == str(batch)
    if isinstance(new, dict):
        new["z"] = 1
        assert "z" not in batch
    for value in new.values() if isinstance(new, dict) else new if isinstance(new, list | tuple) else [new]:
        if isinstance(value, torch.Tensor):
            value.mul_(0)
    assert "1." in str(batch)


class Net(nn.Module):
    def forward(self, x, t, context=None, *, words=None, scale=2.0):
        return x


def test_the_door_shows_the_samples_without_noise_and_the_most_likely_condition():
    module = nn.Module()
    module.net = Net()
    reached = []

    def step(x):
        kept = torch.rand(len(x)) < 0.9
        other = random.random() < 0.1 or np.random.rand() < 0.1  # noqa: NPY002
        noisy = 0.5 * x + torch.randn_like(x)
        module.net(noisy, torch.randint(0, 10, (len(x),)), kept & (not other))
        reached.append(1)

    x = torch.rand(3, 5)
    call, draws = at_the_door(step, module, x, module.net, middle)
    assert torch.equal(call.shown, 0.5 * x)
    assert call.args[2].all()
    assert [draw.law for draw in draws] == ["uniform", "normal", "integers"]
    assert reached == []
    assert at_the_door(lambda x: None, module, x, module.net, middle) is None


def test_conditions_can_be_cut_with_their_batch():
    module = nn.Module()
    module.net = Net()
    found = at_the_door(
        lambda x: module.net(x, torch.zeros(3), {"cross": [torch.arange(3), torch.ones(7)]}, words=("a", "b", "c")),
        module, torch.rand(3, 5), module.net, middle,
    )  # fmt: skip
    given = others(found[0], 1)
    assert set(given) == {2, "words"}
    assert torch.equal(given[2]["cross"][0], torch.arange(3))
    assert isinstance(given[2]["cross"][1], Shared)  # all samples share it
    assert list(given["words"]) == ["a", "b", "c"]


class TestPairedLoss:
    def test_it_is_the_mean_over_draws_of_one_seed(self):
        net = nn.Linear(5, 5)

        def step(x):
            t = torch.rand(len(x), 1)
            return (net(x + t * torch.randn_like(x)) - x).square().mean()

        x = torch.rand(4, 5)
        found = PairedLoss(step, net, draws=16, seed=3)(x)
        for row in range(4):
            torch.manual_seed(3)
            t, noise = torch.rand(16, 1), torch.randn(16, 5)
            by_hand = (net(x[row] + t * noise) - x[row]).square().mean()
            assert float(found[row]) == pytest.approx(by_hand.item())
        assert found.dtype == torch.float64

    def test_a_sample_has_one_loss_in_every_batch(self):
        net = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5))
        loss = PairedLoss(lambda b: (net(b["x"] + torch.randn_like(b["x"]))).square().mean(), net, draws=8)
        x = torch.rand(6, 5)
        whole = loss({"x": x, "words": list("abcdef")})
        assert torch.equal(loss({"x": x[[4, 1]], "words": ["e", "b"]}), whole[[4, 1]])

    @pytest.mark.parametrize("result", [torch.tensor(2.0), {"loss": torch.tensor(2.0)}, (torch.tensor(2.0), {}),
                                        [torch.tensor([2.0])]])  # fmt: skip
    def test_losses_of_every_kind(self, result):
        assert loss_of(result) == 2.0
        assert is_loss(result)

    @pytest.mark.parametrize("result", [None, {}, torch.ones(3), "loss", {"log": 1.0}, ()])
    def test_no_loss(self, result):
        assert not is_loss(result)
        with pytest.raises(ValueError, match="the training step returned no loss, but"):
            loss_of(result)
