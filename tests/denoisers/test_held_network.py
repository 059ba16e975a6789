"""Gradients that hold a network's answers, against those of a loss that has the penalty written out."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hopfield_replay.denoisers import HeldNetwork


class Network(nn.Module):
    """Samples, times, and a condition; dropout and running statistics, so that modes matter."""

    form = "tensor"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, t, *, scale=1.0):
        answer = self.last(self.drop(torch.tanh(self.norm(self.first(x))) + t[:, None])) * scale
        return {"tensor": answer, "tuple": (x, answer), "object": SimpleNamespace(aux=3, sample=answer)}[self.form]


def answer_of(output):
    return output if isinstance(output, torch.Tensor) else output[1] if isinstance(output, tuple) else output.sample


def moved():
    """A network that has learned on, and what it was."""
    network = Network()
    network(torch.randn(20, 5), torch.rand(20))  # statistics
    old = copy.deepcopy(network).eval()
    held = HeldNetwork(network, 0.7)
    held.remember()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn_like(weight)
    network(torch.randn(20, 5), torch.rand(20))
    return network, old, held


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 5, generator=generator), torch.rand(6, generator=generator)


def gradients(network):
    found = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    network.zero_grad()
    return found


@pytest.mark.parametrize("form", ["tensor", "tuple", "object"])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_gradient_is_that_of_the_penalty_written_out(form, scale):
    network, old, held = moved()
    network.form = old.form = form
    x, t = batch()
    torch.manual_seed(5)
    with held.holding(batch=6, replayed=2, scale=scale):
        loss = answer_of(network(x, t, scale=2.0)).square().mean()
    (scale * loss).backward()
    found = gradients(network)
    torch.manual_seed(5)
    answers = answer_of(network(x, t, scale=2.0))
    with torch.no_grad():
        wanted = answer_of(old(x, t, scale=2.0))
    penalty = 0.7 * (answers[4:] - wanted[4:]).square().mean()
    (scale * (answers.square().mean() + penalty)).backward()
    for name, expected in gradients(network).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5 * scale)


def test_nothing_changes_but_the_gradient():
    network, _, held = moved()
    plain = copy.deepcopy(network)
    x, t = batch()
    torch.manual_seed(5)
    expected = plain(x, t)
    after = torch.rand(())
    torch.manual_seed(5)
    with held.holding(batch=6, replayed=2):
        answers = network(x, t)
    assert torch.equal(answers, expected)
    assert torch.equal(torch.rand(()), after)  # the random numbers go on as without
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    assert network.training
    assert network.drop.training
    assert not network._forward_hooks


@pytest.mark.parametrize(("replayed", "strength"), [(0, 1.0), (2, 0.0)])
def test_gradients_stay_to_the_bit_where_there_is_nothing_to_hold(replayed, strength):
    network, _, held = moved()
    held.strength = strength
    x, t = batch()
    torch.manual_seed(5)
    network(x, t).square().mean().backward()
    expected = gradients(network)
    torch.manual_seed(5)
    with held.holding(batch=6, replayed=replayed):
        network(x, t).square().mean().backward()
    found = gradients(network)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert held.calls == 1


def test_who_looks_at_the_answers_gradient_sees_that_of_the_loss_alone():
    network, _, held = moved()
    x, t = batch()
    seen = []
    torch.manual_seed(5)
    with held.holding(batch=6, replayed=2):
        answers = network(x, t)
        answers.register_hook(lambda gradient: seen.append(gradient.clone()))
        answers.sum().backward()
    assert torch.equal(seen[0], torch.ones(6, 5))


def test_calls_without_gradients_are_let_pass():
    network, _, held = moved()
    x, t = batch()
    with held.holding(batch=6, replayed=2), torch.no_grad():
        network(x[:3], t[:3])
    assert held.calls == 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_network_is_held_once(reentrant):
    network, old, held = moved()
    network.drop.p = old.drop.p = 0.0
    network.norm.eval()
    old.norm.eval()
    x, t = batch()
    x.requires_grad_(reentrant)
    with held.holding(batch=6, replayed=2):
        checkpoint(network, x, t, use_reentrant=reentrant).square().mean().backward()
    found = gradients(network)
    answers = network(x, t)
    (answers.square().mean() + 0.7 * (answers[4:] - old(x, t)[4:].detach()).square().mean()).backward()
    for name, expected in gradients(network).items():
        torch.testing.assert_close(found[name], expected)


def test_an_answer_that_the_loss_leaves_aside_pulls_at_nothing():
    network, _, held = moved()
    x, t = batch()
    with held.holding(batch=6, replayed=2):
        network(x, t)
        nn.Parameter(torch.ones(())).square().backward()
    assert all(weight.grad is None for weight in network.parameters())


class Table(nn.Module):
    """Answers with a weight as it is."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.ones(3, 2))

    def forward(self, x):
        return self.rows


