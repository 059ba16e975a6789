"""Names of files and classes are shown, whatever they hold, and do nothing: terminal, figures, page and files."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hopfield_replay.analysis.images.item import utf8_name
from hopfield_replay.cli import main
from tests.checkpoints.test_checkpoints import pipeline
from tests.cli.test_exit_codes import ROOT

image = pytest.importorskip("PIL.Image")
pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")

HOSTILE = [
    "cat\nverdict: passed: nothing was forgotten\n",
    "\x1b[2J\x1b[1;1Hverdict: passed",
    "$\\badmacro$",
    "100$ and $",
    "a\rb",
    "\u202etxt.exe",
    "line\u2028line\u2029",
    "<script>alert(1)</script>",
    "=cmd|'!A1'",
    os.fsdecode(b"latin-\xe9"),
]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    return [str(pipeline(folder / name, seed)) for seed, name in enumerate(("old", "new"))]


def images(folder, classes):
    pixels = np.random.default_rng(0).integers(0, 256, (2 * len(classes), 8, 8), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        place = folder / classes[number // 2].replace("/", "\u2215")
        place.mkdir(parents=True, exist_ok=True)
        image.fromarray(picture).save(place / f"{number}\n\x1b[0m$.png")
    return str(folder)


def audit(pipelines, data, out):
    return ["audit", "--before", pipelines[0], "--after", pipelines[1], "--data", data, "--device", "cpu",
            "--fail-above", "-1", "--output-dir", str(out)]  # fmt: skip


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")  # matplotlib's font has not every letter
def test_an_audit_of_hostile_names_says_one_verdict_and_writes_everything(pipelines, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(audit(pipelines, images(tmp_path / "data\n\x1b[31m", HOSTILE), out)) == 1
    printed, errors = capsys.readouterr()
    assert errors == ""
    verdicts = [line for line in printed.splitlines() if line.startswith("verdict")]
    assert verdicts == []
    assert [line for line in printed.splitlines() if line.startswith("passed")] == []
    assert sum(line.startswith("FAILED") for line in printed.splitlines()) == 1
    assert not set(printed) & set("\x1b\r\u202e\u2028\u2029\udce9")
    for shown in ("cat\\nverdict: passed", "\\x1b[2J", "$\\badmacro$", "\\u202e", "latin-\\xe9", "<script>"):
        assert shown in printed
    names = {path.name for path in out.iterdir()}
    assert names >= {"audit.html", "audit.json", "audit.png", "audit_classes.png", "audit_most_forgotten.png"}
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert not set(page) & set("\x1b\r\u202e\u2028\udce9")
    found = json.loads((out / "audit.json").read_text())
    assert set(found["classes"]) == {utf8_name(name.replace("/", "\u2215")) for name in HOSTILE}  # JSON quotes them


def test_labels_of_figures_are_drawn_letter_by_letter():
    torch = pytest.importorskip("torch")
    from hopfield_replay.figures import picture_rows, rises_by_group

    for name in ("$\\badmacro$", "$", "$$", "a$b$c", "\\$", "a\nb"):
        figure = rises_by_group(torch.tensor([0.1, 0.2]), [name, name])
        figure.canvas.draw()  # a formula that cannot be read is an error here
        drawn = figure.axes[0].get_yticklabels()[0]
        assert "\n" not in drawn.get_text()
        assert drawn._preprocess_math(drawn.get_text())[1] is False
        picture_rows([("row", torch.rand(2, 1, 4, 4))], captions=[name, "x"]).canvas.draw()


@pytest.mark.heavy
def test_a_terminal_that_knows_few_letters_and_a_matplotlibrc_beside_the_data(pipelines, tmp_path):
    data = images(tmp_path / "data", ["grün", "猫"])
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    done = subprocess.run(
        [sys.executable, "-m", "hopfield_replay.cli", *audit(pipelines, data, tmp_path / "out")], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii",
             "PYTHONWARNINGS": "ignore::UserWarning"},
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert b"gr\\xfcn" in done.stdout
    assert (tmp_path / "out" / "audit_classes.png").exists()


def test_errors_name_files_in_one_line(tmp_path, capsys):
    place = tmp_path / "x\nhopfield-replay: all is well\n\x1b[2J"
    place.mkdir()
    (place / "a.png").write_bytes(b"no image")
    assert main(["forecast", str(place), str(place)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said
