"""Avalanche's own replay tests, on our classes and beside them."""

import importlib.util
import sys
import unittest
import warnings
from pathlib import Path

import pytest

avalanche = pytest.importorskip("avalanche", reason="needs avalanche-lib")

from hopfield_replay.avalanche import EnergyPrioritizedBuffer, EnergySelectionStrategy  # noqa: E402

pytestmark = pytest.mark.heavy

UPSTREAM = Path(avalanche.__file__).parent.parent / "tests"
FILES = {"tests.unit_tests_utils": "unit_tests_utils.py", "upstream_replay": "training/test_replay.py"}


@pytest.fixture(scope="module")
def upstream():
    """The module tests/training/test_replay.py of avalanche's wheel."""
    if not all((UPSTREAM / file).is_file() for file in FILES.values()):
        pytest.skip(f"this avalanche does not ship its tests in {UPSTREAM}")
    before = sys.modules.get("tests.unit_tests_utils")
    try:
        for name, file in FILES.items():  # the first is imported by the second, under this name
            spec = importlib.util.spec_from_file_location(name, UPSTREAM / file)
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
    finally:
        del sys.modules["tests.unit_tests_utils"], sys.modules["upstream_replay"]
        if before is not None:
            sys.modules["tests.unit_tests_utils"] = before
    return module


@pytest.fixture(autouse=True)
def _upstream_warns():
    """Upstream's tests print evaluations, and warn of evaluators without loggers and of their own deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def passes(case: unittest.TestCase) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([case]).run(result)
    assert result.testsRun == 1
    assert result.wasSuccessful(), result.failures + result.errors


@pytest.mark.parametrize("groups", [None, "task", "label"])
@pytest.mark.parametrize("policy", ["greedy_gain", "high_energy", "random"])
class TestReplayTest:
    """ReplayTest with our storage policy in place of the stock ones."""

    def test_replay_balanced_memory(self, upstream, policy, groups, capsys):
        upstream.ReplayTest()._test_replay_balanced_memory(EnergyPrioritizedBuffer(25, policy, groups=groups), 25)

    def test_balancing(self, upstream, policy, groups):
        upstream.ReplayTest().assert_balancing(EnergyPrioritizedBuffer(100, policy, groups=groups))

    def test_flattening(self, upstream, policy, groups):
        benchmark = upstream.get_fast_benchmark(use_task_labels=True)
        storage_policy = EnergyPrioritizedBuffer(100, policy, groups=groups)
        depths = set()
        for experience in benchmark.train_stream:
            storage_policy.update_from_dataset(experience.dataset)
            depths.add(upstream._flatdata_depth(storage_policy.buffer._flat_data))
        assert len(depths) == 1


@pytest.mark.parametrize("groupby", [None, "class", "task", "experience"])
@pytest.mark.parametrize("policy", ["greedy_gain", "high_energy"])
def test_parametric_buffer_test(upstream, policy, groupby):
    """ParametricBufferTest, whose strategies are mocks, with our selection strategy in the stock buffer."""
    case = upstream.ParametricBufferTest()
    case.setUp()
    buffer = upstream.ParametricBuffer(
        10, groupby=groupby, selection_strategy=EnergySelectionStrategy(policy, limit=10)
    )
    case._test_policy(buffer)
    assert len(buffer.buffer) == 10


@pytest.mark.parametrize("groups", [None, "task", "label"])
def test_storage_policy_takes_the_mocks_of_parametric_buffer_test(upstream, groups):
    case = upstream.ParametricBufferTest()
    case.setUp()
    policy = EnergyPrioritizedBuffer(10, groups=groups)
    case._test_policy(policy)
    assert len(policy.buffer) == 10


def test_the_whole_file_still_passes_beside_our_package(upstream, capsys):
    suite = unittest.defaultTestLoader.loadTestsFromModule(upstream)
    names = [test.id() for group in suite for test in group]
    assert len(names) == 6
    for group in suite:
        for test in group:
            passes(test)
