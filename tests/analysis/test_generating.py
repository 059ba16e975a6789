"""Images out of a pipeline, to choose from."""

import pytest
import torch

from hopfield_replay.analysis.generating import generate_images, read_prompts


class Pipeline:
    """Draws noise around a grey that the prompt names."""

    def __init__(self, bad=False):
        self.bad, self.asked = bad, []

    def __call__(self, prompt, output_type, **settings):
        self.asked.append((len(prompt), settings))
        grey = torch.tensor([float(text.split()[-1]) for text in prompt])
        images = (grey[:, None, None, None] + 0.02 * torch.rand(len(prompt), 3, 4, 4)).clamp(0, 1)
        return type("Output", (), {"images": images * (torch.nan if self.bad else 1.0)})


def test_prompts_are_used_in_turns_and_become_captions(tmp_path):
    pipeline = Pipeline()
    torch.manual_seed(5)
    found = generate_images(pipeline, ["grey 0.2", "grey 0.8"], 11, tmp_path, seed=1, guidance_scale=2.0)
    assert torch.equal(torch.rand(2), torch.manual_seed(5) and torch.rand(2))
    assert pipeline.asked == [(8, {"guidance_scale": 2.0}), (3, {"guidance_scale": 2.0})]
    assert [item.caption for item in found] == (["grey 0.2", "grey 0.8"] * 6)[:11]
    means = [float(torch.tensor(list(item.open().tobytes())).float().mean()) / 255 for item in found]
    assert means == pytest.approx([0.21, 0.81] * 5 + [0.21], abs=0.02)
    (tmp_path / "again").mkdir()
    again = generate_images(Pipeline(), ["grey 0.2", "grey 0.8"], 11, tmp_path / "again", seed=1)
    assert [a.open().tobytes() for a in again] == [b.open().tobytes() for b in found]


def test_what_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinite"):
        generate_images(Pipeline(bad=True), ["grey 0.2"], 2, tmp_path)
    with pytest.raises(ValueError, match="list of prompts"):
        generate_images(Pipeline(), [], 2, tmp_path)
    (tmp_path / "prompts.txt").write_text("\ufeffa cat\n\n  a dog \n", encoding="utf-8")
    assert read_prompts(tmp_path / "prompts.txt") == ["a cat", "a dog"]
    for content, message in ((b"\n \n", "holds no prompt"), (b"\xff", "cannot be read")):
        (tmp_path / "bad.txt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_prompts(tmp_path / "bad.txt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompts(tmp_path / "missing.txt")
