"""EnergyReplayPlugin: which samples really are in the minibatches, told by the number that each sample carries."""

import pytest
import torch

from tests.avalanche.streams import KINDS, QUIET, benchmark, data, naive, number

from avalanche.benchmarks.scenarios.online import split_online_stream  # isort: skip  # streams looks for avalanche
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ExperienceBalancedBuffer

from hopfield_replay.avalanche import EnergyPrioritizedBuffer, EnergyReplayPlugin
from hopfield_replay.policies import HighEnergy, Random

pytestmark = QUIET


class Log(SupervisedPlugin):
    """Keeps every training minibatch, its mask, and what the buffer held at that time."""

    def __init__(self, policy) -> None:
        super().__init__()
        self.policy = policy
        self.minibatches = []

    def before_training_iteration(self, strategy, **kwargs):
        kept = set()
        if len(self.policy):
            kept = set(number(self.policy.memory.gather(torch.arange(len(self.policy)))["sample"][0]))
        self.minibatches.append(([part.clone() for part in strategy.mbatch], strategy.mb_is_replay.clone(), kept))


def run(kind: str, plugin: EnergyReplayPlugin, experiences: int = 3, train=None, **settings):
    """Minibatches of each experience, and the numbers of each experience's samples."""
    images, labels = data()
    log = Log(plugin.storage_policy)
    strategy = naive(plugin, log, **settings)
    seen, own = [], []
    for experience in benchmark(kind, images, labels, experiences).train_stream:
        own.append(set(number(torch.stack([experience.dataset[i][0] for i in range(len(experience.dataset))]))))
        strategy.train(experience, **(train or {}))
        seen.append(log.minibatches)
        log.minibatches = []
    return seen, own, strategy


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ratio", "mem_size", "batch", "settings"),
    [
        (0.5, 20, 8, {}),
        (0.25, 20, 9, {}),  # 3 replayed beside 9
        (0.75, 4, 8, {}),  # 24 replayed out of a buffer of 4
        (0.5, 20, 16, {}),  # 40 samples: a last part of 8
        (0.5, 5, 16, {"drop_last": True}),  # a buffer smaller than its share, which the stock loader would drop
    ],
)
def test_replay_has_its_share_of_every_minibatch(kind, ratio, mem_size, batch, settings):
    plugin = EnergyReplayPlugin(mem_size, replay_ratio=ratio, seed=3)
    seen, own, _ = run(kind, plugin, train=settings, train_mb_size=batch)
    assert all(not mask.any() for _, mask, _ in seen[0])
    for task in (1, 2):
        past = set().union(*own[:task])
        new = [n for minibatch, mask, _ in seen[task] for n in number(minibatch[0][~mask])]
        assert len(seen[task]) == (40 // batch if settings else -(-40 // batch))
        assert len(new) == len(set(new)) == (40 // batch * batch if settings else 40)
        assert set(new) <= own[task]
        for minibatch, mask, kept in seen[task]:
            assert int(mask.sum()) == round(int((~mask).sum()) * ratio / (1 - ratio))
            assert mask.tolist() == sorted(mask.tolist())  # replay comes last
            assert set(number(minibatch[0][mask])) <= kept <= past
            numbers = torch.tensor(number(minibatch[0]))
            if kind == "class-incremental":
                assert len(minibatch) == 2
                assert minibatch[1].equal(numbers % 6)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_every_kept_sample_is_replayed_with_its_own_target_and_task(kind):
    images, labels = data()
    plugin = EnergyReplayPlugin(12, replay_ratio=0.5)
    truth = {}
    for experience in benchmark(kind, images, labels).train_stream:
        for i in range(len(experience.dataset)):
            x, *rest = experience.dataset[i]
            truth[number(x[None])[0]] = [int(value) for value in rest]
    seen, _, _ = run(kind, plugin, train_epochs=4)
    kept = seen[2][0][2]
    replayed = {}
    for minibatch, mask, _ in seen[2]:
        for row in mask.nonzero().flatten():
            replayed[number(minibatch[0][row][None])[0]] = [int(part[row]) for part in minibatch[1:]]
    assert set(replayed) == kept  # 80 draws from 12: each is drawn with a chance of 99.9 %
    assert replayed == {n: truth[n] for n in kept}
    if kind == "task-aware":
        assert {rest[-1] for rest in replayed.values()} == {0, 1}


def test_fractions_are_carried_over():
    seen, _, _ = run("task-free", EnergyReplayPlugin(20, replay_ratio=0.2), train_mb_size=5, experiences=2)
    assert [int(mask.sum()) for _, mask, _ in seen[1]] == [1, 2, 1, 1] * 3  # 1.25 beside each 5


@pytest.mark.heavy
def test_workers_read_the_same_minibatches():
    runs = []
    for workers in (0, 2):
        torch.manual_seed(5)
        seen, _, _ = run("task-free", EnergyReplayPlugin(10), train={"num_workers": workers}, experiences=2)
        runs.append([number(minibatch[0]) for minibatch, _, _ in seen[1]])
    assert runs[0] == runs[1]


def test_a_schedule_of_the_ratio():
    plugin = EnergyReplayPlugin(20, replay_ratio=lambda task, step: 0.5 if step % 2 else 0.0)
    seen, _, _ = run("task-free", plugin, experiences=2)
    assert [int(mask.sum()) for _, mask, _ in seen[1]] == [0, 8, 0, 8, 0, 8, 0, 4]
    assert plugin.share == pytest.approx(sum(int(m.sum()) for _, m, _ in seen[1]) / sum(len(m) for _, m, _ in seen[1]))


@pytest.mark.heavy
@pytest.mark.parametrize("sampling", ["energy", "rise"])
def test_priority_for_high_energies_or_rises(sampling):
    images, labels = data()
    plugin = EnergyReplayPlugin(20, replay_ratio=0.5, sampling=sampling)
    counts = torch.zeros(20)
    strategy = naive(plugin, train_epochs=20)
    stream = benchmark("task-free", images, labels).train_stream
    for experience in list(stream)[:2]:
        strategy.train(experience)
    memory = plugin.storage_policy.memory
    log = Log(plugin.storage_policy)
    strategy.plugins.insert(1, log)
    score = {"energy": memory.energies, "rise": memory.rises}[sampling].clone()
    kept = number(memory.gather(torch.arange(20))["sample"][0])
    plugin.storage_policy.pre_adapt = lambda *_: None  # keep this buffer: no second phase
    strategy.train(stream[2])
    for minibatch, mask, _ in log.minibatches:
        for n in number(minibatch[0][mask]):
            counts[kept.index(n)] += 1
    expected = torch.empty(20)
    expected[score.argsort(descending=True, stable=True)] = 1.0 / torch.arange(1, 21)
    expected *= counts.sum() / expected.sum()
    assert counts.sum() == 800
    assert float(((counts - expected) ** 2 / expected).sum()) < 43.8  # chi-square, 19 degrees of freedom, p = .001


def test_the_second_phase_knows_the_next_experience():
    class Spy(HighEnergy):
        oversample = 2

        def __init__(self) -> None:
            self.next = []

        def select(self, candidates, k):
            self.next.append(candidates.next_energies is not None)
            return super().select(candidates, k)

    spy = Spy()
    run("task-free", EnergyReplayPlugin(10, policy=spy), experiences=2)
    assert spy.next == [False, True, False]  # at the end of 0, before 1, at the end of 1


def test_the_mask_is_gone_after_training():
    _, _, strategy = run("task-free", EnergyReplayPlugin(10), experiences=2)
    assert strategy.mb_is_replay is None


@pytest.mark.heavy
def test_periodic_evaluation_in_the_middle_leaves_replay_alone():
    seen, _, _ = run("task-free", EnergyReplayPlugin(10), experiences=2, train_epochs=2, eval_every=1)
    assert [int(mask.sum()) for _, mask, _ in seen[1]] == [8, 8, 8, 8, 8, 8, 8, 4] * 2


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"mem_size": 0}, ValueError, "at least 1"),
        ({"replay_ratio": 1.0}, ValueError, "must lie in"),
        ({"policy": "newest"}, ValueError, "Unknown policy"),
        ({"sampling": "loss"}, ValueError, "sampling"),
        ({"mem_size": 20, "storage_policy": EnergyPrioritizedBuffer(10)}, ValueError, "mem_size=10"),
        ({"mem_size": 10, "storage_policy": ExperienceBalancedBuffer(10)}, TypeError, "avalanche's ReplayPlugin"),
    ],
)
def test_wrong_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        EnergyReplayPlugin(**settings)


