"""Folders of pipelines and adapters that want to run code: refused as data, before diffusers or peft sees them."""

import json
import sys
from pathlib import Path

import pytest

from hopfield_replay.checkpoints import load_adapter, load_pipeline
from hopfield_replay.checkpoints.safety import check_adapter, check_pipeline_folder
from tests.checkpoints.test_checkpoints import pipeline

CODE = "from pathlib import Path\nPath({mark!r}).write_text('ran')\nclass Evil:\n    pass\n"


@pytest.fixture
def ran(tmp_path):
    return tmp_path / "ran"


def edit(folder, **entries):
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def list_as_class(folder, code):
    (folder / "pipeline.py").write_text(code)
    edit(folder, _class_name=["pipeline", "Evil"])


def list_as_class_alone(folder, code):
    edit(folder, _class_name=["diffusers", "DDPMPipeline"])


def component_file(folder, code):
    (folder / "unet" / "net.py").write_text(code)
    edit(folder, unet=["net", "Evil"])


def any_module(folder, code):
    (folder.parent / "on_path").mkdir()
    (folder.parent / "on_path" / "arbitrary_module.py").write_text(code)
    sys.path.append(str(folder.parent / "on_path"))
    edit(folder, unet=["arbitrary_module", "Evil"])


def module_of_the_standard_library(folder, code):
    edit(folder, unet=["antigravity", "geohash"])


def submodule(folder, code):
    edit(folder, unet=["diffusers.utils", "logging"])


def path_as_name(folder, code):
    edit(folder, **{"../../x": ["diffusers", "UNet2DModel"]})


def part_of_diffusers_that_is_no_pipeline(folder, code):
    edit(folder, unet=["TYPE_CHECKING", "x"])


def compiled(folder, code):
    (folder / "unet" / "net.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF")


def behind_a_link(folder, code):
    (folder / "unet").rename(folder.parent / "elsewhere")
    (folder / "unet").symlink_to(folder.parent / "elsewhere")
    (folder.parent / "elsewhere" / "net.py").write_text(code)


def auto_map(folder, code):
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoModel": "net.Evil"}}))


def no_json(folder, code):
    (folder / "model_index.json").write_text("[" * 100_000)


def no_object(folder, code):
    (folder / "model_index.json").write_text('["diffusers"]')


def endless(folder, code):
    with (folder / "model_index.json").open("w") as file:
        file.truncate(1 << 25)


KINDS = {
    list_as_class: "pipeline.py is code, which is never run",
    list_as_class_alone: "names no class of diffusers",
    component_file: "net.py is code",
    any_module: r"takes 'unet' from \['arbitrary_module', 'Evil'\], which is no class of diffusers or transformers",
    module_of_the_standard_library: "no class of diffusers",
    submodule: "no class of diffusers",
    path_as_name: r"takes '../../x' from",
    part_of_diffusers_that_is_no_pipeline: "no class of diffusers",
    compiled: "is code",
    behind_a_link: "net.py is code",
    auto_map: r"config.json asks for code of its own \(auto_map\)",
    no_json: "model_index.json is no JSON configuration that can be read",
    no_object: "holds list, not a JSON object",
    endless: "model_index.json is no JSON configuration that can be read",
}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_hostile_folder_is_refused_and_runs_nothing(tmp_path, ran, monkeypatch, kind):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    folder = pipeline(tmp_path / "pipeline")
    kind(folder, CODE.format(mark=str(ran)))
    with pytest.raises(ValueError, match=KINDS[kind]):
        load_pipeline(folder)
    assert not ran.exists()
    assert not {"arbitrary_module", "antigravity", "net"} & (set(sys.modules) - before)


def test_folders_with_circles_of_links_and_parts_of_diffusers_are_fine(tmp_path):
    folder = pipeline(tmp_path / "pipeline")
    (folder / "again").symlink_to(folder)
    edit(folder, safety_checker=[None, None], extra=["stable_diffusion", "StableDiffusionSafetyChecker"], flag=False)
    check_pipeline_folder(folder)


def adapter(folder, **settings):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_adapters_that_name_modules_are_refused(tmp_path):
    check_adapter(adapter(tmp_path / "plain", megatron_config=None, megatron_core="megatron.core"))
    with pytest.raises(ValueError, match=r"names a module to import \('megatron_config'\)"):
        check_adapter(adapter(tmp_path / "megatron", megatron_config={"a": 1}, megatron_core="antigravity"))
    with pytest.raises(ValueError, match="adapter of the kind 'PROMPT_TUNING'; only LoRA"):
        check_adapter(adapter(tmp_path / "prompt", peft_type="PROMPT_TUNING", tokenizer_name_or_path="x"))
    other = adapter(tmp_path / "none")
    (other / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no adapter_model.safetensors"):
        check_adapter(other)


def test_the_settings_inside_of_lora_weights_are_read_too(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    def weights(name, metadata):
        save_file({"unet.to_q.lora_A.weight": torch.zeros(1, 1)}, tmp_path / name, metadata=metadata)
        return tmp_path / name

    check_adapter(weights("plain", {"format": "pt", "lora_adapter_metadata": json.dumps({"unet.r": 2})}))
    hostile = {"lora_adapter_metadata": json.dumps({"unet.megatron_config": {"a": 1}, "unet.megatron_core": "this"})}
    with pytest.raises(ValueError, match=r"names a module to import \('unet.megatron_config'\)"):
        check_adapter(weights("hostile.safetensors", hostile))
    pytest.importorskip("peft")
    folder = pipeline(tmp_path / "pipeline")
    with pytest.raises(ValueError, match=r"do not fit .*names a module to import"):
        load_adapter(folder, tmp_path / "hostile.safetensors")
    assert not Path("ran").exists()
