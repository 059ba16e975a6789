"""Every family of text-to-image pipelines: loads, is measured as its own sampler steps, and takes LoRA weights."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from hopfield_replay.checkpoints import load_versions
from tests.pipelines import proofs, tiny

# diffusers 0.42 with numpy 2, when a scheduler of its own chooses its steps
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def base(family, tmp_path_factory):
    return proofs.saved(family, tmp_path_factory.mktemp(family) / "base")


@pytest.mark.heavy
@pytest.mark.parametrize("steps", [2, 4])
def test_the_denoiser_arrives_where_the_pipelines_own_step_does(family, steps):
    error, timestep = proofs.error_of_own_step(family, steps)
    assert timestep > 1
    assert error < 1e-5


@pytest.mark.heavy
def test_a_pipeline_has_lost_nothing_against_itself(family, base):
    report = proofs.audited(*proofs.versions(base, base), family, examples=1)
    assert report.rises.abs().max() == 0
    assert report.errors_old.min() > 0
    assert report.examples.clean.shape[1:] == (3, *proofs.size_of(family))


@pytest.mark.heavy
def test_the_concept_that_was_disturbed_comes_first(family, base, tmp_path):
    after = proofs.saved(family, tmp_path / "after", lambda pipeline: proofs.unlearn(pipeline, family))
    report = proofs.audited(*proofs.versions(base, after), family)
    assert report.mean > 0
    assert list(report.classes) == ["dog", "cat"]


@pytest.mark.heavy
def test_lora_weights_are_merged_as_they_are_defined(family, base, tmp_path):
    pytest.importorskip("peft")
    for kind in proofs.formats(family):
        path, wanted = proofs.lora(family, tmp_path / kind, kind)
        before, after = proofs.versions(base, path)
        found = dict(getattr(after.module, after.model.component).named_parameters())
        assert found.keys() == wanted.keys()
        for name, weight in wanted.items():
            torch.testing.assert_close(found[name], weight, rtol=0.0, atol=1e-6)
        assert proofs.audited(before, after, family).rises.abs().max() > 0


@pytest.mark.heavy
def test_latents_are_what_the_pipeline_decodes(family):
    pipeline = tiny.build(family)
    model = proofs.PipelineModel(pipeline)
    images = torch.rand(2, 3, *proofs.size_of(family)) * 2 - 1
    samples = model.encode(images)
    vae = pipeline.vae
    with torch.no_grad():
        given = images[:, :, None] if family == "qwen_image" else images
        out = vae.encode(given)
        raw = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latent
        wanted = vae.decode(raw).sample
    wanted = wanted[:, :, 0] if wanted.ndim == 5 else wanted
    torch.testing.assert_close(model.decode(samples, proofs.size_of(family)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["peft", "diffusers", "kohya"])
def test_lora_weights_for_other_layers_are_an_error(tmp_path, kind):
    """An adapter of which nothing fits was once merged as nothing: a rise of 0 and exit code 0."""
    pytest.importorskip("peft")
    from safetensors.torch import load_file, save_file

    base = proofs.saved("stable_diffusion", tmp_path / "base")
    path, _ = proofs.lora("stable_diffusion", tmp_path / kind, kind)
    file = path if path.is_file() else next(path.glob("*.safetensors"))
    weights = load_file(file)
    layers = sorted({name.rpartition(".lora_")[0] for name in weights})

    def renamed(wanted):  # the third block is the pipeline's second
        return {
            name.replace("down_blocks.1", "down_blocks.2").replace("down_blocks_1", "down_blocks_2")
            if any(name.startswith(layer) for layer in wanted) else name: weight
            for name, weight in weights.items()
        }  # fmt: skip

    down = [layer for layer in layers if "down_blocks" in layer]
    for wanted in (down[:1], down):
        save_file(renamed(wanted), file)
        with pytest.raises(ValueError, match=r"LoRA weights .* do not fit .*(only some of them fit|are for no layer)"):
            load_versions(base, path, device="cpu")
    save_file({name.replace("attn", "other"): weight for name, weight in weights.items()}, file)
    with pytest.raises(ValueError, match=r"LoRA weights .* do not fit .*(none of them is|not found in the base)"):
        load_versions(base, path, device="cpu")
