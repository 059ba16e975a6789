"""A run's page tells what literal loops over the history tell, the worst first, and no name of anything breaks it."""

import json
import re

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ForgettingTracker, TaskSource, forecast, run_report
from hopfield_replay.analysis import find_runs, run_from_file
from hopfield_replay.cli import main
from hopfield_replay.denoisers import CallableDenoiser
from tests.utilities.test_showing import HOSTILE, VOID, Tags

SCHEDULE = torch.linspace(0.99, 0.01, 10)


def shrinking(factor):
    return CallableDenoiser(lambda x, t: factor * x, SCHEDULE, prediction_type="sample")


def data(task, n=40):
    """Samples of two classes each, the second of which has larger values, and their labels."""
    generator = torch.Generator().manual_seed(task)
    labels = torch.arange(n) % 2
    images = torch.rand(n, 1, 4, 4, generator=generator) * (0.2 + 0.8 * labels.view(-1, 1, 1, 1)) + 0.3 * task
    return images, 2 * task + labels


def run(tasks=3, errors=True, buffer=True, kind=ForgettingTracker):
    made = kind(EnergyReplayBuffer(9, seed=1) if buffer else None, probe_size=40)
    tracker = made if kind is ForgettingTracker else made.tracker
    for task in range(tasks):
        source = TaskSource([data(task)])
        tracker.begin_task(source)
        tracker.end_task(source, denoiser=shrinking(1.0 - 0.4 * task) if errors else None)
    return made


@pytest.fixture(scope="module")
def tracker():
    return run()


def test_tasks_and_classes_are_literal_means_the_worst_first(tracker):
    report = run_report(tracker)
    expected = {}
    for task in (0, 1):
        probe = tracker.history[-1].probes[task]
        for i in range(40):
            before = float(probe.error_start[i].mean())
            now = float(probe.error[i].mean())
            label = int(data(task)[1][int(probe.ids[i]) & ((1 << 39) - 1)])
            expected.setdefault((task, None), []).append((before, now))
            expected.setdefault((task, label), []).append((before, now))
    assert report.measure == "reconstruction"
    for losses, keys in ((report.tasks, 2), (report.classes, 4)):
        assert len(losses) == keys
        assert [loss.rise for loss in losses] == sorted((loss.rise for loss in losses), reverse=True)
        for loss in losses:
            before, now = np.array(expected[loss.task, loss.label]).T
            np.testing.assert_allclose([loss.before, loss.now], [before.mean(), now.mean()])
            np.testing.assert_allclose(loss.rise, (now - before).mean())
            np.testing.assert_allclose(loss.p95, np.percentile(now - before, 95))
            assert loss.worse == np.mean(now > before)
            assert loss.samples == len(before)
    rises = sorted((now - before for (_, label), rows in expected.items() if label is None for before, now in rows))
    np.testing.assert_allclose([lost.now - lost.before for lost in report.lost], rises[::-1][:12])


def test_the_lead_names_the_worst_and_no_mean(tracker):
    report = run_report(tracker, names={0: "cats", 1: "dogs"})
    worst = report.tasks[0]
    called = {0: "0 (cats)", 1: "1 (dogs)"}[worst.task]
    assert report.lead().startswith(f"Task {called} was forgotten most: since it was learned, its error rose from ")
    page = report.html().partition("</h1>")[2].lstrip()
    assert page.startswith(f'<p class="lead">Task {called} was forgotten most')
    assert report.table().splitlines()[0] == report.lead()
    assert page.index("By task, the worst first") < page.index("By class") < page.index("most forgotten samples")
    assert page.index("most forgotten samples") < page.index("What the buffer keeps") < page.index("Settings")


def test_before_the_second_task_and_where_nothing_was_forgotten():
    assert run_report(ForgettingTracker()).lead() == "No task has ended yet."
    assert run_report(run(1)).lead() == "Task 0 was learned; nothing of it can be forgotten yet."
    better = ForgettingTracker(probe_size=40)
    for task in range(2):
        source = TaskSource([data(task)])
        better.end_task(source, denoiser=shrinking(3.0 - 2.5 * task))
    report = run_report(better)
    assert report.lead().startswith("Nothing was forgotten: even of task 0, the worst, the error went from ")
    assert "most forgotten samples" not in report.html()
    for empty in (ForgettingTracker(), run(1), better):
        Tags(run_report(empty).html().partition("<body>")[2].partition("</body>")[0])


