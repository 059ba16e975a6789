"""The scores live as long as a forward, and a recomputation sees those of its own forward."""

import warnings

import pytest
import torch

pytest.importorskip("diffusers")

from torch.utils.checkpoint import checkpoint

from hopfield_replay.attention import install_hopfield_attention
from tests.attention.models import assert_same_gradients, call, gradients, make


def training(kind, **settings):
    """The same model in training mode, which draws nothing at random: labels are not dropped."""
    model = make(kind, **settings).train()
    for part in model.modules():
        if type(part).__name__ == "LabelEmbedding":
            part.dropout_prob = 0.0
    return model


def two_losses(model, kind, order):
    """Gradients after two forwards; in which order they go backward matters to a recomputation."""
    losses = [call(model, kind, seed=0).square().sum(), call(model, kind, n=2, seed=1).sin().sum()]
    for index in order:
        losses[index].backward()
    return gradients(model)


def reentrant(module, *args):
    return checkpoint(module, *args, use_reentrant=True)


def whole(module, *args):
    with torch.utils.checkpoint.set_checkpoint_early_stop(False):
        return checkpoint(module, *args, use_reentrant=False)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["dit", "text_unet", "unet"])
@pytest.mark.parametrize("function", [None, reentrant, whole])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_gradients_under_checkpointing(kind, function, order):
    plain, model = training(kind), training(kind)
    install_hopfield_attention(plain, 0.5)
    model.enable_gradient_checkpointing(function)
    hopfield = install_hopfield_attention(model, 0.5)
    assert_same_gradients(two_losses(model, kind, order), two_losses(plain, kind, order), 1e-12)
    assert hopfield._carried.scores is None  # a recomputation, cut short by torch, leaves nothing


def test_the_functions_of_checkpointing_come_back():
    model = training("dit")
    model.enable_gradient_checkpointing(whole)
    with install_hopfield_attention(model, 0.5):
        call(model, "dit")
        assert model._gradient_checkpointing_func is not whole
    assert model._gradient_checkpointing_func is whole
    before = two_losses(training("dit"), "dit", (0, 1))
    assert_same_gradients(two_losses(model, "dit", (0, 1)), before, 1e-12)


def test_checkpointing_that_we_do_not_see_is_refused():
    model = training("dit")
    install_hopfield_attention(model, 0.5)
    inner = model.transformer_blocks[1].forward
    model.transformer_blocks[1].forward = lambda *args, **named: checkpoint(inner, *args, use_reentrant=False, **named)
    loss = call(model, "dit").sum()
    with pytest.raises(RuntimeError, match=r"outside a forward of the DiTTransformer2DModel .* enable_gradient_checkp"):
        loss.backward()


def test_a_checkpoint_around_the_whole_model_is_fine():
    plain, model = training("dit"), training("dit")
    for one in (plain, model):
        install_hopfield_attention(one, 0.5)
    call(plain, "dit").sum().backward()
    checkpoint(call, model, "dit", use_reentrant=False).sum().backward()
    assert_same_gradients(gradients(model), gradients(plain), 1e-12)


def test_a_part_of_the_model_has_no_scores():
    model = make("dit")
    install_hopfield_attention(model, 0.5)
    with pytest.raises(RuntimeError, match=r"Call that model itself: not its .forward, nor a part of it"):
        model.transformer_blocks[0].attn1(torch.zeros(1, 4, 8, dtype=torch.float64))


class Failure(Exception):
    pass


def test_an_exception_leaves_nothing_behind():
    model = make("dit")
    hopfield = install_hopfield_attention(model, 0.5)
    expected = call(model, "dit").detach()

    def fail(module, args):
        raise Failure

    with model.transformer_blocks[2].register_forward_pre_hook(fail), pytest.raises(Failure):
        call(model, "dit")
    assert hopfield._carried.scores is None
    assert torch.equal(call(model, "dit").detach(), expected)


def test_an_interruption_that_skips_the_hooks_does_not_reach_the_next_forward():
    model = make("dit")
    install_hopfield_attention(model, 0.5)
    expected = call(model, "dit").detach()

    def interrupt(module, args):
        raise KeyboardInterrupt

    with model.transformer_blocks[2].register_forward_pre_hook(interrupt), pytest.raises(KeyboardInterrupt):
        call(model, "dit")
    assert torch.equal(call(model, "dit").detach(), expected)


def test_data_parallel_is_refused():
    model = make("dit")
    install_hopfield_attention(model, 0.5)
    model._is_replica = True  # as torch.nn.parallel.replicate marks its copies
    with pytest.raises(RuntimeError, match="use DistributedDataParallel"):
        call(model, "dit")


@pytest.mark.heavy
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled(checkpointing):
    plain, model = (training("dit", num_layers=2) for _ in range(2))
    for one in (plain, model):
        install_hopfield_attention(one, 0.5)
    if checkpointing:
        model.enable_gradient_checkpointing()
    torch._dynamo.reset()
    with warnings.catch_warnings():  # dynamo's own, about code of diffusers and of torch's checkpointing
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        compiled = torch.compile(model, backend="eager", fullgraph=not checkpointing)
        call(compiled, "dit").sum().backward()
    call(plain, "dit").sum().backward()
    assert_same_gradients(gradients(model), gradients(plain), 1e-12)
