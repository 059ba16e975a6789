"""Under DDP what is measured and kept is what all processes were trained on together."""

import pytest
import torch

from tests.lightning.run_ddp_data import LOADERS
from tests.lightning.two_processes import results_of

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    return results_of("run_ddp_data", folder, timeout=400)


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.heavy
def test_trained_on_in_any_process_is_measured_kept_and_replayed(ranks, name):
    first, second = (rank[name] for rank in ranks)
    trained = {*first["trained"][0], *second["trained"][0]}
    assert set(first["measured"]) == trained
    assert first["measured"] == second["measured"]
    assert torch.equal(first["ids"], second["ids"])
    kept = {label for label in first["kept"] if label < 10**7}
    assert kept
    assert kept <= trained
    assert first["belong"]
    assert second["belong"]
    replayed = {label for rank in (first, second) for label in rank["trained"][1] if label < 10**7}
    assert replayed
    assert replayed <= trained
