import pytest
import torch
from torch import nn

from hopfield_replay.denoisers.draws import Draws


def middle(draw):
    return draw.median


@pytest.mark.parametrize(
    ("make", "law", "expected"),
    [
        (lambda: torch.randn(2, 3), "normal", torch.zeros(2, 3)),
        (lambda: torch.randn_like(torch.ones(3)), "normal", torch.zeros(3)),
        (lambda: torch.normal(2.0, 5.0, (3,)), "normal", torch.full((3,), 2.0)),
        (lambda: torch.normal(mean=torch.arange(3.0), std=torch.ones(3)), "normal", torch.arange(3.0)),
        (lambda: torch.empty(4).normal_(1.5, 2), "normal", torch.full((4,), 1.5)),
        (lambda: torch.empty(4).normal_(mean=1.5), "normal", torch.full((4,), 1.5)),
        (lambda: torch.distributions.Normal(torch.ones(2), 3.0).sample(), "normal", torch.ones(2)),
        (lambda: torch.rand(2, 2), "uniform", torch.full((2, 2), 0.5)),
        (lambda: torch.rand_like(torch.ones(2)), "uniform", torch.full((2,), 0.5)),
        (lambda: torch.empty(2).uniform_(1, 4), "uniform", torch.full((2,), 2.5)),
        (lambda: torch.empty(2).uniform_(), "uniform", torch.full((2,), 0.5)),
        (lambda: torch.randint(11, (2,)), "integers", torch.tensor([5, 5])),
        (lambda: torch.randint(2, (2,)), "integers", torch.tensor([0, 0])),
        (lambda: torch.randint(4, 11, (2,)), "integers", torch.tensor([7, 7])),
        (lambda: torch.randint(low=4, high=11, size=(2,)), "integers", torch.tensor([7, 7])),
        (lambda: torch.randint_like(torch.zeros(2), 9), "integers", torch.full((2,), 4.0)),
        (lambda: torch.empty(2, dtype=torch.int64).random_(3, 8), "integers", torch.tensor([5, 5])),
        (lambda: torch.randperm(4), "other", torch.arange(4)),
        (lambda: torch.bernoulli(torch.tensor([0.1, 0.9])), "other", torch.tensor([0.0, 1.0])),
        (lambda: torch.empty(2).bernoulli_(0.2), "other", torch.zeros(2)),
    ],
)
def test_every_draw_is_seen_and_can_be_its_middle(make, law, expected):
    with Draws(middle) as draws:
        found = make()
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype
    assert [draw.law for draw in draws.made] == [law]


def test_watching_changes_nothing():
    def draw():
        torch.manual_seed(3)
        values = [torch.randn(3), torch.rand(2), torch.randint(9, (2,)), torch.randperm(5), torch.empty(2).normal_()]
        return [*values, nn.functional.dropout(torch.ones(9)), torch.get_rng_state()]

    alone = draw()
    with Draws() as draws:
        watched = draw()
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))
    assert all(torch.equal(a, b.values) for a, b in zip(alone[:5], draws.made, strict=True))


def test_values_are_copies_and_gradients_flow():
    weight = torch.ones(2, requires_grad=True)
    with Draws() as draws:
        noise = torch.randn(2)
        kept = noise.clone()
        noise.mul_(0)
        (weight * torch.rand(2)).sum().backward()
    assert torch.equal(draws.made[0].values, kept)
    assert weight.grad is not None


def test_a_generator_of_ones_own_is_seen_too():
    generator = torch.Generator().manual_seed(0)
    with Draws() as draws:
        noise = torch.randn(2, generator=generator)
    assert torch.equal(draws.made[0].values, noise)


def test_stopped():
    with Draws(middle) as draws:
        draws.stopped = True
        assert bool((torch.randn(20) != 0).any())
    assert draws.made == []


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("weights", [[1.0, 2.0, 5.0, 0.1, 3.0], [0.0, 0.0, 4.0, 1.0, 2.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
def test_indices_that_can_be_drawn_stand_for_multinomial_draws(weights, again):
    given = torch.tensor(weights)
    possible = [index for index, weight in enumerate(weights) if weight]
    count = 3 if again else 1
    with Draws(lambda draw: draw.median):
        one = torch.multinomial(given, count, replacement=again)
        two = (7 * given).multinomial(count, again)  # the middle does not move with the weights
        rows = torch.multinomial(input=torch.stack([given, given.flip(0)]), num_samples=count, replacement=again)
    middle = possible[(len(possible) - 1) // 2]
    assert one.tolist() == two.tolist() == [middle] * count
    assert rows.tolist() == [[middle] * count, [4 - possible[::-1][(len(possible) - 1) // 2]] * count]


def test_several_indices_without_replacement_are_different_ones():
    with Draws(lambda draw: draw.median):
        assert torch.multinomial(torch.tensor([0.0, 1.0, 3.0, 0.0, 2.0]), 3).tolist() == [1, 2, 4]
