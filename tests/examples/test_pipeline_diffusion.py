"""Sequential fine-tuning of SDXL, Stable Diffusion 3 and FLUX: tiny pipelines of these classes, LoRA, exact resume."""

import json
import shutil

import pytest
import torch

pytest.importorskip("transformers", reason="text-to-image pipelines need transformers")
pytest.importorskip("peft", reason="LoRA needs peft")

from safetensors.torch import load_file

import latent_diffusion_sequential as example
from helpers.captioned import write_captioned
from helpers.pipeline_diffusion import PipelineDiffusion
from hopfield_replay.checkpoints import load_versions
from hopfield_replay.pipelines import PipelineModel
from tests.pipelines import proofs, tiny

QUICK = [
    "--batch-size",
    "4",
    "--capacity",
    "4",
    "--samples",
    "2",
    "--sample-steps",
    "2",
    "--probes",
    "8",
    "--size",
    "32",
]
QUICK += ["--accelerator", "cpu", "--learning-rate", "1e-2", "--lora-rank", "2", "--epochs", "2"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for batch in proofs.pictures("flux", 6):
        name = batch["captions"][0]
        write_captioned(folder / name, batch["images"], [name if at % 2 else f"red {name}" for at in range(6)])
    return [folder / "cat", folder / "dog"]


def arguments(base, tasks, folder, *more):
    return ["--pretrained", str(base), "--tasks", *map(str, tasks), "--output-dir", str(folder), *QUICK, *more]


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["stable_diffusion_xl", "stable_diffusion_3", "flux"])
def test_a_run_that_is_resumed_comes_to_the_same_end(family, tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "be_quiet", lambda: None)
    base = proofs.saved(family, tmp_path / "base")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    example.main(arguments(base, tasks, whole))
    seen = []

    class Stop(BaseException):
        pass

    def stop(self, trainer, module):
        seen.append(trainer.current_epoch)
        if len(seen) == 3:  # in the second task
            raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(example.EpochLines, "on_train_epoch_start", stop, raising=False)
        with pytest.raises(Stop):
            example.main(arguments(base, tasks, cut))
    assert not (cut / "lora").exists()
    example.main(arguments(base, tasks, cut, "--resume"))
    weights = [load_file(folder / "lora" / "pytorch_lora_weights.safetensors") for folder in (whole, cut)]
    assert weights[0].keys() == weights[1].keys()
    torch.testing.assert_close(weights[0], weights[1], rtol=0.0, atol=0.0)
    assert max(float(weight.abs().max()) for name, weight in weights[0].items() if "lora_B" in name) > 0
    histories = [json.loads((folder / "history.json").read_text()) for folder in (whole, cut)]
    assert histories[0] == histories[1]
    assert [record["replayed"] for record in histories[0]] == [0, 4]
    assert histories[0][1]["probes"][0]["error"] is not None
    assert len(list((whole / "samples").glob("*.png"))) == 3
    before, after = load_versions(base, whole / "lora", device="cpu")
    assert proofs.audited(before, after, family).rises.abs().max() > 0
    shutil.rmtree(tmp_path / "base")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["stable_diffusion_xl", "flux"])
def test_the_training_step_and_what_is_measured_are_the_pipelines_own_way(family):
    """The loss against a literal one: the network called by hand, with what the pipeline's own encoders give."""
    pipeline = tiny.build(family)
    network = tiny.network_of(pipeline)
    model = PipelineModel(pipeline)
    module = PipelineDiffusion(model, ["cat", "dog"], 32, 1e-3, seed=3)
    assert getattr(pipeline, "text_encoder", None) is None
    module.log = lambda *_, **__: None
    shape = model.layout((32, 32)).sample
    batch = {
        "samples": torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),
        "caption": torch.tensor([1, 0]),
    }
    network.eval()
    calls = []
    handle = network.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    loss = module.training_step(batch, 0)
    handle.remove()
    draws = torch.Generator().manual_seed(3)
    noise, times = torch.randn(2, *shape, generator=draws), torch.randint(1000, (2,), generator=draws)
    view = (-1, *[1] * len(shape))
    if family == "flux":
        share = (times / 1000).view(view)
        noisy, target, told = (1 - share) * batch["samples"] + share * noise, noise - batch["samples"], times / 1000
    else:
        target, told = noise, times
        signal = pipeline.scheduler.alphas_cumprod[times].view(view)
        noisy = signal.sqrt() * batch["samples"] + (1 - signal).sqrt() * noise
    given = calls[0]
    torch.testing.assert_close(given["timestep"].float(), told.float())
    fresh = tiny.build(family)
    if family == "flux":
        texts, pooled, _ = fresh.encode_prompt(["dog", "cat"], None)
        torch.testing.assert_close(given["encoder_hidden_states"], texts)
        torch.testing.assert_close(given["pooled_projections"], pooled)
        torch.testing.assert_close(given["guidance"], torch.ones(2))
    else:
        texts, _, pooled, _ = fresh.encode_prompt(["dog", "cat"], do_classifier_free_guidance=False)
        torch.testing.assert_close(given["encoder_hidden_states"], texts)
        torch.testing.assert_close(given["added_cond_kwargs"]["text_embeds"], pooled)
        assert given["added_cond_kwargs"]["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 2
    named = {name: value for name, value in given.items() if name not in ("hidden_states", "sample")}
    with torch.no_grad():
        wanted = (network(noisy, **named)[0] - target).square().mean()
    torch.testing.assert_close(loss.detach(), wanted)
    loss.backward()
    assert all(weight.grad is None for weight in pipeline.vae.parameters())
