"""EnergyPrioritizedBuffer: what it keeps, how the stock plugin sees it, and that its buffer is Lightning's."""

import gc
import weakref

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.policies import POLICIES
from tests.avalanche.streams import KINDS, QUIET, benchmark, data, model, naive, number, silent

from avalanche.benchmarks import nc_benchmark  # isort: skip
from avalanche.benchmarks.utils import make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.training.plugins import ReplayPlugin

from hopfield_replay.avalanche import Denoiser, EnergyPrioritizedBuffer, EnergyReplayPlugin, denoising_loss

pytestmark = QUIET


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = model()

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), lr=0.05)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])


@pytest.mark.heavy
@pytest.mark.parametrize("groups", [None, "task", "label"])
@pytest.mark.parametrize("policy", ["greedy_gain", "high_energy", "random", "proportional"])
@pytest.mark.filterwarnings("ignore:No denoiser was found:UserWarning")  # of a classifier
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")  # data in memory needs none
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")  # nor any log
def test_both_doors_keep_the_same_samples(policy, groups):
    images, labels = data()
    stream = list(benchmark("class-incremental", images, labels).train_stream)
    plugin = EnergyReplayPlugin(15, policy=policy, groups=groups, seed=7)
    strategy = naive(plugin)
    for experience in stream:
        strategy.train(experience)

    seed_everything(0, verbose=False)
    buffer = EnergyReplayBuffer(15, policy, groups=groups, seed=7)
    tasks = [
        ReplayDataModule(DataLoader(experience.dataset, batch_size=8, shuffle=True), buffer, replay_ratio=0.5)
        for experience in stream
    ]
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ForgettingMonitor(buffer, probe_size=5)],
    )  # fmt: skip
    fit_tasks(trainer, Classifier(), tasks)

    memory = plugin.storage_policy.memory
    assert memory.ids.equal(buffer.ids)
    assert memory.energies.equal(buffer.energies)
    assert memory.rises.allclose(buffer.rises)
    everyone = torch.arange(15)
    assert memory.gather(everyone)["sample"][0].equal(buffer.gather(everyone)[0])
    for i, task in zip(memory.ids.tolist(), memory.tasks.tolist(), strict=True):
        x = memory.gather((memory.ids == i).nonzero().flatten())["sample"][0]
        assert x[0].equal(stream[task].dataset[i - (task << 40)][0])


