"""The command hopfield-replay, run in this process and once as a program."""

import inspect
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("jsonargparse")

from hopfield_replay import forecast
from hopfield_replay.cli import main, reproduce
from hopfield_replay.cli.signatures import as_written
from tests.cli.test_datasets import MODULE, folder_of_images

ROOT = Path(__file__).parents[2]


def clouds(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(30, 2)).astype(np.float32) + shift for shift in (0.0, 2.0))


def files(folder):
    old, new = clouds()
    np.savez(folder / "old.npz", images=old, labels=np.arange(30) % 2)
    save_file({"x": torch.from_numpy(new)}, folder / "new.safetensors")
    return str(folder / "old.npz"), str(folder / "new.safetensors")


@pytest.mark.heavy
def test_forecast_prints_and_writes_what_the_function_finds(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    old, new = files(tmp_path)
    out = tmp_path / "out" / "here"
    options = ["--capacities", "3", "6", "--beta", "0.5", "--replay-ratio", "0.3", "--seed", "4"]
    code = main(["forecast", old, new, *options, "--output-dir", str(out)])
    assert code == 0
    found = forecast(*map(torch.from_numpy, clouds()), labels=torch.arange(30) % 2, capacities=(3, 6), beta=0.5,
                     replay_ratio=0.3, seed=4)  # fmt: skip
    printed = capsys.readouterr().out
    assert found.table() in printed
    assert f"Wrote forecast.json, forecast.png to {out}" in printed
    assert json.loads((out / "forecast.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    assert (out / "forecast.png").read_bytes().startswith(b"\x89PNG")


def test_forecast_of_folders_of_images_from_a_config_file(tmp_path, capsys):
    old = folder_of_images(tmp_path / "old", classes=("a", "b"))
    new = folder_of_images(tmp_path / "new", count=3)
    (tmp_path / "run.yaml").write_text("capacities: [2, 4]\nseed: 3\n")
    assert main(["forecast", str(old), str(new), "--config", str(tmp_path / "run.yaml")]) == 0
    assert "6 old samples" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old", "run.yaml"]  # nothing is written unless asked


@pytest.mark.heavy
def test_as_a_program_with_a_datamodule_of_the_present_folder(tmp_path):
    (tmp_path / "own_data.py").write_text(MODULE)
    script = "import sys; from hopfield_replay.cli import main; sys.exit(main())"  # as the console script does
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "forecast", "own_data:Digits", "own_data:Digits", "--capacities", "5"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "20 old samples" in done.stdout


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv", "missing.csv"], "'missing.csv' does not exist; give a folder of images"),
        (["missing.npz", "missing.npz"], "missing.npz does not exist"),
        (["nowhere:Data", "nowhere:Data"], "'nowhere:Data' cannot be imported"),
        (["OLD", "NEW", "--capacities", "50"], "--capacities must rise from at least 1"),
        (["OLD", "NEW", "--beta", "-1", "--capacities", "5"], "--beta (inverse temperature) must be positive"),
        (
            ["OLD", "NEW", "--replay-ratio", "1", "--capacities", "5"],
            "--replay-ratio must lie strictly between 0 and 1",
        ),
        (["OLD", "NEW", "--output-dir", "OLD"], "--output-dir must be a folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    paths = dict(zip(("OLD", "NEW"), files(tmp_path), strict=True))
    assert main(["forecast", *(paths.get(argument, argument) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hopfield-replay: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["forecast", "a", "b", "--replay-ratio", "half"], "error: --replay-ratio must be a number, got 'half'."),
        (["forecast", "a", "b", "--beta", "Auto"], "error: --beta must be a number, got 'Auto'."),
        (["forecast", "a", "b", "--capacity", "5"], "--capacity 5. Did you mean '--capacities'?"),
        (["forecast", "a", "b", "--capacities", "5", "x"], "error: --capacities must be a whole number, got 'x'."),
        (["select", "a", "--keep", "4.5"], "error: --keep must be a whole number, got '4.5'."),
        (["forcast", "a"], "Did you mean 'forecast'?"),
        (["forecast", "a"], "error: the following arguments are required: new"),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().err.splitlines()[-1].endswith(sentence)


def test_default_capacities_are_those_that_the_folder_holds(tmp_path, capsys):
    old, new = files(tmp_path)
    assert main(["forecast", old, new]) == 0
    capsys.readouterr()
    with np.load(old) as arrays:
        few = arrays["images"][:9]
    np.savez(old, images=few)
    assert main(["forecast", old, new, "--output-dir", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "forecast.json").read_text())["capacities"] == [3, 4]  # a quarter and a half


@pytest.mark.parametrize(
    "arguments",
    [[], ["forecast"], ["forecast", "a", "b", "--sede", "1"], ["reproduce", "fame"], ["audit", "--before", "a"]],
)
def test_wrong_usage_is_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: hopfield-replay" in capsys.readouterr().err


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("two\nlines"), 2, "hopfield-replay: two lines\n"),
        (MemoryError("none left"), 2, "hopfield-replay: none left\n"),
        (KeyError("a"), 3, "hopfield-replay: Unexpected KeyError: 'a' (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "hopfield-replay: Interrupted.\n"),
    ],
)
def test_errors_without_a_traceback_unless_asked_for(monkeypatch, capsys, error, code, message):
    def fail(source, **limits):
        raise error

    monkeypatch.setattr("hopfield_replay.cli.datasets.load_data", fail)
    assert main(["forecast", "a", "b"]) == code
    assert capsys.readouterr().err == message
    assert main(["forecast", "a", "b", "--debug"]) == code
    assert ("in fail" in capsys.readouterr().err) == (code != 130)


@pytest.mark.parametrize("command", [[], ["forecast"], ["audit"], ["reproduce"], ["reproduce", "rise"]])
def test_help_fits_a_terminal_and_names_no_python(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "type:" not in text
    assert "%%" not in text
    assert ("exit codes:" in text) == (command in ([], ["audit"]))
    if command == ["audit"]:
        assert " ".join(text.split()).count("RISK: such a file can run any code on this machine") == 1


def test_reproduce_rise(capsys):
    assert main(["reproduce", "rise", "--draws", "8", "--eps", "[0.02]"]) == 0
    printed = capsys.readouterr().out
    assert "outlier" in printed
    assert len(printed.splitlines()) > 3
    assert main(["reproduce", "rise", "--draws", "8", "--eps", "[0.02]", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of a small DDPM: of digits 0-3, then of 4 and 5 too, and the first fine-tuned away from digit 2."""
    pytest.importorskip("sklearn")
    pytest.importorskip("diffusers")
    sys.path.insert(0, str(ROOT / "examples"))
    from lightning.pytorch import Trainer, seed_everything
    from torch.utils.data import DataLoader, TensorDataset

    from helpers.ddpm import DDPM
    from helpers.splits import be_quiet, load, shuffled

    folder = tmp_path_factory.mktemp("digits")
    be_quiet()
    images, labels = load("digits", folder)
    train, held_out = {}, {}
    for name, classes in (("old", [0, 1, 2, 3]), ("new", [4, 5])):
        rows = shuffled(labels, classes, 0)
        cut = int(0.7 * len(rows))
        train[name], held_out[name] = rows[:cut], rows[cut:]
        np.savez(folder / f"{name}.npz", images=images[held_out[name]], labels=labels[held_out[name]])
        np.savez(folder / f"{name}_train.npz", images=images[train[name]], labels=labels[train[name]])
    seed_everything(0, verbose=False)
    model = DDPM(8, network="mlp", width=128)

    def fit(rows, epochs, path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(
                max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False,
                enable_model_summary=False, enable_checkpointing=False, gradient_clip_val=1.0,
            )  # fmt: skip
            data = TensorDataset(images[rows], labels[rows])
            trainer.fit(model, DataLoader(data, batch_size=64, shuffle=True, drop_last=True))
            trainer.save_checkpoint(folder / path, weights_only=True)

    fit(train["old"], 25, "first.ckpt")
    fit(train["new"], 25, "second.ckpt")
    model.load_state_dict(torch.load(folder / "first.ckpt", weights_only=True)["state_dict"])
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    away, kept = (train["old"][(labels[train["old"]] == 2) == member] for member in (True, False))
    for _ in range(60):  # away from digit 2, towards the others
        batches = [rows[torch.randint(len(rows), (64,))] for rows in (kept, away)]
        losses = [model.loss(images[rows], labels[rows]) for rows in batches]
        optimizer.zero_grad()
        (losses[0] - 0.3 * losses[1].clamp(max=0.8)).backward()
        optimizer.step()
    torch.save({"state_dict": model.state_dict()}, folder / "unlearned.ckpt")
    return folder


def audit(folder, before, after, *data, more=()):
    return main([
        "audit", "--model", "helpers.ddpm:DDPM", "--model-args", '{"size": 8, "network": "mlp", "width": 128}',
        "--device", "cpu",
        "--before", str(folder / f"{before}.ckpt"), "--after", str(folder / f"{after}.ckpt"),
        "--data", *(str(folder / f"{name}.npz") for name in data), *more,
    ])  # fmt: skip


@pytest.mark.heavy
def test_audit_finds_the_classes_of_the_first_task(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    energies = ["--old-data", str(trained / "old_train.npz"), "--new-data", str(trained / "new_train.npz")]
    more = [*energies, "--fail-above", "0.1", "--output-dir", str(tmp_path / "out")]
    assert audit(trained, "first", "second", "old", "new", more=more) == 1
    printed = capsys.readouterr().out
    assert "FAILED: relative rise above 10.0% in " in printed
    assert "task old.npz (+" in printed
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert set(list(found["classes"])[:4]) == {"0", "1", "2", "3"}  # the most forgotten first
    lows = {label: row["low"] for label, row in found["classes"].items()}
    assert {label for label, low in lows.items() if low > 0} == {"0", "1", "2", "3"}
    assert found["correlations"]["energy rise"]["low"] > 0.3
    written = {path.name for path in (tmp_path / "out").iterdir()}
    names = ("audit", "audit_most_forgotten", "audit_least_forgotten", "audit_classes", "audit_tasks")
    assert written == {"audit.json", "audit.html", "measured", *(f"{name}.png" for name in names)}
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "FAILED" in page
    assert "second.ckpt (weights)" in page


@pytest.mark.heavy
def test_audit_of_a_checkpoint_against_itself_is_zero(trained, tmp_path, capsys):
    more = ["--fail-above", "0", "--output-dir", str(tmp_path), "--quiet"]
    assert audit(trained, "first", "first", "old", more=more) == 0
    assert capsys.readouterr() == ("", "")
    found = json.loads((tmp_path / "audit.json").read_text())
    assert not np.any(found["rises"])
    assert [found[name] for name in ("mean", "low", "high", "relative", "relative_low", "worse")] == [0] * 6


@pytest.mark.heavy
def test_the_exit_code_follows_the_threshold(trained, capsys):
    codes = [audit(trained, "first", "second", "old", more=["--fail-above", str(share)]) for share in (0.01, 100)]
    assert codes == [1, 0]
    assert "passed: relative rise above 10000.0% in no group" in capsys.readouterr().out


@pytest.mark.heavy
def test_audit_localises_what_was_unlearned(trained, tmp_path):
    assert audit(trained, "first", "unlearned", "old", more=["--output-dir", str(tmp_path), "--quiet"]) == 0
    classes = json.loads((tmp_path / "audit.json").read_text())["classes"]
    assert next(iter(classes)) == "2"
    others = [row["high"] for label, row in classes.items() if label != "2"]
    assert classes["2"]["low"] > 3 * max(*others, 0.01)


def one_image(folder):
    np.savez(folder / "one.npz", images=np.zeros((1, 8, 8), np.float32))
    return str(folder / "one.npz")


def flat(folder):
    np.savez(folder / "flat.npz", x=np.zeros((4, 7), np.float32))
    return str(folder / "flat.npz")


def holes(folder):
    np.savez(folder / "holes.npz", x=np.full((4, 1, 8, 8), np.nan, np.float32))
    return str(folder / "holes.npz")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        (flat, [], "The models do not take samples of shape (7,)"),
        (holes, [], "NaN or infinite values in 4 of 4 rows"),
        (
            one_image,
            ["--fail-above", "0.1"],
            "A gate needs at least two samples in a group, and ['all samples'] have fewer",
        ),
        (one_image, ["--timesteps", "5000"], "timestep 5000 is out of range"),
        (one_image, ["--model", "ddpm:Nothing"], "The model 'ddpm:Nothing' cannot be imported"),
        (one_image, ["--model-args", '{"width": 64}'], "is of another architecture: "),
        (one_image, ["--device", "nowhere"], "cannot be put on nowhere"),
        (one_image, ["--new-data", "x.npz"], "x.npz does not exist"),
    ],
)
def test_bad_input_of_an_audit(trained, tmp_path, capsys, data, more, message):
    assert audit(trained, "first", "second", more=[data(tmp_path), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hopfield-replay: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.heavy
def test_weights_alone_do_not_say_how_to_make_the_model(trained, capsys):
    assert audit(trained, "unlearned", "second", "old", more=["--model-args", "{}"]) == 2
    assert "DDPM needs the constructor arguments ['size'], which" in capsys.readouterr().err


@pytest.mark.heavy
def test_one_sample_is_said_to_have_no_interval(trained, tmp_path, capsys):
    assert audit(trained, "first", "second", more=[one_image(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "[undefined]" in printed
    assert "warning: One sample: intervals are undefined." in printed


@pytest.mark.heavy
def test_one_source_twice(trained, capsys):
    assert audit(trained, "first", "second", "old", "old") == 2
    assert "--data names one source twice" in capsys.readouterr().err


@pytest.mark.heavy
def test_audit_of_two_pipelines_on_folders_of_images(tmp_path, capsys):
    from tests.checkpoints.test_checkpoints import pipeline

    image = pytest.importorskip("PIL.Image")
    for seed, name in enumerate(("old", "new")):
        pipeline(tmp_path / name, seed)
    pictures = (np.random.default_rng(0).uniform(size=(6, 8, 8)) * 255).astype(np.uint8)
    for number, picture in enumerate(pictures):
        (tmp_path / "images" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        image.fromarray(picture).save(tmp_path / "images" / "ab"[number % 2] / f"{number}.png")
    paths = ["audit", "--before", str(tmp_path / "old"), "--after", str(tmp_path / "new"), "--data"]
    assert main([*paths, str(tmp_path / "images")]) == 0
    printed = capsys.readouterr().out
    assert "6 samples: reconstruction error" in printed
    assert "/0.png" in printed
    assert {line.split()[0] for line in printed.splitlines() if line} >= {"a", "b"}
    assert main([*paths, flat(tmp_path)]) == 2
    assert "samples of shape (7,), which are no images" in capsys.readouterr().err


HELP = [[], ["forecast"], ["audit"], ["select"], ["buffer"], ["report"], ["reproduce"]]
HELP += [["reproduce", name] for name in reproduce.EXPERIMENTS]


@pytest.mark.parametrize("name", reproduce.EXPERIMENTS)
def test_options_of_an_experiment_are_its_functions_arguments(name):
    from hopfield_replay import theory

    function = getattr(theory, f"reproduce_{name.replace('-', '_')}")
    read = reproduce.written(name)
    assert inspect.signature(read).parameters == inspect.signature(function).parameters
    assert inspect.getdoc(read) == inspect.getdoc(function)


def test_a_function_that_is_not_written_is_told():
    with pytest.raises(ImportError, match=r"no function reproduce_it is written in hopfield_replay\.theory\.rise"):
        as_written("hopfield_replay.theory.rise", "reproduce_it", {})


@pytest.mark.heavy
def test_help_needs_nothing_that_takes_seconds_to_import():
    script = (
        "import contextlib, io, sys\n"
        "from hopfield_replay.cli import main\n"
        f"for command in {HELP}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):\n"
        "        main([*command, '--help'])\n"
        "    assert 'usage: hopfield-replay' in said.getvalue(), command\n"
        "    assert '<' not in said.getvalue(), said.getvalue()\n"
        "print(sorted({'torch', 'numpy', 'lightning', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_what_help_names_is_what_there_is():
    from hopfield_replay import policies, theory
    from hopfield_replay.analysis import exports
    from hopfield_replay.cli import names, reproduce

    assert names.POLICIES == policies.POLICIES
    assert tuple(names.FORMATS) == tuple(exports.FORMATS)
    for name, summary in reproduce.EXPERIMENTS.items():
        function = getattr(theory, f"reproduce_{name.replace('-', '_')}")
        assert function.__doc__.splitlines()[0] == summary


def test_help_of_an_experiment_has_its_options(capsys):
    from hopfield_replay.theory import reproduce_rise

    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "rise", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name in inspect.signature(reproduce_rise).parameters:
        assert f"--{name}" in said or name in said