@pytest.mark.heavy
@pytest.mark.parametrize("plugin", ["ours", "stock"])
def test_an_experience_of_one_sample(plugin):
    images, labels = data(30, classes=3)
    policy = EnergyPrioritizedBuffer(6, Random())
    replay = (
        EnergyReplayPlugin(6, storage_policy=policy) if plugin == "ours" else ReplayPlugin(6, storage_policy=policy)
    )
    strategy = naive(replay)
    only = torch.tensor([0, *range(10, 30)])  # the first experience has one sample
    images, labels = images[only], torch.tensor([0] + [1, 2] * 10)
    for experience in benchmark("task-free", images, labels, 3).train_stream:
        strategy.train(experience)
    assert sorted(policy.memory.tasks.tolist()) == [0, 1, 1, 1, 2, 2]
    assert policy.memory.beta is not None


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_experience_is_named(kind):
    images, labels = data()
    strategy = naive(EnergyReplayPlugin(6))
    first, second, third = benchmark(kind, images, labels).train_stream
    strategy.train(first)
    second._dataset = second.dataset.subset([])
    with pytest.raises(ValueError, match="Experience 1 of this run is empty"):
        strategy.train(second)
    strategy.train(third)


@pytest.mark.heavy
@pytest.mark.parametrize("ratio", [0.05, 0.3])
def test_experiences_of_a_single_minibatch_have_their_share(ratio):
    images, labels = data()
    stream = benchmark("class-incremental", images, labels).train_stream
    plugin, new, replayed = EnergyReplayPlugin(12, replay_ratio=ratio, groups="label"), 0, 0
    strategy = naive(plugin, log := Log(plugin.storage_policy), train_mb_size=4)
    for task, experience in enumerate(split_online_stream(stream, experience_size=4)):
        strategy.train(experience)
        ((_, mask, _),) = log.minibatches
        log.minibatches = []
        if task:
            new, replayed = new + 4, replayed + int(mask.sum())
            due = 4 * ratio / (1 - ratio)
            off = 2 if due < 1 else task * abs(round(due) - due) + 1e-9  # each has whole samples
            assert abs(replayed - new * ratio / (1 - ratio)) <= off


@pytest.mark.heavy
def test_online_streams_of_few_samples():
    stream = benchmark("task-free", *data()).train_stream
    plugin = EnergyReplayPlugin(10, groups="label")
    strategy = naive(plugin)
    for experience in split_online_stream(stream, experience_size=2):
        strategy.train(experience)
    assert len(plugin.storage_policy.memory.tasks.unique()) > 5
    assert len(plugin.storage_policy.buffer) == 10


def test_more_experiences_than_places_say_so():
    with pytest.raises(ValueError, match="3 groups"):
        run("task-free", EnergyReplayPlugin(2))
