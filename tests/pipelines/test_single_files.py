"""Single files of weights in the original layout: loaded as what they were made from, or refused with the cure."""

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from safetensors.torch import load_file

from hopfield_replay.checkpoints import load_pipeline, load_versions
from hopfield_replay.cli import main
from tests.pipelines import original, proofs, tiny

pytestmark = pytest.mark.slow


def stable_diffusion_xl():
    """With text encoders of two widths, by which diffusers tells them apart."""
    from diffusers import StableDiffusionXLPipeline

    pipeline = tiny.build("stable_diffusion_xl")
    parts = {**pipeline.components, "text_encoder": tiny.clip_text(pipeline.tokenizer, width=8)}
    parts["unet"] = tiny.unet(
        cross_attention_dim=24, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16, transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
    )  # fmt: skip
    return StableDiffusionXLPipeline(**parts)


MADE = {
    "stable_diffusion": lambda: tiny.build("stable_diffusion"),
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": lambda: tiny.build("stable_diffusion_3"),
}


@pytest.fixture(scope="module", params=MADE)
def case(request, tmp_path_factory):
    """A pipeline, the folder it was saved to, and a file of other weights in the original layout."""
    place, family = tmp_path_factory.mktemp(request.param), request.param
    pipeline = MADE[family]()
    pipeline.save_pretrained(place / "folder")
    with torch.no_grad():
        for part in (tiny.network_of(pipeline), pipeline.text_encoder):
            for weight in part.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    if family == "stable_diffusion_3":  # whose text encoders are often files of their own: taken from the folder
        pipeline.text_encoder = type(pipeline.text_encoder).from_pretrained(place / "folder" / "text_encoder")
    file = original.save(getattr(original, family)(pipeline), place / "file.safetensors")
    return pipeline, place / "folder", file


def modules(pipeline):
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_of_a_single_file_arrives(case, dtype):
    pipeline, folder, file = case
    version = load_pipeline(file, config=folder, dtype=dtype)
    assert version.weights == f"single file, made like {folder}"
    found = modules(version.model.pipeline)
    assert found.keys() == modules(pipeline).keys()
    for name, part in modules(pipeline).items():
        for key, weight in part.state_dict().items():
            wanted = weight if name == "vae" else weight.to(dtype)
            assert torch.equal(found[name].state_dict()[key].to(wanted.dtype), wanted), (name, key)


def test_a_whole_file_is_a_second_version_with_all_its_parts(case, tmp_path):
    """Of a file with a text encoder of its own only the network was once taken, and nothing was said."""
    pipeline, folder, file = case
    pipeline.save_pretrained(tmp_path / "saved")
    wanted = proofs.audited(*load_versions(folder, tmp_path / "saved", device="cpu"), "").errors_new
    for before, after, config in ((folder, file, None), (file, file, folder)):
        versions = load_versions(before, after, device="cpu", config=config)
        torch.testing.assert_close(proofs.audited(*versions, "").errors_new, wanted)


def test_a_network_in_the_original_layout_goes_onto_its_pipeline(case, tmp_path):
    pipeline, folder, _ = case
    network = original.mmdit if hasattr(pipeline, "transformer") else original.unet
    for prefix in ("model.diffusion_model.", ""):
        if prefix or hasattr(pipeline, "transformer"):  # diffusers knows a UNet by the prefix
            weights = {key.removeprefix("model.diffusion_model."): value for key, value in network(
                tiny.network_of(pipeline)).items()}  # fmt: skip
            file = original.save({prefix + key: value for key, value in weights.items()}, tmp_path / "net.safetensors")
            for before, config in ((folder, None), (file, folder)):
                after = load_versions(before, file, device="cpu", config=config)[1]
                found = tiny.network_of(after.model.pipeline).state_dict()
                for key, weight in tiny.network_of(pipeline).state_dict().items():
                    assert torch.equal(found[key], weight), key


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    place = tmp_path_factory.mktemp("one")
    pipeline = tiny.build("stable_diffusion")
    pipeline.save_pretrained(place / "folder")
    return pipeline, place / "folder", original.save(original.stable_diffusion(pipeline), place / "file.safetensors")


def test_a_file_that_says_nothing_of_how_it_is_made_is_refused_with_the_cure(one, tmp_path, capsys):
    _, folder, file = one
    options = ["audit", "--device", "cpu", "--after", str(file), "--data", str(tmp_path), "--before"]
    assert main([*options, str(file)]) == 2
    assert "(config, --pipeline-config), or give that first (--before)" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"config \(--pipeline-config\) must be a folder with a model_index.json"):
        load_pipeline(file, config=tmp_path)
    (tmp_path / "old.ckpt").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"only .safetensors are read: save one"):
        load_pipeline(tmp_path / "old.ckpt", config=folder)
    (folder / "evil.py").write_text("")
    with pytest.raises(ValueError, match="is code, which is never run"):
        load_pipeline(file, config=folder)
    (folder / "evil.py").unlink()


def test_files_of_other_architectures_or_with_holes_are_refused(one, tmp_path):
    pipeline, folder, file = one
    weights = load_file(file)
    cases = {
        "a middle layer is not there": {k: v for k, v in weights.items() if "middle_block.2" not in k},
        "half of the text encoder": {k: v for k, v in weights.items() if "layers.1" not in k},
        "a layer of the autoencoder": {k: v for k, v in weights.items() if "decoder.mid" not in k},
        "one block more": weights | {
            f"model.diffusion_model.input_blocks.9.{number}.weight": torch.ones(64, 64) for number in range(2)
        },
    }  # fmt: skip
    for name, held in cases.items():
        broken = original.save(held, tmp_path / "broken.safetensors")
        with pytest.raises(ValueError, match=r"broken\.safetensors (lacks|cannot be loaded|holds a network of)"):
            load_pipeline(broken, config=folder)
        assert name
    proofs.saved("stable_diffusion_xl", tmp_path / "xl")
    with pytest.raises(ValueError, match=r"file\.safetensors (cannot be loaded as|holds no text_encoder_2|lacks)"):
        load_pipeline(file, config=tmp_path / "xl")
    both = original.autoencoder(pipeline.vae) | original.unet(pipeline.unet)
    alone = original.save(both, tmp_path / "two.safetensors")
    (folder / "text_encoder" / "model.safetensors").rename(tmp_path / "kept")
    with pytest.raises(
        ValueError, match=r"holds no text_encoder, and it cannot be loaded from .*Put it there, or name"
    ):
        load_pipeline(alone, config=folder)