def test_energies_alone_are_said_to_be_all_there_is():
    report = run_report(run(errors=False, buffer=False))
    assert report.measure == "intrinsic"
    assert "told by the energies alone" in " ".join(report.warnings)
    assert "What the buffer keeps" not in report.html()


def test_a_forecast_is_compared_with_what_came(tracker):
    old, new = data(0)[0], data(1)[0]
    predicted = forecast(old, new, capacities=(5,))
    probe = tracker.history[1].probes[0]
    order = [int(i) & ((1 << 39) - 1) for i in probe.ids]
    rises = (probe.error - probe.error_start).mean(1).numpy()
    (outcome,) = run_report(tracker, forecasts={0: predicted}).outcomes
    mine = predicted.rises.numpy()[order]
    np.testing.assert_allclose(outcome.rank.estimate, spearmanr(mine, rises).statistic)
    top = np.argsort(-mine, kind="stable")[:4]
    np.testing.assert_allclose(outcome.at_risk, rises[top].mean())
    np.testing.assert_allclose(outcome.others, np.delete(rises, top).mean())
    (same,) = run_report(tracker, forecasts={0: torch.from_numpy(mine)}).outcomes
    assert same.rank.estimate == outcome.rank.estimate
    assert "Forecast against outcome" in run_report(tracker, forecasts={0: predicted}).html()
    report = run_report(tracker, forecasts={0: torch.rand(7), 2: predicted})
    assert not report.outcomes
    assert "The forecast of task 0 is of 7 samples" in report.warnings[-2]
    assert "Nothing was measured of task 2 after task 3" in report.warnings[-1]


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(tracker):
    report = run_report(
        tracker, title=HOSTILE, names={0: HOSTILE, 2: HOSTILE}, settings={HOSTILE: HOSTILE}, warnings=[HOSTILE]
    )
    page = report.html()
    tags = Tags(page.partition("<body>")[2].partition("</body>")[0])
    assert not tags.names & {"script", "iframe", "link", "object", "form"}
    assert {key for key, _ in tags.attributes} <= {"class", "style", "alt", "src"}
    assert set(re.findall(r'src="([^,]*),', page)) == {"data:image/png;base64"}
    assert not re.search(r"https?://|@import|url\(|onerror=y>", page.replace("&lt;img src=x onerror=y&gt;", ""))
    assert "Content-Security-Policy" in page
    assert "prefers-color-scheme: dark" in page
    assert "\x1b" not in page
    assert page.count("<img") == 3 * 12 + 9  # the most forgotten before and after, and the buffer
    assert VOID


def test_it_is_written_as_a_page_and_as_json(tracker, tmp_path):
    report = run_report(tracker)
    page = report.write(tmp_path / "new")
    assert page == tmp_path / "new" / "report.html"
    assert page.read_text() == report.html()
    told = json.loads((tmp_path / "new" / "report.json").read_text())
    assert told == report.to_dict()
    assert told["worst"] == report.lead()
    assert [row["after_task"] for row in told["history"]] == [0, 1, 1, 2, 2, 2]
    assert {"policy", "capacity", "beta", "probe_size"} - set(told["settings"]) <= {"probe_size"}
    assert repr(report) == f"RunReport(3 tasks: {report.lead()})"
    Tags(report._repr_html_())


def test_what_is_no_run_is_refused():
    with pytest.raises(TypeError, match="run must be a ForgettingTracker, or have one, got dict"):
        run_report({})
    monitor = run(2, kind=ForgettingMonitor)
    assert run_report(monitor).lead() == run_report(monitor.tracker).lead()


