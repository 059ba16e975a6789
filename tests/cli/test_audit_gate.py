"""hopfield-replay audit as a gate: a series of versions, what may change, reports for CI."""

import json
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
import torch

from hopfield_replay.cli import main

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline, the same one twice more and more disturbed, and two data sets."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    place = tmp_path_factory.mktemp("series")
    torch.manual_seed(0)
    unet = UNet2DModel(
        8, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    pipeline = DDPMPipeline(unet, DDPMScheduler(20))
    for name, amount in (("base", 0.0), ("step1", 0.001), ("step2", 0.5), ("step3", 0.5)):
        with torch.no_grad():
            for weight in unet.parameters():
                weight.add_(amount * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        pipeline.save_pretrained(place / name)
    draws = np.random.default_rng(0)
    for name in ("old", "general", "new"):
        images = draws.normal(size=(12, 1, 8, 8)).astype(np.float32)
        np.savez(place / f"{name}.npz", images=images, labels=np.arange(12) % 2)
    return place


def audit(folder, *after, data=("old",), more=()):
    return main([
        "audit", "--device", "cpu", "--before", str(folder / "base"), "--after", *(str(folder / one) for one in after),
        "--data", *(str(folder / f"{one}.npz") for one in data), *map(str, more),
    ])  # fmt: skip


@pytest.mark.slow
def test_a_series_says_which_version_is_the_last_that_passes(folder, tmp_path, capsys):
    more = ["--fail-above", "0.1", "--output-dir", tmp_path / "out"]
    assert audit(folder, "step1", "step2", "step3", more=more) == 1
    printed = capsys.readouterr().out
    assert "the last version that passes is step1" in printed
    curve = [line.split() for line in printed.splitlines() if line.startswith("step") and line.endswith("ED")]
    assert [line[0] for line in curve] == ["step2", "step3"]
    assert "GiB of host memory at most" in printed
    wanted = {"measured", "step1", "step2", "step3", "series.html", "series.json", "series.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == wanted
    series = json.loads((tmp_path / "out" / "series.json").read_text())
    assert series["last_passing"] == "step1"
    assert [one["passed"] for one in series["versions"]] == [True, False, False]
    assert series["relative_rises"].keys() == {"all samples", "class 0", "class 1"}
    page = (tmp_path / "out" / "series.html").read_text()
    assert page.index("The last version that passes is step1.") < page.index("<img") < page.index("class 1")
    found = json.loads((tmp_path / "out" / "step2" / "audit.json").read_text())
    assert found["relative"] > 0.1
    assert audit(folder, "step1", more=["--fail-above", "0.1"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("folder_given", [True, False])
def test_the_first_version_is_loaded_and_measured_once(folder, tmp_path, monkeypatch, folder_given):
    """It was once loaded and measured again for every --after."""
    from functools import wraps

    from diffusers import DiffusionPipeline, UNet2DModel

    loaded, calls = [], {}
    load, forward = DiffusionPipeline.from_pretrained, UNet2DModel.forward

    @wraps(forward)  # by whose signature a denoiser is known
    def counted(self, *args, **kwargs):
        calls[id(self)] = calls.get(id(self), 0) + 1
        seen.append(self)
        return forward(self, *args, **kwargs)

    seen = []  # so that no id is given twice
    monkeypatch.setattr(UNet2DModel, "forward", counted)
    monkeypatch.setattr(
        DiffusionPipeline, "from_pretrained", lambda path, **more: loaded.append(path) or load(path, **more)
    )
    more = ["--output-dir", tmp_path] if folder_given else []
    assert audit(folder, "step1", more=["--timesteps", 3]) == 0
    alone = sorted(calls.values())
    calls.clear()
    loaded.clear()
    assert audit(folder, "step1", "step2", "step3", more=["--timesteps", 3, *more]) == 0
    assert [path.name for path in loaded] == ["base", "step1", "step2", "step3"]
    per_model = alone[0]  # each measures, and reconstructs the examples that are shown
    assert len(calls) == 4
    assert sorted(calls.values())[:3] == [per_model] * 3
    assert max(calls.values()) < 3 * per_model


@pytest.mark.slow
def test_what_was_trained_on_is_left_out_of_the_gate(folder, tmp_path, capsys):
    more = ["--target", folder / "new.npz", "--fail-above", "0.1", "--report-format", "junit"]
    assert audit(folder, "step2", data=("old", "general"), more=[*more, "--output-dir", tmp_path]) == 1
    text = (tmp_path / "audit.xml").read_text()
    assert text.strip() == capsys.readouterr().out.partition("Wrote")[0].strip() or text.strip() in text
    root = fromstring(text.partition("\n")[2])
    names = [case.get("name") for case in root.iter("testcase")]
    assert sorted(names) == ["all samples", "class 0", "class 1", "task general.npz", "task old.npz"]
    assert root.get("failures") != "0"
    assert audit(folder, "step1", more=["--fail-above", "0.1", "--report-format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("## Audit of step1: passed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "more", "message"),
    [
        (["step1"], ["--report-format", "junit"], "reports on a gate: give --fail-above, too"),
        (["step1", "step1"], [], "--after names one version twice"),
        (["nowhere"], [], "nowhere holds no model_index.json"),
        (["step1"], ["--dtype", "int8"], "dtype"),
    ],
)  # fmt: skip
def test_bad_input_of_a_gate(folder, capsys, after, more, message):
    try:
        code = audit(folder, *after, more=more)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_the_workflow_for_ci_calls_what_there_is():
    import shlex
    from pathlib import Path

    from hopfield_replay.cli.parser import parse

    text = (Path(__file__).parents[2] / "examples" / "audit_workflow.yml").read_text()
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith("hopfield-replay")]
    _, options = parse(shlex.split(line)[1:])
    assert (options.report_format, options.fail_above, options.target) == ("junit", 0.1, ["data/new"])
