"""What a model was trained on is what is measured, kept and replayed, whatever its loader does."""

import pytest
import torch
from torch.utils.data import DataLoader

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.small import trainer
from tests.lightning.streams import LOADERS, Indexed, Recorder, Shrink, crop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled"),  # lightning: it is what is tested
    pytest.mark.filterwarnings("ignore:.*persistent_workers"),
]


def check_kept(buffer, encode=lambda images: images.flatten(1)):
    """Of every kept sample the vector and the label are its own."""
    images, labels = buffer.gather(torch.arange(len(buffer)))[:2]
    torch.testing.assert_close(buffer.vectors, encode(images), rtol=0, atol=0)
    assert torch.equal(buffer.labels, labels)


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.filterwarnings("ignore:.*augment")  # ours, where data is random
def test_trained_on_is_measured_kept_and_replayed(name):
    make, settings = LOADERS[name]
    torch.manual_seed(0)
    buffer = EnergyReplayBuffer(8, "random", groups="task")
    monitor = ForgettingMonitor(buffer, beta=1.0, probe_size=10_000, timesteps=[1], denoiser=Shrink())
    module = Recorder()
    cropped = "crops" in name
    tasks = [make(), DataLoader(Indexed(24, 10**7, crop if cropped else (lambda image: image)), 6)]
    fit_tasks(trainer(monitor, **settings), module, [ReplayDataModule(t, buffer, replay_ratio=0.5) for t in tasks])
    trained = set(module.tasks[0])
    probe = monitor.tracker.probe(0)
    measured = set(probe["batch"][1].tolist())
    kept = {label for label in buffer.labels.tolist() if label < 10**7}
    replayed = {label for label in module.tasks[1] if label < 10**7}
    assert measured == trained
    assert kept
    assert kept <= trained
    assert replayed
    assert replayed <= trained
    torch.testing.assert_close(probe["vectors"], probe["batch"][0].flatten(1), rtol=0, atol=0)
    check_kept(buffer)
