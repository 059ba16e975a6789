import copy

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from hopfield_replay import EnergyReplayBuffer, ReplayDataModule, ReplayLoader
from tests.lightning.small import Foreign, WithValidation, loader, trainer
from tests.lightning.test_replay_loader import filled, replayed_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
]


class Data(LightningDataModule):
    """A datamodule with validation data, state and a log of what was called."""

    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.calls = []
        self.flavour = "sweet"

    def prepare_data(self):
        self.calls.append(("prepare_data", None))

    def setup(self, stage):
        self.calls.append(("setup", stage))

    def teardown(self, stage):
        self.calls.append(("teardown", stage))

    def train_dataloader(self):
        assert self.trainer is not None  # the wrapped datamodule knows the trainer, too
        self.calls.append(("train_dataloader", None))
        return loader()

    def val_dataloader(self):
        return loader(task=1, n=5)

    def test_dataloader(self):
        return loader(task=2, n=3)

    def predict_dataloader(self):
        return loader(task=3, n=2)

    def state_dict(self):
        return {"calls": len(self.calls)}

    def load_state_dict(self, state):
        self.restored = state


def wrap(data, buffer=None, **settings):
    return ReplayDataModule(data, filled("dict") if buffer is None else buffer, **settings)


def test_training_batches_carry_replay_and_the_rest_is_the_wrapped_datamodules():
    class Module(WithValidation):
        sizes = ()

        def validation_step(self, batch, batch_idx):
            self.sizes = (*self.sizes, len(batch["image"]))
            return batch["image"]

        test_step = predict_step = validation_step

    data, module, runner = Data(), Module(), trainer(max_epochs=1)
    wrapped = wrap(data, replay_ratio=0.5)
    runner.fit(module, wrapped)
    assert replayed_of(module) == [4, 4, 4]
    assert module.sizes == (4, 1)  # validation data has no replay
    assert data.calls == [
        ("prepare_data", None), ("setup", "fit"), ("train_dataloader", None), ("teardown", "fit"),
    ]  # fmt: skip
    for run in (runner.test, runner.predict):
        run(module, wrapped)
    assert module.sizes == (4, 1, 3, 2)


def test_state_and_hyperparameters_are_in_the_checkpoint(tmp_path):
    data, runner = Data(width=5), trainer(max_epochs=1)
    runner.fit(WithValidation(), wrap(data))
    runner.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["datamodule_hyper_parameters"] == {"width": 5}
    again = Data()
    trainer(max_epochs=2).fit(WithValidation(), wrap(again), ckpt_path=tmp_path / "a.ckpt")
    assert again.restored == {"calls": 4}


class Transfers:
    """Notes the batch transfer hooks that run."""

    def __init__(self):
        super().__init__()
        self.hooks = []

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.hooks.append("before")
        return batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.hooks.append("transfer")
        return {name: value.to(device) for name, value in batch.items()}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.hooks.append("after")
        return batch


class TransferModule(Transfers, Foreign):
    pass


class Plain(LightningDataModule):
    def train_dataloader(self):
        return loader()


class TransferData(Transfers, Plain):
    pass


def test_it_shows_what_it_wraps_and_replays():
    shown = repr(wrap(Data(), EnergyReplayBuffer(2, "random"), replay_ratio=0.25))
    assert shown.startswith("ReplayDataModule(Data, EnergyReplayBuffer(")
    assert shown.endswith("replay_ratio=0.25)")


@pytest.mark.filterwarnings("ignore:You have overridden .* in `LightningModule`")  # lightning says which hook runs
def test_the_modules_transfer_hooks_run_when_the_datamodule_has_none():
    module = TransferModule()
    trainer(max_epochs=1).fit(module, wrap(Plain()))
    assert module.hooks == ["before", "transfer", "after"] * 3


@pytest.mark.filterwarnings("ignore:You have overridden .* in both")  # lightning says which hook runs
def test_the_datamodules_transfer_hooks_win_when_it_has_them():
    # as without a wrapper: "a datamodule's hook overrides the module's"
    module, data = TransferModule(), TransferData()
    trainer(max_epochs=1).fit(module, wrap(data))
    assert data.hooks == ["before", "transfer", "after"] * 3
    assert module.hooks == []


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")  # lightning, with any such datamodule
def test_no_validation_data_under_a_module_with_a_validation_step(wrapped):
    data, module = Plain(), WithValidation()
    trainer(max_epochs=1, num_sanity_val_steps=2).fit(module, wrap(data) if wrapped else data)
    assert len(module.seen) == 3
    assert not is_overridden("val_dataloader", wrap(data))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_a_single_loader():
    module = WithValidation()
    trainer(max_epochs=1).fit(module, wrap(loader()))
    assert replayed_of(module) == [4, 4, 4]


def test_the_loader_has_the_ratio_the_seed_and_the_buffer():
    buffer = filled("dict")
    loaded = ReplayDataModule(loader(), buffer, replay_ratio=0.25, seed=4).train_dataloader()
    assert isinstance(loaded, ReplayLoader)
    assert (loaded.stream.replay_ratio, loaded.stream.seed) == (0.25, 4)
    assert loaded.stream.buffer is buffer


def test_attributes_are_the_wrapped_datamodules():
    data = wrap(Data(width=8))
    assert data.flavour == "sweet"
    assert data.hparams.width == 8
    with pytest.raises(AttributeError, match="'Data' object has no attribute 'colour'"):
        _ = data.colour


def test_a_copy_is_independent():
    data = wrap(Data())
    other = copy.deepcopy(data)
    other.wrapped.flavour = "sour"
    other.setup("fit")
    assert data.flavour == "sweet"
    assert data.wrapped.calls == []
    assert other.wrapped.calls == [("setup", "fit")]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, EnergyReplayBuffer(2)), TypeError, "must be a LightningDataModule or a loader, got int"),
        ((loader(), 5), TypeError, "must be an EnergyReplayBuffer or None, got int"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        ReplayDataModule(*arguments)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 50])
def test_ratio_is_checked_at_once(ratio):
    with pytest.raises(ValueError, match=r"replay_ratio must lie in \(0, 1\)"):
        wrap(loader(), replay_ratio=ratio)


def test_a_buffer_without_room():
    with pytest.raises(ValueError, match=r"capacity must be at least 1, got 0. For no replay, use no buffer"):
        EnergyReplayBuffer(0)