class TestFiles:
    def test_a_state_a_checkpoint_and_a_history_tell_the_same(self, tracker, tmp_path):
        expected = run_report(tracker)
        torch.save(tracker.state_dict(), tmp_path / "state.pt")
        torch.save({"state_dict": {}, "callbacks": {"ForgettingMonitor": tracker.state_dict()}}, tmp_path / "last.ckpt")
        torch.save(tracker.history, tmp_path / "records.pt")
        for name in ("state.pt", "last.ckpt"):
            found = run_from_file(tmp_path / name)
            assert found.tasks == expected.tasks
            assert found.classes == expected.classes
            assert found.kept == expected.kept
            assert found.html().count("<img") == expected.html().count("<img")
            assert found.settings["policy"] == expected.settings["policy"]
        found = run_from_file(tmp_path / "records.pt")
        assert found.tasks == expected.tasks  # samples, and so their classes, are in no record
        assert found.classes == ()

    def test_what_is_no_file_of_a_run_is_named(self, tracker, tmp_path):
        (tmp_path / "text.pt").write_text("no")
        torch.save({"state_dict": {}}, tmp_path / "plain.ckpt")
        torch.save([tracker.state_dict(), tracker.state_dict()], tmp_path / "two.pt")
        torch.save({**tracker.state_dict(), "probes": 3}, tmp_path / "broken.pt")
        for name, message in (
            ("text.pt", "was not opened"),
            ("plain.ckpt", "holds no run; give a checkpoint of a run with one ForgettingMonitor"),
            ("two.pt", "holds 2 runs"),
            ("broken.pt", "holds a damaged run"),
        ):
            with pytest.raises(ValueError, match=message):
                run_from_file(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="is no file"):
            run_from_file(tmp_path / "none.pt")

    def test_folders_are_searched_and_the_newest_whole_file_counts(self, tracker, tmp_path):
        for place in ("none", "random/checkpoints", "random/other"):
            (tmp_path / place).mkdir(parents=True)
        torch.save(tracker.state_dict(), tmp_path / "none/history.pt")
        torch.save(tracker.state_dict(), tmp_path / "random/checkpoints/a.ckpt")
        (tmp_path / "random/checkpoints/torn.ckpt").write_text("half")
        torch.save({"state_dict": {}}, tmp_path / "random/other/weights.ckpt")
        found = [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path)]
        assert found == ["none/history.pt", "random/checkpoints/a.ckpt"]


class TestCommand:
    def test_a_folder_of_runs(self, tracker, tmp_path, capsys):
        for place in ("a", "b"):
            (tmp_path / place).mkdir()
            torch.save(tracker.state_dict(), tmp_path / place / "history.pt")
        assert main(["report", str(tmp_path), "--names", "cats", "dogs", "birds"]) == 0
        printed = capsys.readouterr().out
        assert printed.count("Task 1 (dogs) was forgotten most") == 2
        assert all((tmp_path / place / "report.html").exists() for place in ("a", "b"))
        assert main(["report", str(tmp_path), "--output-dir", str(tmp_path / "c")]) == 2
        assert "holds 2 runs" in capsys.readouterr().err

    def test_one_file_with_a_forecast(self, tracker, tmp_path, capsys):
        torch.save(tracker.state_dict(), tmp_path / "history.pt")
        predicted = forecast(data(0)[0], data(1)[0], capacities=(5,))
        (tmp_path / "forecast.json").write_text(json.dumps(predicted.to_dict()))
        options = [
            "--forecast",
            f"0:{tmp_path}/forecast.json",
            "--output-dir",
            str(tmp_path / "out"),
            "--title",
            "Mine",
        ]
        assert main(["report", str(tmp_path / "history.pt"), *options, "--quiet"]) == 0
        assert capsys.readouterr().out == ""
        page = (tmp_path / "out/report.html").read_text()
        assert "<title>Mine</title>" in page
        assert "Forecast against outcome" in page

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["{}/missing"], "is neither a file nor a folder"),
            (["{}"], "holds no run"),
            (["{}/text.pt"], "was not opened"),
            (["{}/history.pt", "--forecast", "forecast.json"], "is no TASK:FILE"),
            (["{}/history.pt", "--forecast", "0:{}/text.pt"], "is no forecast.json"),
            (["{}/history.pt", "--forecast", "0:{}/nested.json"], "is no forecast.json"),
        ],
    )
    def test_bad_input_is_code_2_in_one_line(self, tracker, tmp_path, capsys, arguments, message):
        folder = tmp_path / "empty"
        folder.mkdir()
        if "{}" not in arguments:
            torch.save(tracker.state_dict(), folder / "history.pt")
            (folder / "text.pt").write_text("no")
            (folder / "nested.json").write_text('{"rises": [[1.0]]}')
        assert main(["report", *(argument.replace("{}", str(folder)) for argument in arguments)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
