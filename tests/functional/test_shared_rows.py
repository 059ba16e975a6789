"""Rows that two or three processes hold between them: the same rows, and what samples are under them."""

import datetime

import numpy as np
import pytest
import torch
import torch.distributed as dist

from hopfield_replay.functional import (
    effective_patterns,
    energy,
    herding,
    k_center,
    k_means_medoids,
    knn_distance,
)
from hopfield_replay.functional.patterns import Patterns
from hopfield_replay.functional.rows import Rows, joined, placed, replaced
from hopfield_replay.functional.shared_rows import SharedRows, is_shared, share_of
from hopfield_replay.policies import Candidates, NearestNeighbour
from tests.functional import numpy_energy as reference

WHOLE = torch.randn(60, 7, generator=torch.Generator().manual_seed(0))
KEPT = torch.randn(9, 7, generator=torch.Generator().manual_seed(1))
MASSES = torch.rand(69, generator=torch.Generator().manual_seed(2)).double()
ASKED = torch.cat([WHOLE[:20], KEPT[:3], torch.randn(5, 7, generator=torch.Generator().manual_seed(3))])
OWN = torch.cat([torch.arange(20), torch.arange(60, 63), torch.full((5,), -1)])
SPLITS = {
    "in turns": [torch.arange(0, 60, 2), torch.arange(1, 60, 2)],
    "uneven": [torch.tensor([7]), torch.cat([torch.arange(7), torch.arange(8, 60)])],
    "one empty": [torch.arange(60), torch.arange(0)],
    "of three": [torch.arange(50, 60), torch.arange(0), torch.arange(50)],
}


def shared(where):
    parts = where.tensor_split(2)
    own = Rows(WHOLE[parts[0]], WHOLE[parts[1]]) if len(where) > 1 else WHOLE[where]
    return Rows(SharedRows.of(own, where))


def answers(rows):
    """What is asked of rows, the same whoever holds them."""
    index = torch.tensor([59, 0, 33, 33, 7])
    few = rows.pick(torch.arange(59, 9, -3))
    mixed = joined(rows, KEPT)
    changed = replaced(rows, torch.tensor([8, 3]), torch.full((2, 7), 0.5))
    found = [rows[:], rows[index], rows[10:50], rows[3:3], few[:], few[torch.tensor([4, 1])], mixed[:], changed[:]]
    found += [torch.cat(list(rows)), placed(rows, torch.device("cpu"))[4:6]]
    measured = []
    for matrix, masses, exclude in (
        (rows, None, OWN.clamp(max=59)),
        (mixed, MASSES, OWN),
        (few, None, torch.arange(28) % 17),
        (changed, MASSES[:60], None),
    ):
        patterns = Patterns(matrix, masses)
        for similarity in ("distance", "dot"):
            for beta in (1e-7, 0.8, 30.0):
                measured.append(patterns.energies(ASKED, beta, similarity=similarity, exclude=exclude))
                measured.append(patterns.effective(ASKED, beta, similarity=similarity, exclude=exclude))
        for k in (1, 5, 16):
            measured.append(patterns.distances(ASKED, k, exclude=exclude))
    measured.append(Patterns(rows).energies(rows, 0.8, exclude=torch.arange(60)))
    return found, measured


def picks(rows):
    """What is chosen by the geometry of all rows; and how many of them travelled for it."""
    counted, get = [], SharedRows.__getitem__

    def counting(self, index):
        found = get(self, index)
        counted.append(len(found))
        return found

    uniforms = torch.rand(60, generator=torch.Generator().manual_seed(4))
    energies = torch.zeros(60, dtype=torch.float64)
    pool = Candidates(torch.arange(60), torch.zeros(60, dtype=torch.int64), energies, rows, uniforms.double())
    asked = {
        "k_center": lambda: k_center(rows, 8),
        "k_center from a start": lambda: k_center(rows, 5, start=59),
        "herding": lambda: herding(rows, 6),
        "k_means": lambda: k_means_medoids(rows, 4, uniforms, starts=1),
        "nearest_neighbour": lambda: NearestNeighbour(3).select(pool, 9),
    }
    found, travelled = {}, {}
    SharedRows.__getitem__ = counting
    try:
        for name, ask in asked.items():
            counted.clear()
            found[name] = ask()
            travelled[name] = sum(counted)
    finally:
        SharedRows.__getitem__ = get
    return found, travelled


