"""The witness alone, without Lightning: n of 1, precision, places in a batch, and that it leaves no trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hopfield_replay.denoisers import Witness, watch_step
from hopfield_replay.denoisers.unseen_noise import infer_noise
from hopfield_replay.denoisers.witness import Refusal, Statement


class Net(nn.Module):
    def __init__(self, d=64, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(d, d).to(dtype)

    def forward(self, x, t, y=None):
        return self.layer(x.flatten(1)).view_as(x) * (1 + t.view(-1, *[1] * (x.ndim - 1)).to(x.dtype) / 1000)


def holder(**modules):
    module = nn.Module()
    module.net = Net(**modules)
    module.register_buffer("bars", (1 - torch.linspace(1e-4, 0.05, 100)).cumprod(0))
    return module


def step(module, x, *, noise=None, times=None, target="epsilon"):
    t = torch.randint(100, (len(x),)) if times is None else times
    noise = torch.randn_like(x) if noise is None else noise
    bar = module.bars[t].view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    noisy = bar.sqrt() * x + (1 - bar).sqrt() * noise
    wanted = {"epsilon": noise, "x0": x}[target]
    return F.mse_loss(module.net(noisy, t).float(), wanted.float())


def images(n=8, shape=(1, 8, 8), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 64, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_batches_of_every_size_and_precision(n, dtype):
    torch.manual_seed(3)
    module, x = holder(dtype=dtype), images(n).to(dtype)
    with Witness(module, x) as witness:
        step(module, x).backward()
    told = witness.testimony()
    assert isinstance(told, Statement)
    assert told.target.name == "epsilon"
    if dtype != torch.bfloat16 or n > 8:  # a few samples in half precision do not tell neighbouring timesteps apart
        assert told.reading.timetable.clock.words == "t"


def test_gradients_results_and_random_numbers_are_those_without_it():
    module, x = holder(), images()

    def run(watch):
        torch.manual_seed(5)
        module.zero_grad()
        if watch:
            with Witness(module, x):
                loss = step(module, x)
                loss.backward()
        else:
            loss = step(module, x)
            loss.backward()
        return loss.detach(), module.net.layer.weight.grad.clone(), torch.rand(2)

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True), strict=True))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_the_samples_are_found_wherever_they_are():
    module, x = holder(), images()
    batch = {
        "text": ["a"] * 8,
        "pair": (torch.randn(8, 1, 8, 8), {"image": x.movedim(1, -1), "other": torch.ones(8, 3)}),
    }
    with Witness(module, batch) as witness:
        step(module, x).backward()
        batch["pair"][1]["image"].mul_(0)  # a step may change its batch
    told = witness.testimony()
    assert str(told.place) == "batch['pair'][1]['image']"
    assert told.place.channels_last
    torch.testing.assert_close(told.clean, images().double())


def test_noise_that_lies_in_the_batch():
    module, x, noise = holder(), images(), torch.randn(8, 1, 8, 8)
    batch = {"x": x, "noise": noise, "t": torch.randint(100, (8,))}
    with Witness(module, batch) as witness:
        step(module, x, noise=noise, times=batch["t"]).backward()
    assert witness.testimony().target.name == "epsilon"


@pytest.mark.parametrize(("target", "found"), [("epsilon", True), ("x0", False)])
def test_noise_that_nobody_saw(target, found):
    module, x = holder(), images()
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(8, 1, 8, 8, generator=generator)
    with Witness(module, x) as witness:
        step(module, x, noise=hidden, target=target).backward()
    told = witness.testimony()
    assert isinstance(told, Statement) == found
    if found:
        torch.testing.assert_close(told.noise, hidden.double(), rtol=1e-3, atol=1e-3)


def test_unseen_noise_of_a_schedule_that_is_wrong_by_a_few_per_cent_is_refused():
    """The statistics alone would let it pass: their standard error is 6 %."""
    module, x = holder(), images()
    hidden = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    with Witness(module, x) as witness:
        step(module, x, noise=1.01 * hidden).backward()
    (call,) = witness._doors.calls
    assert infer_noise(module, call, x) is not None  # noise of a variance of 1.02 is taught as such
    call.gradient = call.answer - hidden
    assert infer_noise(module, call, x) is None


def test_a_module_that_draws_something_else_is_refused():
    module, x = holder(), images()
    with Witness(module, x) as witness:
        step(module, images(seed=9)).backward()  # not this batch's samples
    told = witness.testimony()
    assert isinstance(told, Refusal)
    assert not told.blind
    assert "no network was shown a mixture of this batch's samples" in told.reason
    with Witness(module, x) as witness:
        module.net.layer(x.flatten(1)).sum().backward()
    assert witness.testimony().blind


def test_recomputing_in_the_backward_pass_is_no_second_call():
    module, x = holder(), images()
    with Witness(module, x) as witness:
        t, noise = torch.randint(100, (8,)), torch.randn_like(x)
        bar = module.bars[t].view(-1, 1, 1, 1)
        noisy = bar.sqrt() * x + (1 - bar).sqrt() * noise
        guess = torch.utils.checkpoint.checkpoint(module.net, noisy, t, use_reentrant=False)
        loss = F.mse_loss(guess, noise)
        witness.close()
        loss.backward()
    assert witness.testimony().target.name == "epsilon"


def test_a_loop_of_ones_own():
    module, x = holder(), images()
    state, weight = torch.get_rng_state(), module.net.layer.weight.clone()
    trust = watch_step(lambda batch: step(module, batch), module, x)
    assert trust.level == "inferred"
    assert module.net.layer.weight.grad is None
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(weight, module.net.layer.weight)
    samples, condition = trust.read(x)
    noise = torch.randn_like(x)
    bar = module.bars[40]
    noisy = bar.sqrt() * x + (1 - bar).sqrt() * noise
    expected = (noisy - (1 - bar).sqrt() * module.net(noisy, torch.full((8,), 40))) / bar.sqrt()
    with torch.no_grad():
        guess = trust.denoiser.predict_clean(trust.denoiser.noise(samples, 40, noise), 40, condition)
    torch.testing.assert_close(guess, expected.detach())
    assert trust.denoiser.snr(40) == pytest.approx(float(bar / (1 - bar)), rel=1e-5)
    assert trust.denoiser.num_timesteps == 100


def test_a_loop_whose_step_is_no_diffusion():
    net, x = nn.Linear(64, 64), images().flatten(1)
    trust = watch_step(lambda batch: (net(batch + torch.randn_like(batch)) - batch).square().mean(), net, x, draws=3)
    assert trust.level == "paired loss"
    assert trust.loss(x).shape == (8,)
    assert watch_step(lambda batch: None, net, x).level == "energies only"


def test_a_compiled_network_is_compiled_once_as_without_the_witness():
    torch._dynamo.reset()
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    module = holder()
    module.net = torch.compile(module.net, backend=backend)
    x = images()
    with Witness(module, x) as witness:
        step(module, x).backward()
    step(module, x).backward()
    assert len(compiled) == 1
    testimony = witness.testimony()
    assert isinstance(testimony, Statement), testimony.reason
    assert testimony.target.name == "epsilon"
    assert not module.net._forward_hooks
    assert not module.net._forward_pre_hooks


def test_whatever_a_module_is_called_with_the_step_goes_on():
    """Tensors of somebody's own kind, calls without samples, and batches in containers that cannot be copied."""

    class Rare(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            raise NotImplementedError(func)

    class Closed(dict):
        def update(self, *_):
            raise TypeError("closed")

    class Gate(nn.Module):
        def forward(self, x, t=None):
            return x

    module, x = holder(), images()
    module.gate = Gate()
    batch = Closed(image=x)
    with Witness(module, batch) as witness:
        assert witness.batch is batch
        module.gate(x.as_subclass(Rare), 3)
        module.gate(x[:0], 3)
        module.gate(x[:0], torch.zeros(0))
        module.gate(torch.tensor(3.0), 3)
        step(module, x).backward()
    assert isinstance(witness.testimony(), Statement)
    assert witness.taught
