"""The script for a lent GPU runs to its end without one, and a part that is cut loses nothing else."""

import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks import on_gpu

DATA = next((path for path in on_gpu._DATA if (path / "cifar10").exists()), None)


@pytest.mark.slow
def test_a_part_that_is_cut_leaves_what_it_wrote(tmp_path):
    kept = tmp_path / "kept.md"
    code = f"import time; open({str(kept)!r}, 'w').write('| so far |'); print('begun', flush=True); time.sleep(60)"
    result = on_gpu.run(
        on_gpu.Part("a, b", [sys.executable, "-c", code], 1.0, [kept, tmp_path / "never"]), 5.0, tmp_path
    )
    assert result.status == "stopped after 5 s"
    assert result.output == "begun\n"
    assert result.files == {"kept.md": "| so far |"}
    on_gpu.write(tmp_path, "here", [result])
    assert json.loads((tmp_path / "results.json").read_text())["parts"][0]["status"] == result.status
    assert "| a, b | stopped after 5 s |" in (tmp_path / "results.md").read_text()
    assert "| so far |" in (tmp_path / "results.md").read_text()


def test_a_part_that_fails_says_so(tmp_path):
    result = on_gpu.run(on_gpu.Part("a", [sys.executable, "-c", "import no_such_module"], 1.0), 60.0, tmp_path)
    assert result.status == "exit code 1"
    assert "no_such_module" in result.output


def test_the_tests_that_need_a_gpu_are_found():
    assert {Path(name).name for name in on_gpu.gpu_tests(False)} >= {
        "test_fused.py",
        "test_split.py",
        "test_split_nearest.py",
        "test_split_search.py",
        "test_steering.py",
    }


@pytest.mark.heavy
@pytest.mark.skipif(DATA is None, reason="needs CIFAR-10 and MNIST")
def test_to_its_end_on_the_cpu(tmp_path, monkeypatch):
    arguments = ["--device", "cpu", "--scale", "tiny", "--minutes", "30", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", *arguments, "--data-dir", str(DATA)])
    on_gpu.main()
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert {part["name"]: part["status"] for part in parts} == dict.fromkeys((part["name"] for part in parts), "done")
    assert len(parts) == 6
