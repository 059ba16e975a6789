"""Tasks under DeepSpeed's ZeRO in two processes: trained and measured as by one; what is refused says why."""

import pytest

from tests.lightning.run_fsdp import Diffusion
from tests.lightning.small import same
from tests.lightning.two_processes import (
    assert_errors_are_those_of_the_whole_model,
    assert_the_ledger_is_that_of_one_process,
    results_of,
)

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:.*could not be verified"),  # ours: the step calls the network without a time
]
pytest.importorskip("deepspeed", reason="DeepSpeed is not installed", exc_type=ImportError)


def two_processes(folder, stage):
    return results_of("run_deepspeed", folder, stage, DS_ACCELERATOR="cpu")


@pytest.fixture(scope="module", params=[1, 2])
def ranks(request, tmp_path_factory):
    return two_processes(tmp_path_factory.mktemp("zero"), request.param)


def test_all_processes_know_the_same(ranks):
    first, second = ranks
    assert same(first["history"], second["history"])
    assert same(first["weights"], second["weights"])
    assert same(*({k: v for k, v in rank["buffer"].items() if k != "generator"} for rank in ranks))


def test_errors_are_those_of_the_whole_model(ranks):
    module = Diffusion()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(ranks[0]["weights"])
    assert not same(before, ranks[0]["weights"])
    assert_errors_are_those_of_the_whole_model(ranks)


def test_the_ledger_is_that_of_one_process(ranks):
    assert_the_ledger_is_that_of_one_process(ranks)


def test_the_first_task_is_replayed_in_the_second(ranks):
    for rank in ranks:
        labels = [set(batch.tolist()) for batch in rank["seen"]]
        second = [seen for seen in labels if 1 in seen]
        assert second
        assert all(0 in seen for seen in second)


def test_checkpoints_are_folders(ranks):
    for rank in ranks:
        assert "OnTheCpu writes checkpoints as folders, which are never whole at one moment" in rank["folders"]


def test_split_weights_are_refused(tmp_path):
    for rank in two_processes(tmp_path, 3):
        assert "OnTheCpu at stage 3 splits the weights" in rank["refused"]
