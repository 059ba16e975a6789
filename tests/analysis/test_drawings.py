import json

import pytest
import torch

from hopfield_replay.analysis import compare_drawings


class Painter:
    """Draws grey noise of a level that a prompt may have of its own."""

    def __init__(self, levels):
        self.levels = levels

    def __call__(self, prompt, generator, output_type, num_inference_steps=50):
        assert output_type == "pt"
        (text,) = prompt
        images = self.levels.get(text, 0.3) + 0.2 * torch.rand(1, 3, 4, 4, generator=generator)
        return type("Output", (), {"images": images})


PROMPTS = ["a cat", "a dog", "a <bird>"]


def test_the_prompt_that_changed_comes_first():
    report = compare_drawings(Painter({}), Painter({"a dog": 0.6}), PROMPTS, seeds=3, num_inference_steps=2)
    rows = report.rows()
    assert rows[0]["prompt"] == "a dog"
    assert [row["distance"] for row in rows[1:]] == [0.0, 0.0]
    wanted = 4 * 0.3**2  # 0.3 in [0, 1] is 0.6 in [-1, 1]
    assert rows[0]["distance"] == pytest.approx(wanted, rel=1e-4)
    drawn = [Painter({})(["a dog"], torch.Generator().manual_seed(seed), "pt").images * 2 - 1 for seed in range(3)]
    pairs = [(drawn[i] - drawn[j]).square().mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert rows[0]["spread"] == pytest.approx(float(sum(pairs) / 3), rel=1e-5)
    gate = report.gate(0.5)
    assert gate.failing == ("prompt a dog",)
    assert {prompt for prompt, _ in report.shown[:3]} == {1}
    assert json.loads(json.dumps(report.to_dict()))["prompts"] == PROMPTS
    assert report.table().splitlines()[3].startswith("a dog")


def test_the_page_shows_both_versions_and_no_markup_of_prompts():
    pytest.importorskip("matplotlib")
    page = compare_drawings(Painter({}), Painter({"a dog": 0.6}), PROMPTS, seeds=2).html({"before": "a <b>"})
    assert "a &lt;bird&gt;" in page
    assert "<bird>" not in page
    assert page.count("data:image/png") == 1


def test_an_encoder_of_ones_own_compares():
    seen = []

    def encode(images):
        seen.append(tuple(images.shape))
        return images.mean((2, 3))

    report = compare_drawings(Painter({}), Painter({}), ["x"], seeds=2, encoder=encode, size=6)
    assert report.distances.abs().max() == 0
    assert set(seen) == {(2, 3, 6, 6)}
    assert report.gate(0.0).passed


def test_bad_input():
    for prompts, seeds, message in (
        ([], 2, "at least one"),
        ("a cat", 2, "a list of prompts"),
        (["a", "a"], 2, "one prompt is there twice"),
        (["a"], 1, "seeds must be"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_drawings(Painter({}), Painter({}), prompts, seeds=seeds)
    with pytest.raises(ValueError, match="the second version drew NaN or infinite values of 'a'"):
        compare_drawings(Painter({}), Painter({"a": float("nan")}), ["a"], seeds=2)
