"""The numbers of a record against literal means, and the lines of the table."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hopfield_replay.tracker.record import BoundaryRecord, ProbeRecord
from hopfield_replay.tracker.table import forgetting_table, history_frame, summarize


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
    head, *lines = forgetting_table(history).split("\n")
    assert "intrinsic forgetting" in head
    assert len({len(line) for line in (head, *lines)}) == 1  # columns are aligned
    assert [line.split()[:3] for line in lines] == [["0", "0", "5"], ["1", "0", "5"], ["1", "1", "6"]]
    expected = summarize(history[1])[0]
    words = [f"{expected[key]:.4g}" for key in ("intrinsic", "reconstruction", "reconstruction_p95", "error")]
    assert lines[1].split()[3:] == words
    assert lines[2].split()[4:] == ["-", "-", "-"]
    assert forgetting_table([]) == "No task has ended yet."


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