def work(rank, folder, size, name):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    rows = shared(SPLITS[name][rank])
    places, mine = share_of(joined(rows, KEPT))
    torch.save((answers(rows), picks(rows), places, mine[:]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.heavy
@pytest.mark.parametrize("name", SPLITS)
def test_they_answer_as_rows_of_one_process_do(name, tmp_path):
    size = len(SPLITS[name])
    torch.multiprocessing.spawn(work, args=(str(tmp_path), size, name), nprocs=size)
    rows, measured = answers(Rows(WHOLE))
    every = []
    for rank in range(size):
        (found, values), (picked, travelled), places, mine = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for one, other in zip(found, rows, strict=True):
            assert torch.equal(one, other)
        for one, other in zip(values, measured, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        for asked, chosen in picks(Rows(WHOLE))[0].items():
            assert torch.equal(picked[asked], chosen), asked
        assert travelled["k_center"] <= 8  # the picks
        assert travelled["herding"] <= 2 * 6
        assert travelled["nearest_neighbour"] == 60  # all are asked, once
        assert torch.equal(mine, torch.cat([WHOLE, KEPT])[places])
        every.append(places)
        assert set(SPLITS[name][rank].tolist()) == set(places[places < 60].tolist())  # nothing else was taken in
    assert torch.cat(every).sort().values.tolist() == list(range(69))  # each is looked at once


@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("beta", [1e-7, 0.8, 30.0])
def test_sums_of_shares_are_those_of_all(similarity, beta, monkeypatch):
    """Two processes, one after the other: what travels between them is put together by hand."""
    from hopfield_replay.functional import patterns as module
    from hopfield_replay.functional import shared_rows

    split = [torch.arange(0, 60, 3), torch.cat([torch.arange(1, 60, 3), torch.arange(2, 60, 3)]).sort().values]
    owner = torch.ones(60, dtype=torch.int64).index_fill_(0, split[0], 0)
    local = torch.zeros(60, dtype=torch.int64)
    for part in split:
        local[part] = torch.arange(len(part))
    sent = []

    def ask(rank, gather):
        monkeypatch.setattr(shared_rows, "world", lambda: (rank, 2))
        monkeypatch.setattr(module, "gather_rows", gather)
        rows = Rows(SharedRows(WHOLE[split[rank]], owner, local))
        assert is_shared(rows)
        patterns = Patterns(rows, MASSES[:60])
        found = patterns.energies(ASKED, beta, similarity=similarity, exclude=OWN.clamp(max=59))
        n_eff = patterns.effective(ASKED, beta, similarity=similarity, exclude=OWN.clamp(max=59))
        return found, n_eff, patterns.distances(ASKED, 4, exclude=OWN.clamp(max=59))

    ask(0, lambda rows: sent.append(rows) or rows)
    kept = iter(sent)
    energies, n_eff, distances = ask(1, lambda rows: torch.cat([next(kept), rows]))
    own = OWN.clamp(max=59)
    x, p = ASKED.double().numpy(), WHOLE.double().numpy()
    expected = reference.energy(x, p, beta, masses=MASSES[:60].numpy(), similarity=similarity, exclude=own.numpy())
    np.testing.assert_allclose(energies, expected, rtol=1e-6 if beta > 1e-3 else 1e-5)
    torch.testing.assert_close(
        energies, energy(ASKED, WHOLE, beta, masses=MASSES[:60], similarity=similarity, exclude=own), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(
        n_eff, effective_patterns(ASKED, WHOLE, beta, masses=MASSES[:60], similarity=similarity, exclude=own)
    )
    torch.testing.assert_close(distances, knn_distance(ASKED, WHOLE, 4, exclude=own))
