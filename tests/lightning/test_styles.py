"""Any diffusion LightningModule, unchanged: what is measured is its own error, or a warning says why there is none."""

import re
import warnings

import pytest
import torch
from lightning.pytorch import seed_everything

from hopfield_replay import ForgettingMonitor, fit_tasks
from hopfield_replay.functional._paired_noise import paired_noise
from tests.lightning import strangers, styles
from tests.lightning.small import trainer
from tests.lightning.styles import Images, loader

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:.*returned None"),  # lightning; one style gives no loss
    pytest.mark.filterwarnings("ignore:.*have no logger configured"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]


MEASURED = [*styles.MEASURED, *strangers.MEASURED]
UNMEASURED = [*styles.UNMEASURED, *strangers.UNMEASURED]


def run(style, *, lr=0.05, tasks=2, **settings):
    """Train tasks, and return the module, the history and the warnings."""
    torch.manual_seed(1)
    module = style()
    module.lr = lr
    settings = {**style.settings, **settings}
    monitor = ForgettingMonitor(probe_size=6, loss_draws=8, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_tasks(trainer(monitor, max_epochs=1), module, [loader(task, style) for task in range(tasks)])
    told = [str(warning.message) for warning in caught if "ours" in str(warning.message) or "denoiser" in str(warning)]
    return module, monitor, told


def samples(style, task, ids):
    data = Images(task, style.form, style.shape)
    where = ids - (task << 40)
    x = torch.stack([data.images[i] for i in where])
    y = data.labels[where]
    if style.form == "hwc":
        x = x.movedim(1, -1)
    if style.form == "two images":
        y = torch.stack([data[i]["low"] for i in where])
    return x, y


@pytest.mark.parametrize("style", MEASURED, ids=lambda style: style.__name__)
class TestMeasured:
    def test_errors_are_those_by_hand(self, style):
        module, monitor, told = run(style)
        assert told == []
        last = monitor.history[-1]
        assert last.trust.startswith(style.level)
        module.eval()
        for probe in last.probes:
            x, y = samples(style, probe.task, probe.ids)
            for column, t in enumerate(last.timesteps):
                with torch.no_grad():
                    like = noise_like(module, x)
                    noise = paired_noise(like, probe.ids.tolist(), t, 0)
                    expected = module.by_hand(x, y, noise, t)
                torch.testing.assert_close(probe.error[:, column], expected, rtol=2e-3, atol=1e-5)
        forgotten = last.probes[0].reconstruction
        assert bool((forgotten != 0).all())

    def test_without_learning_nothing_is_forgotten(self, style):
        _, monitor, _ = run(style, lr=0.0)
        for probe in monitor.history[-1].probes:
            assert bool((probe.error_rises == 0).all())


def noise_like(module, x):
    """Something of the shape of what the network denoises."""
    shapes = {"TextToImage": (4, 4, 4), "VQLatents": (2, 4, 4), "Crops": (1, 6, 6), "LatentDiffusionDDPM": (1, 8, 8)}
    return torch.empty(len(x), *shapes.get(type(module).__name__, x.shape[1:]))


@pytest.mark.parametrize("style", UNMEASURED, ids=lambda style: style.__name__)
class TestUnmeasured:
    def test_a_warning_says_why(self, style):
        _, monitor, told = run(style)
        assert len(told) == 1
        assert re.search(style.warns, told[0])
        assert monitor.history[-1].trust == style.level
        for probe in monitor.history[-1].probes:
            assert probe.error is None
            assert (probe.loss is None) == (style.level == "energies only")

    def test_without_learning_nothing_is_forgotten(self, style):
        if style.level == "energies only":
            pytest.skip("nothing is measured of the model")
        _, monitor, _ = run(style, lr=0.0)
        for probe in monitor.history[-1].probes:
            assert bool((probe.loss_forgetting == 0).all())


@pytest.mark.parametrize("style", [*MEASURED, *UNMEASURED], ids=lambda style: style.__name__)
def test_training_is_the_same_without_the_monitor(style):
    """Bit by bit: what the witness and the measurements do leaves no trace in the weights, buffers or random state."""

    def weights(*callbacks):
        seed_everything(1, verbose=False)
        module = style()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit_tasks(
                trainer(*callbacks, max_epochs=1), module, [loader(task, style, shuffle=True) for task in range(2)]
            )
        held = {name: vars(module).get(name) for name in ("count", "seen", "hist")}
        return module.state_dict(), torch.get_rng_state(), held

    (alone, state, own), (watched, same_state, same) = (
        weights(),
        weights(ForgettingMonitor(probe_size=4, loss_draws=2, **style.settings)),
    )
    assert alone.keys() == watched.keys()
    assert all(torch.equal(alone[name], watched[name]) for name in alone)
    assert torch.equal(state, same_state)
    assert str(own) == str(same)
