"""The numbers of a record against literal means, and the lines of the table."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hopfield_replay.tracker.record import BoundaryRecord, ProbeRecord
from hopfield_replay.tracker.summary import overall, summarize
from hopfield_replay.tracker.table import forgetting_table, history_frame
from hopfield_replay.tracker.worst import worst_sentence, worst_task


def probe(task, n, seed, errors=True):
    rng = np.random.default_rng(seed)
    entry = {"task": task, "ids": torch.arange(n), "stored": torch.zeros(n, dtype=torch.bool)}
    for name in ("energy", "energy_before", "energy_start"):
        entry[name] = torch.from_numpy(rng.normal(size=n))
    for name in ("error", "error_before", "error_start"):
        entry[name] = torch.from_numpy(rng.uniform(size=(n, 3))) if errors else None
    entry["density"] = torch.from_numpy(rng.uniform(size=n))
    for name in ("model_energy", "model_energy_start"):
        entry[name] = torch.from_numpy(rng.normal(size=n)) if errors else None
    return entry


def boundary(task, *probes):
    numbers = {"beta": 1.0, "n_eff": 5.0, "replay_ratio": 0.0, "replayed": 0, "seconds": 1.0}
    return BoundaryRecord.of({"task": task, "timesteps": [1, 2, 3], "probes": list(probes), **numbers})


def test_summary():
    entries = [probe(0, 41, 0), probe(1, 7, 1)]
    for row, entry in zip(summarize(boundary(1, *entries)), entries, strict=True):
        numbers = {key: value.numpy() for key, value in entry.items() if isinstance(value, torch.Tensor)}
        rise = np.array([np.mean(numbers["error"][i] - numbers["error_start"][i]) for i in range(len(entry["ids"]))])
        expected = {
            "task": entry["task"],
            "probes": len(entry["ids"]),
            "intrinsic": np.mean(numbers["energy"] - numbers["energy_start"]),
            "intrinsic_boundary": np.mean(numbers["energy"] - numbers["energy_before"]),
            "energy": np.mean(numbers["energy"]),
            "reconstruction": np.mean(rise),
            "reconstruction_p95": np.percentile(rise, 95),
            "reconstruction_by_timestep": (numbers["error"] - numbers["error_start"]).sum(0) / len(rise),
            "error": np.mean(numbers["error"]),
            "model_energy": np.mean(numbers["model_energy"] - numbers["model_energy_start"]),
            **dict.fromkeys(("loss", "loss_forgetting")),
            **dict.fromkeys(("spearman_energy", "spearman_rise", "spearman_rise_at_density")),
        }
        if entry["task"] == 0:  # correlations belong to earlier tasks
            gain, density = numbers["energy"] - numbers["energy_start"], numbers["density"]
            xy, xz, yz = (spearmanr(a, b).statistic for a, b in ((gain, rise), (gain, density), (rise, density)))
            expected["spearman_energy"] = spearmanr(numbers["energy_start"], rise).statistic
            expected["spearman_rise"] = xy
            expected["spearman_rise_at_density"] = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
        assert row.keys() == expected.keys()
        for key in [key for key, value in expected.items() if value is None]:
            assert row[key] is None
            del expected[key]
        for key, value in expected.items():
            np.testing.assert_allclose(row[key], value, rtol=1e-12, err_msg=key)


def test_without_a_denoiser():
    (row,) = summarize(boundary(0, probe(0, 5, 0, errors=False)))
    assert row["reconstruction"] is row["reconstruction_p95"] is row["error"] is None


def test_a_denoiser_that_came_later_has_errors_but_no_rise():
    entry = {**probe(0, 5, 0), "error_start": None}
    assert ProbeRecord.from_dict(entry).reconstruction is None
    (row,) = summarize(boundary(1, entry))
    assert row["reconstruction"] is None
    np.testing.assert_allclose(row["error"], float(entry["error"].mean()))


def test_table_has_a_line_for_each_task_after_each_task():
    history = [
        boundary(0, probe(0, 5, 0)),
        boundary(1, probe(0, 5, 1), probe(1, 6, 2, errors=False)),
    ]
    head, names, *lines, worst = forgetting_table(history).split("\n")
    assert "intrinsic" in head
    assert "forgetting" in names
    assert len({len(line) for line in (names, *lines)}) == 1  # columns are aligned
    assert len(names) <= 80  # a terminal's width
    rise, error = summarize(history[1])[0]["reconstruction"], summarize(history[1])[0]["error"]
    change = f"reconstruction forgetting {rise:.4g} (error {error - rise:.4g} -> {error:.4g})"
    assert worst == f"worst after task 1: task 0, {change}"
    assert [line.split()[:3] for line in lines] == [["0", "0", "5"], ["1", "0", "5"], ["1", "1", "6"]]
    expected = summarize(history[1])[0]
    words = [f"{expected[key]:.4g}" for key in ("intrinsic", "reconstruction", "reconstruction_p95", "error")]
    assert lines[1].split()[3:] == words
    assert lines[2].split()[4:] == ["-", "-", "-"]
    assert forgetting_table([]) == "No task has ended yet."


def test_the_worst_task_is_named_and_no_mean_hides_it():
    entries = [probe(task, 40, task, errors=False) for task in range(4)]
    for entry, rise in zip(entries, (0.1, 0.9, 0.2, 5.0), strict=True):  # the newest task cannot be forgotten yet
        entry["energy"] = entry["energy_start"] + rise
    record = boundary(3, *entries)
    assert worst_task(record)["task"] == 1
    assert worst_sentence(record).startswith("worst after task 3: task 1, intrinsic forgetting 0.9 (energy ")
    assert worst_sentence(boundary(0, entries[0])) is None


def test_overall_counts_every_followed_sample_once():
    entries = [probe(0, 41, 0), probe(1, 7, 1), probe(2, 9, 2)]
    numbers = overall(boundary(2, *entries))
    both = [{key: value.numpy() for key, value in e.items() if isinstance(value, torch.Tensor)} for e in entries[:2]]
    rises = [one for e in both for one in (e["error"] - e["error_start"]).mean(1)]
    assert len(rises) == 48
    np.testing.assert_allclose(numbers["reconstruction"], np.mean(rises), rtol=1e-12)
    np.testing.assert_allclose(numbers["reconstruction_p95"], np.percentile(rises, 95), rtol=1e-12)
    intrinsic = [one for e in both for one in e["energy"] - e["energy_start"]]
    np.testing.assert_allclose(numbers["intrinsic"], np.mean(intrinsic), rtol=1e-12)
    assert overall(boundary(0, entries[0])) == {}


def test_of_a_long_history_the_table_shows_the_end():
    history = [boundary(task, *(probe(t, 5, 10 * task + t) for t in range(task + 1))) for task in range(10)]
    table = forgetting_table(history)
    lines = table.split("\n")
    assert [line.split()[:2] for line in lines[2:12]] == [["9", str(task)] for task in range(10)]
    assert lines[-1] == "(after the last of 10 tasks; history_frame() has all)"
    assert repr(table) == str(table)
    markup = table._repr_html_()
    assert markup.count("<tr>") == 11
    assert "worst after task 9" in markup


def test_a_frame_has_a_row_for_each_probe_set_and_on_request_for_each_sample():
    history = [boundary(0, probe(0, 5, 0)), boundary(1, probe(0, 5, 1), probe(1, 6, 2, errors=False))]
    frame = history_frame(history)
    assert frame[["after_task", "task", "probes"]].to_numpy().tolist() == [[0, 0, 5], [1, 0, 5], [1, 1, 6]]
    rows = [row for record in history for row in summarize(record)]
    for name in ("intrinsic", "reconstruction", "reconstruction_p95", "error", "spearman_rise"):
        expected = [np.nan if row[name] is None else row[name] for row in rows]
        np.testing.assert_array_equal(frame[name].to_numpy(dtype=float), expected)
    samples = history_frame(history, samples=True)
    assert samples.groupby(["after_task", "task"]).size().tolist() == [5, 5, 6]
    last = history[1].probes[0]
    mine = samples[(samples.after_task == 1) & (samples.task == 0)]
    np.testing.assert_array_equal(mine.id, last.ids.numpy())
    np.testing.assert_array_equal(mine.intrinsic, (last.energy - last.energy_start).numpy())
    np.testing.assert_array_equal(mine.reconstruction, (last.error - last.error_start).numpy().mean(1))
    assert samples[samples.task == 1].reconstruction.isna().all()
    assert history_frame([]).empty
    assert history_frame([], samples=True).empty


def test_a_frame_without_pandas(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install \"hopfield-replay\[pandas\]\""):
        history_frame([])