@pytest.mark.heavy
@pytest.mark.parametrize("groups", [None, "task", "label"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_and_quota_under_the_stock_plugin(policy, groups):
    kwargs = {}
    if policy == "high_loss":
        diffusers = pytest.importorskip("diffusers")
        unet = diffusers.UNet2DModel(
            8, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip
        kwargs = {"network": Denoiser(unet, diffusers.DDPMScheduler()), "criterion": denoising_loss}
    storage = EnergyPrioritizedBuffer(14, policy, groups=groups)
    strategy = naive(ReplayPlugin(14, storage_policy=storage), train_mb_size=20, **kwargs)
    for experience in benchmark("task-aware", *data()).train_stream:
        strategy.train(experience)
        assert len(storage.buffer) == len(storage.memory) == 14
    sizes = sorted(len(group.buffer) for group in storage.buffer_groups.values())
    assert sizes == {None: [14], "task": [4, 5, 5], "label": [2, 2, 2, 2, 3, 3]}[groups]


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_the_data_set_of_the_buffer_is_like_the_experience(kind):
    stream = list(benchmark(kind, *data()).train_stream)
    storage = EnergyPrioritizedBuffer(12, "high_energy")
    for experience in stream:
        storage.update_from_dataset(experience.dataset)
    kept = storage.buffer
    originals = {number(e.dataset[i][0][None])[0]: e.dataset[i] for e in stream for i in range(len(e.dataset))}
    assert type(kept) is type(stream[0].dataset)
    for i in range(12):
        item = kept[i]
        original = originals[number(item[0][None])[0]]
        assert type(item) is type(original)
        assert [type(part) for part in item] == [type(part) for part in original]
        assert item[0].equal(original[0])
        assert [int(part) for part in item[1:]] == [int(part) for part in original[1:]]
        assert int(kept.targets[i]) == int(item[1])
    mixed = stream[2].dataset.concat(kept)  # upstream cannot concatenate constant task labels to others
    assert len(mixed) == 52
    assert len(next(iter(DataLoader(mixed, batch_size=52, shuffle=True)))) == len(originals[0])
    if kind != "class-incremental":
        assert sum(len(part) for part in kept.task_set.values()) == 12


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_stock_replay_of_every_kind(kind):
    """The stock plugin mixes the buffer's items with new ones in its own minibatches, without a warning."""
    seen = []
    storage = EnergyPrioritizedBuffer(12, "high_energy")
    replay = ReplayPlugin(12, storage_policy=storage, task_balanced_dataloader=kind == "task-aware")
    strategy = naive(replay, evaluator=silent(), train_epochs=2)
    strategy.model.register_forward_pre_hook(lambda _, args: seen.append(number(args[0])))
    for experience in benchmark(kind, *data()).train_stream:
        kept = set(number(torch.stack([item[0] for item in storage.buffer]))) if len(storage.buffer) else set()
        strategy.train(experience)
        own = set(number(torch.stack([item[0] for item in experience.dataset])))
        assert set().union(*seen) == own | kept
        seen.clear()


@pytest.mark.heavy
def test_kept_samples_are_copies_and_the_data_is_let_go():
    images = torch.randn(50, 3)
    dataset = make_avalanche_dataset(TensorDataset(images))
    storage = EnergyPrioritizedBuffer(5)
    storage.update_from_dataset(dataset)
    before = storage.buffer[0][0].clone()
    images.zero_()
    assert storage.buffer[0][0].equal(before)
    gone = weakref.ref(dataset)
    del dataset
    gc.collect()
    assert gone() is None


def test_samples_are_kept_without_augmentation():
    images, labels = data(12, classes=2)
    made = TensorDataset(images, labels)
    made.targets = labels
    stream = nc_benchmark(
        made, made, 1, task_labels=False, train_transform=lambda x: x + torch.rand(()), eval_transform=lambda x: 2 * x
    ).train_stream
    storage = EnergyPrioritizedBuffer(12, "random")
    storage.update_from_dataset(stream[0].dataset)
    assert sorted(number(storage.buffer[i][0][None], 6)[0] for i in range(12)) == list(range(12))


def test_data_attributes_stay_with_their_samples():
    names = DataAttribute(list(range(100, 130)), "names")
    dataset = make_avalanche_dataset(TensorDataset(torch.arange(30.0)[:, None]), data_attributes=[names])
    storage = EnergyPrioritizedBuffer(6, "random")
    storage.update_from_dataset(dataset)
    assert list(storage.buffer.names) == [int(item[0]) + 100 for item in storage.buffer]


def test_resize_gives_up_the_last_picks_of_every_group():
    storage = EnergyPrioritizedBuffer(12, "high_energy")
    for experience in benchmark("task-free", *data()).train_stream:
        storage.update_from_dataset(experience.dataset)
    order = {task: storage.memory.ids[storage.memory.tasks == task].tolist() for task in range(3)}
    samples = dict(zip(storage.memory.ids.tolist(), storage.buffer, strict=True))
    storage.resize(None, 7)
    assert (len(storage.buffer), storage.max_size, storage.memory.capacity) == (7, 7, 7)
    assert storage.memory.ids.tolist() == order[0][:3] + order[1][:2] + order[2][:2]
    for i, x in zip(storage.memory.ids.tolist(), storage.buffer, strict=True):
        assert x[0].equal(samples[i][0])
    storage.resize(None, 30)
    storage.update_from_dataset(benchmark("task-free", *data(seed=1)).train_stream[0].dataset)
    assert len(storage.memory) == 30
    with pytest.raises(ValueError, match="at least 1"):
        storage.resize(None, 0)
    with pytest.raises(ValueError, match="4 groups"):
        storage.resize(None, 3)
    assert len(storage.memory) == 30


def test_an_encoder_sees_minibatches_on_the_device_of_the_strategy():
    seen = []

    def encoder(batch):
        seen.append((type(batch), len(batch), batch[0].device.type))
        return batch[0].flatten(1)[:, :2]

    plugin = EnergyReplayPlugin(6, encoder=encoder)
    strategy = naive(plugin)
    for experience in benchmark("task-aware", *data()).train_stream:
        strategy.train(experience)
    assert set(seen) == {(list, 3, "cpu")}
    assert plugin.storage_policy.memory.vectors.shape == (6, 2)


def test_data_sets_without_targets():
    dataset = make_avalanche_dataset(TensorDataset(torch.randn(20, 4)))
    storage = EnergyPrioritizedBuffer(5)
    storage.update_from_dataset(dataset)
    assert storage.buffer[0][0].shape == (4,)
    with pytest.raises(ValueError, match="needs a data set with targets"):
        EnergyPrioritizedBuffer(5, groups="label").update_from_dataset(dataset)


def test_an_empty_experience_changes_nothing():
    storage = EnergyPrioritizedBuffer(5, "random")
    dataset = make_avalanche_dataset(TensorDataset(torch.randn(20, 4)))
    storage.update_from_dataset(dataset)
    ids = storage.memory.ids.clone()
    storage.update_from_dataset(dataset.subset([]))
    assert storage.memory.ids.equal(ids)
    assert len(EnergyPrioritizedBuffer(5).buffer) == 0


def test_samples_that_are_no_tensors_are_named():
    from PIL import Image

    class Pictures(torch.utils.data.Dataset):
        targets = [0] * 4

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return Image.new("L", (4, 4)), 0

    with pytest.raises(TypeError, match=r"PIL.*transform"):
        EnergyPrioritizedBuffer(2).update_from_dataset(make_avalanche_dataset(Pictures()))


def test_whole_numbers_need_an_encoder():
    dataset = make_avalanche_dataset(TensorDataset(torch.randint(0, 255, (20, 4)), torch.arange(20)))
    with pytest.raises(ValueError, match="no floating tensor"):
        EnergyPrioritizedBuffer(5).update_from_dataset(dataset)
    storage = EnergyPrioritizedBuffer(5, encoder=lambda batch: batch[0] / 255)
    storage.update_from_dataset(dataset)
    assert storage.buffer[0][0].dtype == torch.int64


@pytest.mark.heavy
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_named_before_training(value):
    images, labels = data()
    images[5] = value
    strategy = naive(EnergyReplayPlugin(6))
    with pytest.raises(ValueError, match="NaN or infinite"):
        strategy.train(benchmark("task-free", images, labels).train_stream)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_sizes_that_make_no_buffer(size, error):
    with pytest.raises(error, match="capacity"):
        EnergyPrioritizedBuffer(size)


def test_a_stream_that_changes_its_kind_is_refused():
    storage = EnergyPrioritizedBuffer(6)
    storage.update_from_dataset(benchmark("task-aware", *data()).train_stream[0].dataset)
    with pytest.raises(ValueError, match="one kind of benchmark"):
        storage.update_from_dataset(benchmark("class-incremental", *data()).train_stream[0].dataset)
