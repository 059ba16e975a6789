import json
from pathlib import Path

import pytest

from helpers import run_folder
from helpers.files import write_json

SETTINGS = {"epochs": 2, "tasks": ["a", "b"], "size": None}


def test_a_run_goes_on_in_its_own_folder_only(tmp_path):
    run_folder.check_run(tmp_path, SETTINGS, resume=False)
    with pytest.raises(ValueError, match="holds no run"):
        run_folder.check_run(tmp_path, SETTINGS, resume=True)
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "run.json", SETTINGS)
    run_folder.check_run(tmp_path, SETTINGS, resume=True)
    with pytest.raises(ValueError, match="holds a run already: pass --resume"):
        run_folder.check_run(tmp_path, SETTINGS, resume=False)
    with pytest.raises(ValueError, match="another configuration: epochs was 2, now 3, extra was None, now 1"):
        run_folder.check_run(tmp_path, {**SETTINGS, "epochs": 3, "extra": 1}, resume=True)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        run_folder.check_run(tmp_path, SETTINGS, resume=True)


def test_a_folder_of_many_runs_belongs_to_one_configuration(tmp_path):
    run_folder.claim_folder(tmp_path / "digits", SETTINGS)
    run_folder.claim_folder(tmp_path / "digits", SETTINGS)
    with pytest.raises(ValueError, match="holds runs of another configuration: epochs was 2, now 3"):
        run_folder.claim_folder(tmp_path / "digits", {**SETTINGS, "epochs": 3})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.pt").touch()
    with pytest.raises(ValueError, match=r"no settings\.json"):
        run_folder.claim_folder(tmp_path / "other", SETTINGS)


def test_paths_are_kept_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = run_folder.plain([Path("a"), 1, None])
    assert json.loads(json.dumps(settings)) == [str(tmp_path / "a"), 1, None]


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "result"

    def write(folder, fail=False):
        folder.mkdir()
        (folder / "one").write_text("new")
        if fail:
            raise RuntimeError("disk full")

    run_folder.write_folder(target, write)
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError):
        run_folder.write_folder(target, lambda folder: write(folder, fail=True))
    assert (target / "old").exists()
    run_folder.write_folder(target, write)
    assert [path.name for path in target.iterdir()] == ["one"]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_results_of_other_settings_are_not_overwritten(tmp_path):
    file = tmp_path / "results.json"
    settings = {"policies": ["none", "random"], "epochs": 2, "data_dir": tmp_path}
    run_folder.check_results(file, settings)
    write_json(file, {"arguments": {name: run_folder.plain(value) for name, value in settings.items()}})
    run_folder.check_results(file, settings)
    run_folder.check_results(file, {**settings, "data_dir": tmp_path / "other"}, free=["data_dir"])
    with pytest.raises(ValueError, match=r"other settings: policies was \['none', 'random'\], now \['none'\]\. Use"):
        run_folder.check_results(file, {**settings, "policies": ["none"]})
    write_json(file, [])
    with pytest.raises(ValueError, match="holds no results of this example"):
        run_folder.check_results(file, settings)
