import functools
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="text-to-image pipelines need transformers")

from diffusers import EulerDiscreteScheduler
from safetensors.torch import load_file

import latent_diffusion_sequential as example
from helpers.latent_diffusion import load_pipeline
from helpers.latent_options import set_defaults

ROOT = Path(__file__).parents[2]
QUICK = ["--batch-size", "6", "--capacity", "4", "--samples", "2", "--sample-steps", "1", "--probes", "8"]
QUICK += ["--accelerator", "cpu", "--guidance", "1.0", "--learning-rate", "1e-3"]

# what the example silences for its users, and what Lightning 2.6 warns of by itself
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
]


def arguments(tiny, folder, *more):
    source, tasks = tiny
    return ["--pretrained", str(source), "--tasks", *map(str, tasks), "--output-dir", str(folder), *QUICK, *more]


@pytest.fixture
def run(monkeypatch):
    """Run the example in this process; afterwards warnings are what they were."""
    monkeypatch.setattr(example, "be_quiet", lambda: None)
    monkeypatch.setattr(example, "quiet_loading", lambda: None)
    return example.main


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_is_killed_in_its_second_task_comes_to_the_same_end(tiny, tmp_path, run, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(arguments(tiny, whole, "--epochs", "3"))

    command = [sys.executable, str(ROOT / "examples" / "latent_diffusion_sequential.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["OMP_NUM_THREADS"] = "1"  # as in this process: sums over another number of threads round differently
    process = subprocess.Popen(
        [*command, *arguments(tiny, killed, "--epochs", "3")], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    with process.stdout:
        seen = [
            line
            for line in iter(process.stdout.readline, "")
            if _kill_at("task 1 (the last: 1), epoch 2", line, process)
        ]
    assert process.wait() == -9
    assert len(seen) == 1
    assert not (killed / "pipeline").exists()
    assert sorted(path.name for path in (killed / "samples").iterdir()) == ["0_before.png", "1_after_zero_to_four.png"]
    for change, message in (
        (["--epochs", "3"], "holds a run already: pass --resume"),
        (["--epochs", "5", "--resume"], "another configuration: epochs was 3, now 5"),
    ):
        with pytest.raises(SystemExit):
            run(arguments(tiny, killed, *change))
        assert message in capsys.readouterr().err
    first = (killed / "samples" / "0_before.png").stat().st_mtime_ns
    capsys.readouterr()
    run(arguments(tiny, killed, "--epochs", "3", "--resume"))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("task")]
    assert told[0].startswith(("task 1 (the last: 1), epoch 2", "task 1 (the last: 1), epoch 3"))

    assert (killed / "samples" / "0_before.png").stat().st_mtime_ns == first
    weights = [load_file(folder / "pipeline/unet/diffusion_pytorch_model.safetensors") for folder in (whole, killed)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0.0, atol=0.0)
    for name in ("0_before.png", "1_after_zero_to_four.png", "2_after_five_to_nine_inverted.png"):
        pictures = [np.asarray(Image.open(folder / "samples" / name)) for folder in (whole, killed)]
        assert pictures[0].shape == (2 * 16, 2 * 16, 3)
        np.testing.assert_array_equal(pictures[0], pictures[1])
    histories = [json.loads((folder / "history.json").read_text()) for folder in (whole, killed)]
    assert histories[0] == histories[1]
    assert [record["task"] for record in histories[0]] == ["zero_to_four", "five_to_nine_inverted"]
    assert [record["replayed"] for record in histories[0]] == [0, 4]
    lost = histories[0][1]["probes"][0]
    assert lost["probes"] == 8
    assert lost["intrinsic"] != 0
    assert lost["error"] is not None

    start = load_pipeline(str(tiny[0]))
    end = load_pipeline(str(killed / "pipeline"))
    for part in ("vae", "text_encoder"):
        torch.testing.assert_close(
            getattr(end, part).state_dict(), getattr(start, part).state_dict(), rtol=0.0, atol=0.0
        )
    moved = [not torch.equal(a, b) for a, b in zip(start.unet.parameters(), end.unet.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)


def _kill_at(mark, line, process):
    if mark in line:
        process.kill()
        return True
    return False


def test_lora_is_trained_resumed_and_loads_into_the_pipeline(tiny, tmp_path, run):
    pytest.importorskip("peft", reason="LoRA needs peft")
    folder = tmp_path / "run"
    chosen = ["--epochs", "1", "--lora-rank", "2", "--policy", "random", "--gradient-checkpointing"]
    run(arguments(tiny, folder, *chosen))
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(".lora_" in name for name in checkpoint["state_dict"])
    shutil.rmtree(folder / "lora")
    run(arguments(tiny, folder, *chosen, "--resume"))
    pipeline = load_pipeline(str(tiny[0]))
    pipeline.load_lora_weights(folder / "lora")
    mine = {name: weight for name, weight in pipeline.unet.named_parameters() if ".lora_B." in name}
    assert mine
    trained = checkpoint["state_dict"]
    for name, weight in mine.items():
        torch.testing.assert_close(weight, trained["unet." + name.replace("default_0", "default")])
        assert weight.abs().max() > 0


def test_without_weights_a_tiny_pipeline_takes_the_same_way(tmp_path, run, monkeypatch):
    monkeypatch.setattr(example, "build_tiny", functools.partial(example.build_tiny, images=8, vae_steps=1))
    run(["--output-dir", str(tmp_path / "run"), "--epochs", "1", "--policy", "none", *QUICK])
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 3
    assert load_pipeline(str(tmp_path / "run" / "pipeline")).unet.config.cross_attention_dim == 32
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_options_reach_the_training(tiny, tmp_path, run, monkeypatch):
    monkeypatch.setattr(example, "train", lambda ready, args: seen.append((ready, args)))
    seen = []
    more = ["--accumulate", "3", "--gradient-clip", "0.5", "--gradient-checkpointing", "--precision", "bf16-mixed"]
    run(arguments(tiny, tmp_path / "run", *more, "--warmup", "7", "--caption-dropout", "0.2"))
    ready, args = seen[0]
    assert ready.trainer.accumulate_grad_batches == 3
    assert ready.trainer.gradient_clip_val == 0.5
    assert ready.trainer.precision == "bf16-mixed"
    assert ready.model.unet.is_gradient_checkpointing
    assert (ready.model.warmup, ready.model.caption_dropout, args.batch_size) == (7, 0.2, 6)


def test_the_unet_is_measured_with_the_noise_it_is_trained_with(tiny, tmp_path, run, monkeypatch):
    pipeline = load_pipeline(str(tiny[0]))
    pipeline.scheduler = EulerDiscreteScheduler.from_config(  # whose last noise level is not quite that of DDPM
        pipeline.scheduler.config, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    pipeline.save_pretrained(tmp_path / "euler")
    monkeypatch.setattr(example, "train", lambda ready, args: seen.append(ready))
    seen = []
    run(arguments((tmp_path / "euler", tiny[1]), tmp_path / "run"))
    measured = seen[0].monitor.denoiser(seen[0].model)
    assert (measured.model, measured.prediction_type) == (seen[0].model.unet, "v_prediction")


def test_defaults_depend_on_the_weights():
    def filled(**given):
        settings = {"pretrained": None, "lora_rank": 0, "batch_size": None, "learning_rate": None, "guidance": None}
        args = SimpleNamespace(**(settings | given))
        set_defaults(args)
        return args.batch_size, args.learning_rate, args.guidance

    assert filled() == (16, 2e-3, 1.0)
    assert filled(pretrained="x") == (4, 1e-5, 7.5)
    assert filled(pretrained="x", lora_rank=4, batch_size=1) == (1, 1e-4, 7.5)
    assert filled(learning_rate=1.0, guidance=2.0) == (16, 1.0, 2.0)


def test_bad_input_leaves_no_run_folder(tiny, tmp_path, run, capsys):
    source, tasks = tiny
    folder, bad = tmp_path / "run", tmp_path / "bad"

    def refuse(message, *given):
        with pytest.raises(SystemExit) as stop:
            run(["--output-dir", str(folder), *QUICK, "--epochs", "1", *given])
        assert stop.value.code == 2  # a line for the user, no traceback
        assert re.search(message, capsys.readouterr().err)
        assert not folder.exists()

    shutil.copytree(tasks[1], bad)
    (bad / "00003.png").write_bytes(b"nothing")
    both = ["--pretrained", str(source), "--tasks", str(tasks[0])]
    refuse(r"00003\.png", *both, str(bad))
    (bad / "metadata.jsonl").unlink()
    refuse("no captions", *both, str(bad))
    refuse("is not a folder", *both, str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    refuse("holds no images", *both, str(tmp_path / "empty"))
    shutil.copytree(source, tmp_path / "pipeline", ignore=shutil.ignore_patterns("unet"))
    refuse("it has no unet", "--pretrained", str(tmp_path / "pipeline"), "--tasks", str(tasks[0]))
    for image in sorted(bad.glob("*.png"))[2:]:
        image.unlink()
    lines = (tasks[1] / "metadata.jsonl").read_text().splitlines()[:2]
    (bad / "metadata.jsonl").write_text("\n".join(lines))
    refuse("holds 2 images; the energies of the first task need at least 3", *both[:3], str(bad))
    refuse("holds no run", *both, "--resume")
    refuse("--size must be a multiple of 8", *both, "--size", "17")
    refuse("unknown policies .'best'.", *both, "--policy", "best")
    refuse(r"--replay-ratio must lie in \(0, 1\), got 1\.5", *both, "--replay-ratio", "1.5")
    refuse("--lora-rank must not be negative, got -1", *both, "--lora-rank", "-1")
    refuse("--learning-rate must be positive, got 0", *both, "--learning-rate", "0")
    refuse("--pretrained and --tasks go together", "--tasks", str(tasks[0]))
    refuse("half.*precision|[Pp]recision.*half", *both, "--precision", "half")
    if find_spec("peft") is not None:
        refuse("no layers called", *both, "--lora-rank", "2", "--lora-targets", "query")


def test_a_latent_cache_of_another_autoencoder_is_refused(tiny, tmp_path, run, monkeypatch, capsys):
    monkeypatch.setattr(example, "train", lambda ready, args: None)
    run(arguments(tiny, tmp_path / "run"))
    (tmp_path / "run" / "run.json").unlink()
    other = load_pipeline(str(tiny[0]))
    other.vae.register_to_config(scaling_factor=0.5)
    other.save_pretrained(tmp_path / "other")
    before = files(tmp_path / "run")
    with pytest.raises(SystemExit):
        run(arguments((tmp_path / "other", tiny[1]), tmp_path / "run"))
    assert "made by another autoencoder" in capsys.readouterr().err
    assert files(tmp_path / "run") == before
