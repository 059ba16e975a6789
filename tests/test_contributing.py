"""What contributors are told is so: paths, rooms, and one set of checks here, in .ci/run and in the workflow."""

import re
from pathlib import Path

import pytest

from tests.test_house import LAYERS

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / ".github" / "CONTRIBUTING.md"
CHECKS = ["ruff check .", "ruff format --check .", "mypy"]


def test_the_rooms_are_those_that_are_checked():
    block = re.search(r"^```\n(utilities\n.*?)```$", GUIDE.read_text(), re.M | re.S)[1]
    rooms = [set(re.split(r" {4,}", line)[0].split()) for line in block.splitlines()]
    assert rooms == [set(line.split()) for line in LAYERS if line != "__about__"]


def test_paths_exist():
    for path in re.findall(r"`((?:tests|examples|hopfield_replay)/[\w./]+)`", GUIDE.read_text()):
        if "your_" not in path:
            assert (ROOT / path).exists(), path


def test_ci_runs_the_same_checks_everywhere():
    yaml = pytest.importorskip("yaml")
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("not in a checkout")
    ran = re.findall(r'^run "([^"$]+)"', script.read_text(), re.M)
    assert ran == CHECKS
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert [step["run"] for step in jobs["lint"]["steps"] if "run" in step][1:] == CHECKS
    command = re.search(r"<!-- the test command -->\n```bash\n(.*)\n", (ROOT / "README.md").read_text())[1]
    whole = [step["run"] for step in jobs["whole"]["steps"] if "run" in step]
    assert " && ".join(whole) + ' -m "not heavy"' == command
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[:2] for hook in hooks] == [["ruff", "check"], ["ruff", "format"], ["mypy"]]


def test_issue_templates_are_read():
    yaml = pytest.importorskip("yaml")
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    if not folder.exists():
        pytest.skip("not in a checkout")
    for path in folder.glob("*.yml"):
        content = yaml.safe_load(path.read_text())
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= set(content)
            assert all("label" in part["attributes"] for part in content["body"])
