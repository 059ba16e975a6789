import ast
import json
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import durations

for needed in ("diffusers", "jsonargparse", "matplotlib", "sklearn", "tensorboard"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "ddpm_mnist_splits.py"
ARMS = ["none", "high_energy"]
INDEX = (SCRIPT.parent / "README.md").read_text()


def test_the_index_lists_every_example_with_its_command_and_time():
    rows = re.findall(
        r"^\| \[(\w+\.py)\]\((\w+\.py)\) \|.*\| `python examples/(\w+\.py).*` \| (\d.*|not measured) \|$", INDEX, re.M
    )
    scripts = {path.name for path in SCRIPT.parent.glob("*.py")}
    assert [{row[column] for row in rows} for column in range(3)] == [scripts] * 3
    for link in re.findall(r"\]\(([^)]+)\)", INDEX):
        assert (SCRIPT.parent / link).exists(), link
    helpers = {path.stem for path in (SCRIPT.parent / "helpers").glob("*.py")}
    assert set(re.findall(r"`(\w+)`", INDEX.split("`helpers/`")[1])) - {"hopfield_replay"} <= helpers


def test_only_the_index_says_how_long_an_example_takes():
    """It is measured by tests.benchmarks.durations, which writes it there."""
    for path in sorted(SCRIPT.parent.glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert not re.search(r"\b(\d+|a|two) (CPU )?(minutes?|seconds)\b", text), path.name


def test_the_times_of_the_index_can_be_read_and_written():
    known = durations.claims(INDEX)
    assert set(known) == {path.stem for kind in ("*.py", "*.ipynb") for path in SCRIPT.parent.glob(kind)}
    assert durations.seconds_of("1 min 5 s*") == 65.0
    assert durations.seconds_of("4 core hours") is None
    again = durations.written(INDEX, {"tutorial": 3725.0})
    assert durations.claims(again)["tutorial"][1].removesuffix("*") == "62 min 5 s"
    assert {**durations.claims(again), "tutorial": ()} == {**known, "tutorial": ()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The digits example, as short as it gets; what it printed and the folder it wrote."""
    folder = tmp_path_factory.mktemp("example") / "runs"
    done = subprocess.run(
        [
            sys.executable, "-W", "error", "-W", "ignore::FutureWarning", str(SCRIPT), "--epochs", "1", "--tasks", "2",
            "--policies", *ARMS, "--forecast", "--capacity", "20", "--output-dir", str(folder), "--accelerator", "cpu",
            "--checkpoints",
        ],
        cwd=folder.parent, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done, folder


@pytest.mark.heavy
def test_digits_prints_one_table_with_every_arm(results):
    done, _ = results
    lines = done.stdout.splitlines()
    (header,) = [number for number, line in enumerate(lines) if line.startswith("| policy") and "intrinsic" in line]
    assert [line.split()[1] for line in lines[header + 2 : header + 4]] == ARMS
    assert sum("high_energy against none" in line for line in lines) == 1
    assert any(word in done.stdout for word in ("within noise", "less forgetting", "more forgetting"))
    assert "100%" in done.stderr  # the progress bar


@pytest.mark.heavy
def test_digits_forecasts_first_and_compares_at_the_end(results):
    done, folder = results
    lines = done.stdout.splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith("Forecast of the first boundary")]
    (last,) = [number for number, line in enumerate(lines) if line.startswith("Forecast against measured")]
    assert any(line.startswith("recommended: policy ") for line in lines[first:last])
    assert first < lines.index(next(line for line in lines if line.startswith("| policy "))) < last
    (found,) = json.loads((folder / "results.json").read_text())["forecast"]
    assert found["low"] <= found["estimate"] <= found["high"]
    assert f"  task 0: {found['estimate']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]" in lines[last + 2]
    assert found["n"] > 100


@pytest.mark.heavy
def test_digits_writes_its_numbers(results):
    _, folder = results
    found = json.loads((folder / "results.json").read_text())
    assert found["epochs"] == 1
    assert found["arguments"]["capacity"] == 20
    assert [arm["policy"] for arm in found["arms"]] == ARMS
    for arm in found["arms"]:
        assert arm["seconds"] > 0
        assert (arm["buffer_bytes"] > 0) == (arm["policy"] != "none")
        assert [task["task"] for task in arm["tasks"]] == [0, 1]
        first, second = arm["tasks"]
        assert first["intrinsic_forgetting"] is None  # there is no earlier task
        for name in (
            "intrinsic_forgetting", "reconstruction_forgetting", "reconstruction_forgetting_p95", "error_current_task",
            "beta", "n_eff",
        ):  # fmt: skip
            assert math.isfinite(second[name]), name
        assert first["n_eff"] == pytest.approx(5.0, rel=0.2)
        assert second["replayed"] == (0 if arm["policy"] == "none" else 20)
    same_start = [arm["tasks"][0]["error_current_task"] for arm in found["arms"]]
    assert same_start[0] == same_start[1]  # one seed: the arms part at the second task


@pytest.mark.heavy
@pytest.mark.parametrize("arm", ARMS)
def test_digits_tells_of_each_arm_on_a_page_and_the_command_tells_the_same(results, arm, tmp_path, capsys):
    from hopfield_replay.cli import main

    _, folder = results
    page = (folder / arm / "report.html").read_text()
    assert "Forecast against outcome" in page
    assert ("What the buffer keeps" in page) == (arm != "none")
    told = json.loads((folder / arm / "report.json").read_text())
    written = json.loads((folder / "results.json").read_text())["arms"][ARMS.index(arm)]["tasks"][1]
    assert told["tasks"][0]["rise"] == pytest.approx(written["reconstruction_forgetting"])  # of the one earlier task
    assert main(["report", str(folder / arm), "--output-dir", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "report.json").read_text())
    assert again["tasks"] == told["tasks"]
    assert again["classes"] == told["classes"]
    assert (tmp_path / "report.html").read_text().count("<img") == page.count("<img")


@pytest.mark.heavy
def test_digits_draws(results):
    _, folder = results
    names = {path.name for path in folder.glob("*.png")}
    assert names == {
        "forgetting.png",
        *(f"{kind}_{arm}.png" for kind in ("samples", "reconstructions", "energy_against_forgetting") for arm in ARMS),
    }
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 3000


@pytest.mark.heavy
@pytest.mark.parametrize("arm", ARMS)
def test_digits_logs_to_tensorboard(results, arm):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder = results
    events = EventAccumulator(str(folder / arm), size_guidance={"images": 0, "histograms": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "forgetting/beta", "forgetting/intrinsic/mean", "forgetting/reconstruction/mean"} <= set(
        tags["scalars"]
    )
    assert {"7_energy_after/task_0", "7_energy_after/task_1", "5_reconstruction_forgetting/task_0"} <= set(
        tags["histograms"]
    )
    pictures = {f"4_against_forgetting/energy_{name}" for name in ("rise", "when_learned")}
    pictures |= {"1_forgetting/over_tasks", "2_most_forgotten/denoised"}
    of_buffer = {f"3_buffer/{name}" for name in ("contents", "protected_energy", "turnover")}
    assert set(tags["images"]) == (pictures if arm == "none" else pictures | of_buffer)
    written = json.loads((folder / "results.json").read_text())["arms"][ARMS.index(arm)]["tasks"][1]
    (mean,) = events.Scalars("forgetting/reconstruction/mean")
    assert mean.value == pytest.approx(written["reconstruction_forgetting"], abs=1e-6)


@pytest.mark.heavy
def test_digits_leaves_checkpoints_to_audit(results, monkeypatch, capsys):
    from hopfield_replay.cli import main

    _, folder = results
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    before, after = (str(folder / "none" / f"task{task}.ckpt") for task in (0, 1))
    data = [str(folder / f"task{task}.npz") for task in (0, 1)]
    options = ["--before", before, "--after", after, "--data", *data, "--device", "cpu"]
    assert main(["audit", "--model", "helpers.ddpm:DDPM", *options]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (first,), (second,) = ([line for line in lines if line[:1] == [f"task{task}.npz"]] for task in (0, 1))
    written = json.loads((folder / "results.json").read_text())["arms"][ARMS.index("none")]["tasks"][1]
    # the same images and timesteps as the monitor's, other noise
    assert float(first[4]) == pytest.approx(written["reconstruction_forgetting"], rel=0.1)  # the rise
    assert float(second[3]) == pytest.approx(written["error_current_task"], rel=0.1)  # the error after


def start(monkeypatch, *arguments):
    """Run the script in this process."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_mnist_without_data_and_network_names_both_ways_out(monkeypatch, tmp_path):
    pytest.importorskip("torchvision")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "empty"
    with pytest.raises(SystemExit) as stop:
        start(monkeypatch, "--data", "mnist", "--data-dir", folder, "--output-dir", tmp_path / "out")
    message = str(stop.value.code)
    assert "--data digits" in message
    assert f"--data-dir {folder}" in message
    assert f"{folder}/MNIST/raw" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policies", "none", "best"], "unknown policies ['best']; choose from none"),
        (["--tasks", "1"], "--tasks must be 2 to 10, got 1"),
        (["--capacity", "0"], "--capacity must be at least 1, got 0"),
        (["--replay-ratio", "1"], "--replay-ratio must lie in (0, 1), got 1"),
        (["--policies", "random", "--forecast"], "compared with the arm without replay; add none to --policies"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--data", "cifar"], "cifar"),
    ],
)
def test_wrong_options_are_named_before_anything_runs(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        start(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
