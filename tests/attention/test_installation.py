import copy
import sys

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from hopfield_replay.attention import HopfieldAttnProcessor, install_hopfield_attention
from tests.attention.models import MODELS, call, make


def processors(model):
    return {name: part.processor for name, part in model.named_modules() if isinstance(part, Attention)}


@pytest.mark.parametrize("kind", MODELS)
def test_removal_gives_the_same_objects_back(kind):
    model = make(kind)
    before, weights = processors(model), {name: value.clone() for name, value in model.state_dict().items()}
    hooks = (len(model._forward_pre_hooks), len(model._forward_hooks))
    expected = call(model, kind).detach()
    hopfield = install_hopfield_attention(model, 0.5)
    assert list(model.state_dict()) == list(weights)
    assert not torch.allclose(call(model, kind).detach(), expected)
    hopfield.remove()
    assert (len(model._forward_pre_hooks), len(model._forward_hooks)) == hooks
    after = processors(model)
    assert all(after[name] is processor for name, processor in before.items())
    assert torch.equal(call(model, kind).detach(), expected)
    hopfield.remove()  # does nothing
    with pytest.raises(KeyError), install_hopfield_attention(model, 0.5):
        raise KeyError
    assert all(processors(model)[name] is processor for name, processor in before.items())


def test_cross_attention_is_left_alone():
    model = make("text_unet")
    before = processors(model)
    hopfield = install_hopfield_attention(model, 0.5)
    after = processors(model)
    assert set(hopfield.layers) == {name for name in before if name.endswith("attn1")}
    assert len(hopfield.layers) == 4
    for name, processor in before.items():
        assert isinstance(after[name], HopfieldAttnProcessor) == (name in hopfield.layers)
        assert name in hopfield.layers or after[name] is processor


def test_a_processor_that_was_set_since_stays():
    model = make("dit")
    hopfield = install_hopfield_attention(model, 0.5)
    mine = AttnProcessor()
    model.transformer_blocks[1].attn1.set_processor(mine)
    hopfield.remove()
    assert model.transformer_blocks[1].attn1.processor is mine
    assert type(model.transformer_blocks[0].attn1.processor) is AttnProcessor2_0


@pytest.mark.parametrize("part", ["whole", "inside", "around"])
def test_installed_twice(part):
    model = make("dit")
    install_hopfield_attention(model.transformer_blocks[0] if part == "inside" else model, 0.5)
    with pytest.raises(ValueError, match=r"installed already \(in .*attn1\); call .remove\(\) of the first one"):
        install_hopfield_attention(torch.nn.Sequential(model) if part == "around" else model, 0.2)


def test_copies_carry_their_own_scores():
    model = make("dit")
    hopfield = install_hopfield_attention(model, 0.5)
    expected = call(model, "dit").detach()
    twin = copy.deepcopy(model)  # as an average of the weights does
    hopfield.remove()
    assert torch.equal(call(twin, "dit").detach(), expected)
    assert not torch.allclose(call(model, "dit").detach(), expected)


@pytest.mark.parametrize("a", [-0.1, 1.0, float("nan")])
def test_a_outside(a):
    model = make("dit")
    before = processors(model)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got"):
        install_hopfield_attention(model, a)
    assert processors(model) == before


def test_bad_input():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got str; of a pipeline pass its unet"):
        install_hopfield_attention("unet", 0.5)
    with pytest.raises(TypeError, match=r"must be a number, got str"):
        install_hopfield_attention(make("dit"), "0.5")
    with pytest.raises(ValueError, match="start must be one of"):
        install_hopfield_attention(make("dit"), 0.5, start="one")


def test_models_without_self_attention():
    others = [torch.nn.TransformerEncoderLayer(4, 2), torch.nn.Linear(2, 2)]
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    for model in (*others, make("unet", **plain, add_attention=False)):
        with pytest.raises(ValueError, match=r"has no self-attention .* no attention module of diffusers"):
            install_hopfield_attention(model, 0.5)
    cross = torch.nn.Sequential(Attention(4, cross_attention_dim=6, heads=2, dim_head=2))
    with pytest.raises(ValueError, match=r"Sequential has no self-attention .* 1 cross-attention modules only"):
        install_hopfield_attention(cross, 0.5)


def test_processors_that_do_more_are_not_replaced():
    from diffusers.models.attention_processor import SlicedAttnProcessor

    model = make("dit")
    model.transformer_blocks[2].attn1.set_processor(SlicedAttnProcessor(1))
    with pytest.raises(ValueError, match=r"transformer_blocks.2.attn1 has a SlicedAttnProcessor, whose work"):
        install_hopfield_attention(model, 0.5)
    assert type(model.transformer_blocks[0].attn1.processor) is AttnProcessor2_0


def test_without_diffusers(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers.models.attention_processor", None)
    with pytest.raises(ImportError, match=r'pip install "hopfield-replay\[diffusion\]"'):
        install_hopfield_attention(torch.nn.Linear(2, 2), 0.5)
