"""Everything that takes tensors gives on a GPU what it gives on the CPU: on a pretended one, see pretended_gpu.py."""

from dataclasses import fields, is_dataclass

import pytest
import torch
from torch import nn

from hopfield_replay import (
    EnergyReplayBuffer,
    ForgettingTracker,
    HopfieldMemory,
    MemoryGuidance,
    TaskSource,
    calibrate_beta,
    forecast,
)
from hopfield_replay import functional as F
from hopfield_replay import metrics as M
from hopfield_replay.denoisers import CallableDenoiser
from hopfield_replay.functional._engine import fused
from hopfield_replay.lightning.views import Boundary, figures
from hopfield_replay.tracker.meter import ErrorMeter
from hopfield_replay.utilities import device
from tests.reliability.pretended_gpu import GPU, PretendedGpu

pytestmark = pytest.mark.slow


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, P, W = _random(40, 6), _random(130, 6, seed=1), _random(130, seed=2).abs()
OWN, LABELS = torch.arange(40), torch.arange(40) % 3
IMAGES, OTHERS = _random(24, 1, 4, 4, seed=3), _random(24, 1, 4, 4, seed=4)
Y = torch.arange(24) % 10


class Net(nn.Module):
    """A network with weights of its own, and with labels."""

    def __init__(self, device, shift=0.0):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)
        self.names = nn.Embedding(10, 1)
        for i, (name, weight) in enumerate(list(self.named_parameters())):
            owner, _, last = name.rpartition(".")
            values = _random(*weight.shape, seed=i) + shift
            self.get_submodule(owner)._parameters[last] = nn.Parameter(values.to(device))

    def forward(self, x, t, y=None):
        y = y[0] if isinstance(y, list) else y
        named = 0 if y is None else self.names(y).view(-1, 1, 1, 1)
        return self.layer(x) + t.view(-1, 1, 1, 1) * 1e-3 + named


class Own:
    """A user's denoiser, which keeps its schedule beside its weights."""

    num_timesteps = 50

    def __init__(self, device):
        self.levels = torch.linspace(0.99, 0.01, 50).to(device)

    def noise(self, clean, timestep, noise):
        level = self.levels[timestep]
        return level.sqrt() * clean + (1 - level).sqrt() * noise

    def predict_clean(self, noisy, timestep, condition=None):
        return 0.5 * noisy

    def snr(self, timestep):
        return float(self.levels[timestep] / (1 - self.levels[timestep]))


def model(x, **options):
    return CallableDenoiser(Net(x.device), torch.linspace(0.99, 0.01, 50), **options)


def select(x, p, k=7, *, streamed=False, **options):
    arguments = (x, p, F.far_task_energy(x), 1.0)
    rows = F.StreamedAffinity(*arguments, masses=0.01) if streamed else F.affinity(*arguments, masses=0.01)
    return F.greedy_replay_gain(rows, k, **options)


def remembered(x, p, w):
    memory = HopfieldMemory(p, 2.0, masses=w)
    return [memory.energy(x), memory.responsibilities(x), memory.retrieve(x), memory.effective_patterns(x)]


def gradients(x, p, w):
    leaves = [t.detach().clone().requires_grad_() for t in (x, p, w)]
    F.energy(leaves[0], leaves[1], 2.0, masses=leaves[2], exclude=OWN).sum().backward()
    return [leaf.grad for leaf in leaves]


def measured(x, y, data):
    meter = ErrorMeter(model(x, conditional=True), None, 0, lambda batch: tuple(t.to(x.device) for t in batch))
    batch, ids = (x, y) if data is None else data, torch.arange(24)
    return [meter.of_batch(batch, ids)[0], meter.of_probes(batch, ids)[0], *meter.reconstruct(batch, ids, 5)]


def guided(x, stored, current, **options):
    guidance = MemoryGuidance(model(x), stored, current, strength=0.5, probes=16, **options)
    if options:
        guidance = guidance.given(torch.arange(24) % 3)
    found = F.ddim_denoise(guidance, x, [45, 3])
    str(guidance.report(found))
    with guidance.steer(), torch.no_grad():
        return [found, guidance.denoiser.model(x, torch.full((24,), 30, device=x.device))]


