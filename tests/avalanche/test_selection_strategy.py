"""EnergySelectionStrategy in the stock ParametricBuffer."""

import math

import pytest
import torch
from torch.utils.data import TensorDataset

from tests.avalanche.streams import QUIET, benchmark, data, naive, number

from avalanche.benchmarks.utils import make_avalanche_dataset  # isort: skip
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ParametricBuffer

from hopfield_replay.avalanche import EnergySelectionStrategy, selection_strategy

pytestmark = QUIET


def numpy_energies(x: torch.Tensor, beta: float):
    """Leave-one-out energies under the others, masses summing to 1, by a loop in float64."""
    x = x.double().numpy()
    result = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        terms = [-0.5 * beta * float(((x[i] - x[j]) ** 2).sum()) for j in others]
        peak = max(terms)
        total = sum(math.exp(term - peak) for term in terms)
        result.append(-(peak + math.log(total / len(others))) / beta)
    return result


def test_highest_leave_one_out_energy_first():
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    data_set = make_avalanche_dataset(TensorDataset(x))
    order = EnergySelectionStrategy("high_energy", beta=20.0).make_sorted_indices(None, data_set)
    energies = numpy_energies(x, 20.0)
    assert order == sorted(range(30), key=lambda i: -energies[i])


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:Call to deprecated function update:DeprecationWarning")  # by the stock plugin
@pytest.mark.parametrize("groupby", [None, "class", "task", "experience"])
def test_energies_are_computed_once_for_each_sample(monkeypatch, groupby):
    computed = []
    original = selection_strategy.energy
    monkeypatch.setattr(
        selection_strategy, "energy", lambda x, *a, **k: (computed.append(len(x)), original(x, *a, **k))[1]
    )
    selection = EnergySelectionStrategy("high_energy")
    buffer = ParametricBuffer(12, groupby=groupby, selection_strategy=selection)
    strategy = naive(ReplayPlugin(12, storage_policy=buffer))
    for experience in benchmark("task-aware", *data()).train_stream:
        strategy.train(experience)
    assert sum(computed) == 120
    assert len(buffer.buffer) == 12
    assert len(selection._known) <= 12 + 40  # what is kept and what the last experience offered


def test_energies_outlive_the_companions():
    """The kept samples' order stays that of their first energies, although most patterns are gone."""
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    everyone = make_avalanche_dataset(TensorDataset(x))
    selection = EnergySelectionStrategy("low_energy", beta=4.0)
    order = selection.make_sorted_indices(None, everyone)
    kept = everyone.subset(order[:10])
    assert selection.make_sorted_indices(None, kept) == list(range(10))
    assert selection.make_sorted_indices(None, kept.subset([3, 1])) == [1, 0]
    assert len(selection._known) == 2


def test_the_limit_orders_only_the_first():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(2))
    everyone = make_avalanche_dataset(TensorDataset(x))
    full = EnergySelectionStrategy("high_energy", beta=1.0).make_sorted_indices(None, everyone)
    short = EnergySelectionStrategy("high_energy", beta=1.0, limit=5).make_sorted_indices(None, everyone)
    assert short[:5] == full[:5]
    assert short[5:] == sorted(full[5:])


def test_identical_samples_are_all_ordered():
    everyone = make_avalanche_dataset(TensorDataset(torch.ones(4, 2)))
    assert sorted(EnergySelectionStrategy(beta=1.0).make_sorted_indices(None, everyone)) == [0, 1, 2, 3]


def test_one_sample_and_none():
    everyone = make_avalanche_dataset(TensorDataset(torch.ones(4, 2)))
    assert EnergySelectionStrategy().make_sorted_indices(None, everyone.subset([1])) == [0]
    assert EnergySelectionStrategy().make_sorted_indices(None, everyone.subset([])) == []


def test_classes_share_the_places():
    images, labels = data()
    buffer = ParametricBuffer(12, groupby="class", selection_strategy=EnergySelectionStrategy("random"))
    for experience in benchmark("task-aware", images, labels).train_stream:
        buffer.post_adapt(None, experience)
    kept = [number(group.buffer[i][0][None])[0] % 6 for group in buffer.buffer_groups.values() for i in range(2)]
    assert sorted(kept) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize(
    ("settings", "message"), [({"limit": 0}, "limit"), ({"policy": "x"}, "Unknown"), ({"beta": -1.0}, "beta")]
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EnergySelectionStrategy(**settings)


def test_samples_are_known_again_although_they_are_encoded_among_others():
    """An encoder's last digits depend on how many it encodes at a time."""
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    encoder = lambda batch: batch[0] * (1 + 1e-6 * len(batch[0]))  # noqa: E731
    selection = EnergySelectionStrategy("high_energy", beta=20.0, encoder=encoder)
    every = selection.make_sorted_indices(None, make_avalanche_dataset(TensorDataset(x)))
    few = sorted(every[:9])  # whose energies are those among all 30
    again = selection.make_sorted_indices(None, make_avalanche_dataset(TensorDataset(x[few])))
    assert [few[at] for at in again] == every[:9]