def test_an_answer_that_is_a_weight_is_held():
    table = Table()
    held = HeldNetwork(table, 0.5)
    held.remember()
    with torch.no_grad():
        table.rows += 2
    with held.holding(batch=3, replayed=1):
        (0.0 * table(torch.ones(3, 1))).sum().backward()
    assert table.rows.grad.tolist() == [[0, 0], [0, 0], [1, 1]]  # 0.5 * 2 * 2 / 2 numbers


def test_frozen_weights_are_not_copied():
    network = Network()
    network.first.requires_grad_(False)
    held = HeldNetwork(network, 1.0)
    held.remember()
    learning = sum(w.nbytes for w in network.parameters() if w.requires_grad)
    assert held.nbytes == learning + sum(b.nbytes for b in network.buffers())
    network.first.requires_grad_(True)
    x, t = batch()
    with held.holding(batch=6, replayed=2), pytest.raises(ValueError, match=r"learns first\.weight, which it did not"):
        network(x, t)


def test_an_old_network_outlives_its_state():
    network, _, held = moved()
    state = {name: tensor.clone() for name, tensor in held.state_dict().items()}
    again = HeldNetwork(network, 0.7)
    again.load_state_dict(state)
    x, t = batch()
    torch.manual_seed(5)
    with held.holding(batch=6, replayed=2):
        network(x, t).sum().backward()
    expected = gradients(network)
    torch.manual_seed(5)
    with again.holding(batch=6, replayed=2):
        network(x, t).sum().backward()
    assert all(torch.equal(value, expected[name]) for name, value in gradients(network).items())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda s: s.pop("last.bias"), "last.bias"),
        (lambda s: s.update(other=torch.ones(1)), "other"),
        (lambda s: s.update({"last.bias": torch.ones(3)}), "last.bias has shape"),
        (lambda s: s.update({"last.bias": "no tensor"}), "not those of Network"),
    ],
)
def test_other_weights_are_refused_and_nothing_is_lost(damage, said):
    _, _, held = moved()
    before = held.state_dict()
    state = held.state_dict()
    damage(state)
    with pytest.raises(ValueError, match=said):
        held.load_state_dict(state)
    assert held.state_dict() == before


def test_wrong_use_is_said():
    with pytest.raises(TypeError, match="must be a torch module, got function"):
        HeldNetwork(lambda x: x, 1.0)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="at least 0"):
            HeldNetwork(Network(), wrong)
    for wrong in ("1", None, True):
        with pytest.raises(TypeError, match="must be a number"):
            HeldNetwork(Network(), wrong)
    network = Network()
    held = HeldNetwork(network, 1.0)
    with pytest.raises(RuntimeError, match="call remember"):
        held.holding(batch=6, replayed=2)
    held.remember()
    x, t = batch()
    with held.holding(batch=3, replayed=1), pytest.raises(ValueError, match=r"shape \(6, 5\) in a batch of 3 samples"):
        network(x, t)
