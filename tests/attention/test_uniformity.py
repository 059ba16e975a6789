import pytest
import torch

pytest.importorskip("diffusers")

from hopfield_replay.attention import TokenUniformityRecorder
from hopfield_replay.functional.token_uniformity import token_cosine, token_residual
from tests.attention.models import call, make


def test_rows_are_of_the_blocks_outputs():
    model, outputs = make("dit"), []
    with model.transformer_blocks[1].register_forward_hook(lambda *seen: outputs.append(seen[2])), torch.no_grad():
        with TokenUniformityRecorder(model) as recorder:
            call(model, "dit", n=3)
            call(model, "dit", n=2, seed=1)
        call(model, "dit", n=4)  # not recorded
    rows = recorder.table()
    assert [row.layer for row in rows] == [f"transformer_blocks.{i}" for i in range(3)]
    assert {row.samples for row in rows} == {5}
    tokens = torch.cat(outputs[:2])
    assert rows[1].cosine == pytest.approx(float(token_cosine(tokens).mean()))
    assert rows[1].residual == pytest.approx(float(token_residual(tokens).mean()))


def test_layers_of_unets():
    unet, text = make("unet"), make("text_unet")
    with TokenUniformityRecorder(unet) as recorder, torch.no_grad():
        call(unet, "unet")
    rows = recorder.table()
    assert len(rows) == 7  # attention modules, each with its own residual connection
    assert all(0.0 <= row.residual <= 1.0 and -1.0 <= row.cosine <= 1.0 for row in rows)
    with TokenUniformityRecorder(text) as recorder, torch.no_grad():
        call(text, "text_unet")
    assert [row.layer.rpartition(".")[0].endswith("transformer_blocks") for row in recorder.table()] == [True] * 4


def test_bad_input():
    with pytest.raises(ValueError, match="has no self-attention"):
        TokenUniformityRecorder(torch.nn.Linear(2, 2))