def metric(make, *updates):
    def run(x, *others):
        made = make()
        if x.device == GPU:
            made = made.to(GPU)
        for update in updates:
            update(made, x, *others)
        found = made.compute()
        made.reset()
        return list(found.values()) if isinstance(found, dict) else [found]

    return run


def matrix_updates(made, x, p):
    made.update(x, task=0)
    made.update(p, task=1)
    made.update(p[:40], task=0, after=0)
    made.update(p[50:90], task=0, after=1)
    made.update(p[90:130], task=1, after=1)


def kept(x, p, w, policy, **options):
    buffer = EnergyReplayBuffer(20, policy, **options)
    labels = LABELS.to(x.device)
    ids = torch.arange(len(p), device=x.device)
    buffer.update({"x": x, "y": labels}, x, ids=ids[:40], task=0, labels=labels, losses=x[:, 0].abs())
    buffer.refine(p, masses=w)
    seen = F.energy(buffer.vectors.to(x.device), x, 1.0)
    batch = {"x": p, "y": ids}
    buffer.update(batch, p, ids=1000 + ids, task=1, labels=ids % 3, losses=p[:, 0].abs(), observed=seen)
    buffer.load_state_dict(buffer.state_dict())
    return [buffer.ids, buffer.energies, buffer.draw_shares, buffer.sample(5)["x"]]


def tracked(x, others):
    tracker = ForgettingTracker(
        EnergyReplayBuffer(10), probe_size=8, timesteps=[3, 20], model_energy=True, encoder=nn.Flatten()
    )
    found = []

    def prepare(batch):
        return batch.to(x.device)

    for data in (x, others):
        source, held = TaskSource([data], prepare=prepare), (tracker.buffer.ids, tracker.buffer.tasks)
        tracker.begin_task(source)
        record = tracker.end_task(source, denoiser=model(x), replay_ratio=0.3)
        for probe in record["probes"]:
            found += [probe["energy"], probe["error"], probe["density"], probe["model_energy"]]
    for draw in figures(Boundary(tracker, held, model(x), prepare)).values():
        draw()
    return found


def foreseen(x, others, y):
    return [forecast(x, others, capacities=(5,), policies=(), beta=2.0, labels=y).rises]


