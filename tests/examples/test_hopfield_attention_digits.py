import re
import sys
from functools import partial

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")
pytest.importorskip("jsonargparse")

import hopfield_attention_digits as example
from helpers.files import read_tensors
from helpers.splits import be_quiet, load

SETTINGS = example.Settings(tasks=2, epochs=1, layers=2, width=16, learning_rate=2e-3, start="zero")


@pytest.fixture(autouse=True)
def _shorter(monkeypatch):
    """A third of the classifier's steps are enough here."""
    monkeypatch.setattr(example, "train_classifier", partial(example.train_classifier, steps=200))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention")
    be_quiet()
    for a in (0.0, 0.5):
        example.run(a, 0, SETTINGS, folder)
    return folder


@pytest.mark.heavy
def test_a_run_holds_what_the_tables_need(finished):
    plain, carried = (read_tensors(finished / example.file_name(a, 0)) for a in (0.0, 0.5))
    assert plain["generated"].shape == (500, 1, 8, 8)
    assert plain["cosine"].shape == plain["residual"].shape == (2,)
    assert plain["error"] != carried["error"]
    table = example.report(finished, SETTINGS)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:5]] == ["0", "0.5", "0.5 - plain"]
    assert "a = 0.5: " in table


def test_measures_of_real_and_of_wrong_images():
    found = example.measure_real([8, 9])
    assert min(found["right_new"], found["right_old"]) > 0.9
    assert min(found["precision"], found["recall"]) > 0.6
    images, labels = load("digits", None)
    wrong = torch.cat([images[labels == (digit + 2) % 10][: example.PER_CLASS] for digit in range(10)])
    result = {"error": 1.0, "forgetting": 2.0, "generated": ((wrong + 1) * 127.5).round().to(torch.uint8)}
    found = example.measure(result, [8, 9])
    assert max(found[name] for name in ("right_new", "right_old", "precision", "recall")) < 0.15


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--a", "0", "1"], r"--a must lie in \[0, 1\), got \[1.0\]"),
        (["--tasks", "1"], "--tasks must be 2 to 10, got 1"),
        (["--width", "40"], "--width must be a multiple of 16, got 40"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
    ],
)
def test_bad_options(monkeypatch, capsys, options, wrong):
    monkeypatch.setattr(sys, "argv", ["hopfield_attention_digits.py", *options])
    with pytest.raises(SystemExit):
        example.main()
    assert re.search(wrong, capsys.readouterr().err)
