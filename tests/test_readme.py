"""Every code block of the README and of the recipes runs: Python in order, in one namespace; commands cut short."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

for needed in ("avalanche", "diffusers", "jsonargparse", "matplotlib", "sklearn", "tensorboard"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = sorted((ROOT / "examples" / "results").glob("*.md"))
PAGES = ["README.md", "examples/recipes.md", "examples/README.md", "tests/reliability/README.md"]
TEXT = README + (ROOT / "examples" / "recipes.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
pytestmark = pytest.mark.filterwarnings("default")


def blocks(language):
    return [body for kind, body in BLOCKS if kind == language]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of one's own, with a module ``my`` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "my.py").write_text("from tests.readme_model import Data, Model\n")
    return tmp_path


def test_there_are_no_other_kinds_of_blocks():
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "yaml"}
    assert len(blocks("python")) >= 6
    assert TEXT.count("```") == 2 * len(BLOCKS)


@pytest.mark.parametrize(
    "begins",
    [
        "fit_tasks",
        "ReplayBatches",
        "EnergyReplayPlugin",
        "GeneratedTask",
        "MemoryGuidance",
        "select",
        "ReplayDistillation",
    ],
)
def test_there_is_a_block_for_every_way_in(begins):
    assert any(re.search(rf"\b{begins}\(", body) for body in blocks("python"))


@pytest.mark.heavy
def test_python_and_yaml_blocks(here):
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler

    from hopfield_replay.denoisers import CallableDenoiser
    from tests.denoisers.networks import text_unet
    from tests.readme_model import Data, Model

    model = Model()
    pictures = torch.utils.data.DataLoader(
        [{"pixel_values": torch.rand(3, 8, 8), "input_ids": torch.arange(3) + i % 2} for i in range(12)], batch_size=4
    )
    names = {
        "__name__": "readme",
        "model": model,
        "datamodules": [Data(0), Data(1)],
        "vae": AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2),
        "denoiser": CallableDenoiser(model, model.alphas_cumprod),
        "network": model.network,
        "loss_of": lambda batch: model.training_step(batch, 0),
        "train_dataloader": pictures,
        "unet": text_unet(in_channels=2, out_channels=2),
        "noise_scheduler": DDPMScheduler(),
        "text_encoder": lambda words: (torch.nn.functional.one_hot(words, 12).float(),),
        "stored": torch.rand(9, 1, 8, 8),
        "loaders": [Data(0).train_dataloader(), Data(1).train_dataloader()],
        "train_step": model.training_step_of_ones_own,
    }
    for body in blocks("python"):
        exec(compile(body, "README.md", "exec"), names)
    (body,) = blocks("yaml")
    Path("tasks.yaml").write_text(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", "--config", "tasks.yaml", "--trainer.max_epochs=1"])
        names["main"]()
    assert Path("runs/mine/last.ckpt").exists()


SHORT = "--minutes 0 --data-dir " + str(ROOT.parent / "shared" / "data")  # of the study: it parses, and begins no job


def commands():
    """The commands of all bash blocks, their variables put in and their lines joined."""
    for body in blocks("bash"):
        variables = {}
        for line in body.replace("\\\n", " ").splitlines():
            assignment = re.fullmatch(r'(\w+)="(.*)"', line)
            if assignment:
                variables[assignment[1]] = assignment[2]
                continue
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            yield from (shlex.split(part) for part in line.split("&&") if part.strip())


@pytest.mark.heavy
def test_commands(here, capsys):
    ran = []
    for command in commands():
        if command[:2] == ["cd", "examples"] or command[:4] == ["python", "-m", "pip", "install"]:
            continue
        if command[:3] == ["python", "-m", "pytest"]:
            continue  # this one
        ran.append(command)
        if command[0] == "hopfield-replay":  # tests/test_examples.py runs it
            from hopfield_replay.cli.parser import parse

            parse(command[1:])
            continue
        assert command[0] == "python", command
        script, arguments = ROOT / command[1], command[2:]
        if "mnist" in arguments and not (ROOT.parent / "shared" / "data" / "MNIST").exists():
            continue
        study = script.name == "energy_forgetting_study.py"
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(script.parent))
            patch.setattr(sys, "argv", [str(script), *(arguments + SHORT.split() if study else ["--help"])])
            code = None
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as ended:
                code = ended.code
            assert not code, command
        if not study:  # tests/test_examples.py runs it
            known = capsys.readouterr().out
            assert all(word in known for word in arguments if word.startswith("--")), command
    assert len(ran) >= 4


def test_the_readme_is_one_that_is_read():
    assert len(README.encode()) <= 14_000
    links = re.findall(r"\]\(([^)#]+)", README)
    assert all(link.startswith("https://") for link in links)  # registries show only these


def test_vectors_in_checkpoints_are_said_to_be_the_images_without_an_encoder():
    from hopfield_replay import ForgettingTracker

    assert "Without an encoder (in pixel space) the" in ForgettingTracker.__doc__
    assert '`ForgettingMonitor(probe_storage="none")`, or `"vectors"` of an `encoder`' in README


@pytest.mark.parametrize(
    "page", [*(ROOT / page for page in PAGES), *RESULTS], ids=lambda page: str(page.relative_to(ROOT))
)
def test_files_names_and_links_exist(page):
    text = page.read_text()
    for path in set(re.findall(r"`((?:tests|examples|hopfield_replay)/[\w/]+\.\w+)`", text)):
        assert (ROOT / path).exists(), path
    for module in set(re.findall(r"python -m (tests\.[\w.]+)", text)):
        found = ROOT / module.replace(".", "/")
        assert found.with_suffix(".py").exists() or (found / "__main__.py").exists(), module
    ours = r"https://(?:raw\.githubusercontent|github)\.com/hopfield-replay/hopfield-replay/(?:blob/)?main/"
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = link.partition("#")
        ours_or_not = re.fullmatch(ours + "(.*)", path)
        if path.startswith("https://") and not ours_or_not:
            continue
        target = ROOT / ours_or_not[1] if ours_or_not else page.parent / path if path else page
        assert target.exists(), link
        if heading:
            assert heading in headings(target.read_text()), link


def headings(text):
    """Anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.name)
def test_every_page_of_results_has_the_command_that_remakes_it(page):
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.M | re.S)
    assert any(body.startswith(("python ", "hopfield-replay ")) for body in blocks)