CASES = {
    **{
        f"energy {precision} {similarity}": (
            lambda x, p, w, own, precision=precision, similarity=similarity: [
                F.energy(x, p, beta, masses=w, exclude=own, precision=precision, similarity=similarity)
                for beta in (1e-8, 3.0)
            ],
            (X, P, W, OWN),
        )
        for precision in ("auto", "float32", "fast")
        for similarity in ("distance", "dot")
    },
    "energy_and_retrieval": (lambda x, p: F.energy_and_retrieval(x, p, 3.0, precision="float32"), (X, P)),
    "effective_patterns": (lambda x, p, w: F.effective_patterns(x, p, 3.0, masses=w), (X, P, W)),
    "energy_rise": (
        lambda x, p, w, own: F.energy_rise(x, p, p + 1, 2.0, old_masses=w, exclude_old=own),
        (X, P, W, OWN),
    ),
    "responsibilities": (lambda x, p, w, own: F.responsibilities(x, p, 2.0, masses=w, exclude=own), (X, P, W, OWN)),
    "retrieve": (lambda x, p, w: F.retrieve(x, p, 2.0, masses=w, steps=3), (X, P, W)),
    "fixed_points": (lambda x, p: F.fixed_points(x, p, 50.0, tol=1e-3), (X, P)),
    "gradients": (gradients, (X, P, W)),
    "tiles": (
        lambda x, p, w: F.energy(x, F.PatternTiles([(p[:99], w[:99]), (p[99:], w[99:])]), 2.0, exclude=OWN),
        (X, P, W),
    ),
    "replay_gain": (lambda x, p, w: F.replay_gain(x, p, p + 1, p[:9], 2.0, net=True, old_masses=w), (X, P, W)),
    "susceptibility": (lambda x, p: F.susceptibility(x, p, p[:9], 2.0), (X, P)),
    "expected_rise": (lambda x, p, w: F.expected_rise(x, p, 2.0, masses=w), (X, P, W)),
    "knn_distance": (lambda x, own: F.knn_distance(x, x, 3, exclude=own), (X, OWN)),
    "precision_recall": (lambda x, p: torch.tensor(F.precision_recall(x, p)), (X, P)),
    "orders": (lambda p: [F.k_center(p, 5), F.facility_location(p, 5), F.herding(p, 5)], (P,)),
    "hopfield_attention": (lambda p: F.hopfield_attention(*p[:120].view(3, 1, 2, 20, 6), None, 0.3)[0], (P,)),
    "token_uniformity": (
        lambda p: [F.token_cosine(p[:120].view(3, 40, 6)), F.token_residual(p[:120].view(3, 40, 6))],
        (P,),
    ),
    "calibrate_beta": (lambda p, w: torch.tensor(calibrate_beta(p, masses=w)), (P, W)),
    "HopfieldMemory": (remembered, (X, P, W)),
    "HopfieldMemory.to": (lambda x: HopfieldMemory(P, 2.0, masses=W).to(x.device).energy(x), (X,)),
    "reconstruction_error": (
        lambda x, y: F.reconstruction_error(model(x, conditional=True), x, [3, 30], 0, draws=2, condition=y),
        (IMAGES, Y),
    ),
    "multistep": (lambda x: F.multistep_reconstruction_error(model(x), x, [40], 0, steps=4), (IMAGES,)),
    "log_likelihood": (lambda x: F.log_likelihood(model(x), x, range(1, 50, 9), 0), (IMAGES,)),
    "model_energy": (lambda x: F.model_energy(model(x), x, [3, 10, 30], 0), (IMAGES,)),
    "a denoiser with its own schedule": (
        lambda x: [
            F.reconstruction_error(Own(x.device), x, [3], 0),
            F.ddim_denoise(Own(x.device), x, [40, 20, 3]),
            F.log_likelihood(Own(x.device), x, range(1, 50, 9), 0),
        ],
        (IMAGES,),
    ),
    "meter": (lambda x, y: measured(x, y, None), (IMAGES, Y)),
    "meter of data in memory": (lambda x, y: measured(x, y, (IMAGES, Y)), (IMAGES, Y)),
    "guidance": (guided, (IMAGES, OTHERS[:10], OTHERS[10:])),
    "guidance by label": (
        lambda x, stored, labels, current: guided(x, stored, current, labels=labels, current_labels=Y[:14] % 3),
        (IMAGES, OTHERS[:10], Y[:10] % 3, OTHERS[10:]),
    ),
    "IntrinsicForgetting": (
        metric(lambda: M.IntrinsicForgetting(P, P + 1, 2.0, old_masses=W), lambda made, x: made.update(x, OWN)),
        (X,),
    ),
    "EnergyForgettingCorrelation": (
        metric(lambda: M.EnergyForgettingCorrelation(resamples=20), lambda made, x: made.update(*x.T[:3])),
        (X,),
    ),
    "KNNPrecisionRecall": (
        metric(
            lambda: M.KNNPrecisionRecall(nn.Flatten()),
            lambda made, x, p: made.update(x, real=True),
            lambda made, x, p: made.update(p, real=False),
        ),
        (X, P),
    ),
    "ReconstructionForgetting": (
        metric(
            lambda: M.ReconstructionForgetting([3, 30]),
            lambda made, x: made.remember(model(x), x),
            lambda made, x: made.update(model(x), x + 0.1),
        ),
        (IMAGES,),
    ),
    "buffer by label": (lambda x, p, w: kept(x, p, w, "greedy_gain", groups="label", sampling="gain"), (X, P, W)),
}
MORE = {  # slow, or with affinities, which are float64 where the samples are
    "tracker and views": (tracked, (IMAGES, OTHERS)),
    "forecast": (foreseen, (IMAGES, OTHERS + 1, Y)),
    "greedy": (select, (X, P)),
    "greedy tightened": (lambda x, p: select(x, p, tighten=3, tail_weight=0.5), (X, P)),
    "greedy streamed": (lambda x, p: select(x, p, streamed=True, tighten=2), (X, P)),
    "greedy screened": (lambda p: select(p, p, 2), (_random(1030, 6, seed=6),)),
    "greedy by group": (lambda x, p, group: select(x, p, groups=group), (X, P, torch.arange(130) % 3)),
    "greedy with the rest in memory": (
        lambda x, p, group: select(x, p, groups=group, quotas=torch.tensor([3, 2, 2]), risk=X[:, 0], weights=W[:40]),
        (X, P, torch.arange(130) % 3),
    ),
    "GenerativeTaskMatrix fid": (metric(lambda: M.GenerativeTaskMatrix(2, nn.Identity()), matrix_updates), (X, P)),
    "proportional": (lambda w, u: F.proportional(w, 5, u), (W, _random(130, seed=5).sigmoid().double())),
}


def reference_strips(products, bias, scale, own):
    """What the Triton kernel computes, in torch."""
    scores = products * scale + bias
    if own is not None:
        rows = (own >= 0).nonzero().flatten()
        scores[rows, own[rows]] = -torch.inf
    strips = -(-scores.shape[1] // fused.STRIP)
    padding = scores.new_full((len(scores), strips * fused.STRIP - scores.shape[1]), -torch.inf)
    scores = torch.cat([scores, padding], 1).view(len(scores), strips, fused.STRIP)
    top = scores.amax(2)
    return top, (scores - top.masked_fill(top == -torch.inf, 0.0)[..., None]).exp2().sum(2)


def assert_alike(found, expected, **tolerance):
    if is_dataclass(found):
        found, expected = ([getattr(item, field.name) for field in fields(item)] for item in (found, expected))
    if isinstance(found, torch.Tensor):
        found, expected = [found], [expected]
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one.detach().cpu(), other.detach(), **tolerance)


def run_there(run, given):
    return run(*(item.to(GPU) for item in given))


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_on_a_gpu(name, monkeypatch):
    monkeypatch.setattr(fused, "strip_sums", reference_strips)
    run, given = (CASES | MORE)[name]
    expected = run(*given)
    with PretendedGpu():
        assert_alike(run_there(run, given), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_on_a_gpu_without_triton(monkeypatch):
    monkeypatch.setattr(fused, "AVAILABLE", False)
    expected = F.energy(X, P, 3.0, masses=W, precision="float32")
    with PretendedGpu():
        found = F.energy(X.to(GPU), P.to(GPU), 3.0, masses=W.to(GPU), precision="float32")
        assert found.device == GPU
        assert_alike(found, expected)


@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu_without_float64(name, monkeypatch):
    run, given = CASES[name]
    expected = run(*given)
    monkeypatch.setattr(device, "WITHOUT_FLOAT64", (GPU.type,))
    with PretendedGpu(float64=False):
        # amounts are read in float32 there
        assert_alike(run_there(run, given), expected, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_the_pretended_gpu_refuses_what_a_real_one_would():
    with PretendedGpu(float64=False):
        there, index = X.to(GPU), torch.arange(3)
        for wrong, error in (
            (lambda: there + X, RuntimeError),
            (lambda: X[index.to(GPU)], RuntimeError),
            (lambda: there.numpy(), TypeError),
            (lambda: there.double(), TypeError),
            (lambda: torch.cat([there, X]), RuntimeError),
            (lambda: torch.randn(3, device=GPU, generator=torch.Generator()), RuntimeError),
        ):
            with pytest.raises(error):
                wrong()
        assert there[index].device == (there + torch.tensor(1.0)).device == GPU
