"""Kill a run for real, at chosen and at random moments, start it again, and compare it with one that nothing stopped.

python -m tests.reliability.kill --kills 300 --seed 0

Every attempt is a process of its own (forked from this one, which never trains, so that imports are paid for once) that
dies by SIGKILL; the next one calls fit_tasks(..., ckpt_path="last"). A trial is a run of one to three kills; sometimes
its folder is renamed between them. Lost is: a buffer, history, weight, optimizer, metric, or any single training step's
batch or loss that is not that of the uninterrupted run, a step of a finished task that is repeated, a run that does not
start again.
"""

import argparse
import collections
import functools
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import safetensors.torch
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback

import hopfield_replay.buffer.buffer
import hopfield_replay.tracker.task_reader
import hopfield_replay.utilities.files
from hopfield_replay import EnergyReplayBuffer, ForgettingTracker
from hopfield_replay.buffer.storage import SampleStore
from hopfield_replay.policies import POLICIES
from hopfield_replay.tracker.meter import ErrorMeter
from tests.lightning.small import same
from tests.reliability import worker


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Hooks(Callback):
    """Moments of the Trainer, as methods that a trap can wrap."""

    def on_after_backward(self, trainer, pl_module):
        pass

    def on_train_end(self, trainer, pl_module):
        pass


def half_of_a_checkpoint(real, checkpoint, file, *rest, **options):
    whole = io.BytesIO()
    real(checkpoint, whole)
    Path(file).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    die()


def half_of_a_buffer_file(real, tensors, path, **options):
    real(tensors, path, **options)
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) // 2)
    die()


def half_of_the_rows(real, store, samples, slots):
    half = len(slots) // 2
    write = real(store, hopfield_replay.buffer.buffer.take(samples, torch.arange(half)), slots[:half])

    def write_half():
        write()
        die()

    return write_half


def half_of_a_boundary(real, *args, **options):
    change = real(*args, **options)

    def then_die():
        change()
        die()

    return then_die


def before(real, *args, **options):
    die()


def after(real, *args, **options):
    real(*args, **options)
    die()


MOMENTS = {  # what is wrapped, and how the process dies in it
    "inside a batch": (Hooks, "on_after_backward", before),
    "while a task is read": (hopfield_replay.tracker.task_reader, "vectors_of", after),
    "before the second phase": (EnergyReplayBuffer, "prepare_refine", before),
    "after the second phase": (EnergyReplayBuffer, "prepare_refine", half_of_a_boundary),
    "between the last checkpoint and on_train_end": (Hooks, "on_train_end", before),
    "while errors are measured": (ErrorMeter, "of_batch", after),
    "while the policy chooses": (hopfield_replay.buffer.buffer, "choose", before),
    "while rows are copied": (SampleStore, "prepare_put", half_of_the_rows),
    "inside the commit": (EnergyReplayBuffer, "prepare_update", half_of_a_boundary),
    "after the record": (ForgettingTracker, "end_task", after),
    "while a checkpoint is written": (torch, "save", half_of_a_checkpoint),
    "before a checkpoint has its name": (hopfield_replay.utilities.files, "publish", before),
    "after a checkpoint has its name": (hopfield_replay.utilities.files, "publish", after),
    "before an old checkpoint goes": (TorchCheckpointIO, "remove_checkpoint", before),
    "after an old checkpoint has gone": (TorchCheckpointIO, "remove_checkpoint", after),
    "while a buffer file is written": (safetensors.torch, "save_file", half_of_a_buffer_file),
    "before a file has its name": (hopfield_replay.utilities.files, "publish", before),
    "after a file has its name": (hopfield_replay.utilities.files, "publish", after),
}
RESUMING = {  # these are reached only by an attempt that resumes
    "while the history is loaded": (ForgettingTracker, "load_state_dict", before),
    "while the buffer is loaded": (SampleStore, "prepare_refill", before),
    "after the history is loaded": (ForgettingTracker, "load_state_dict", after),
}
ANY = "any moment"


def trap(moment, at, counts):
    """Wrap the moment's function: its call number ``at`` (from 0) kills; calls are counted."""
    owner, name, kill = (MOMENTS | RESUMING)[moment]
    real = getattr(owner, name)

    @functools.wraps(real)
    def wrapped(*args, **options):
        if name in ("save", "publish") and (".ckpt" in str(args[1])) != ("a checkpoint" in moment):
            return real(*args, **options)
        counts[moment] += 1
        return kill(real, *args, **options) if counts[moment] == at + 1 else real(*args, **options)

    setattr(owner, name, wrapped)


def attempt(folder, kill=None, seconds=None, **settings):
    """Fork one attempt; returns its exit status (-9: killed) after it has ended.

    Args:
        folder: of the run.
        kill: (moment, number of the call) or None.
        seconds: kill it from outside after so long.
        settings: of the run.
    """
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2)
            counts = collections.Counter()
            for moment in MOMENTS if kill is None else [kill[0]]:
                trap(moment, -1 if kill is None else kill[1], counts)
            worker.run(folder, Hooks(), **settings)
            folder.with_suffix(".counts").write_text(json.dumps(counts))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Reference:
    """The run that nothing stops, and how often each moment comes in it."""

    def __init__(self, folder, policy):
        started = time.monotonic()
        if status := attempt(folder, policy=policy):
            raise RuntimeError(f"The uninterrupted run ended with {status}: {folder.with_suffix('.log').read_text()}")
        self.seconds = time.monotonic() - started
        self.result = torch.load(folder / "result.pt", weights_only=True)
        (self.steps,) = worker.journal(folder)
        self.counts = json.loads(folder.with_suffix(".counts").read_text())


def losses(folder, reference):
    """What the run in this folder lost, in words; and how many steps were done twice."""
    lost, redone, reached = [], 0, -1
    result = torch.load(folder / "result.pt", weights_only=True)
    attempts = worker.journal(folder)
    for name, expected in reference.result.items():
        if name == "metrics" and not attempts[-1]:
            continue  # Lightning keeps none of them in checkpoints: an attempt that trains nothing has none
        if not same(result[name], expected):
            lost.append(f"{name} differs")
    for steps in attempts:
        for entry in steps:
            if entry["step"] >= len(reference.steps):
                continue  # taken once more, to see what a boundary that is made up for measures, and undone
            if entry != reference.steps[entry["step"]]:
                lost.append(f"step {entry['step']} differs")
        if steps and reached >= 0:
            first = steps[0]["step"]
            redone = max(redone, reached + 1 - first)
            # a checkpoint is there after every second step, and the step at hand may be lost
            if not reached - 2 <= first <= reached + 1:
                lost.append(f"went on at step {first} after step {reached}")
        reached = max([reached, *(entry["step"] for entry in steps)])
    if reached != worker.STEPS - 1:
        lost.append(f"ended after step {reached}")
    buffer = EnergyReplayBuffer(7)
    buffer.load(folder / "buffer.safetensors")
    if not same(buffer.state_dict(), reference.result["buffer"]):
        lost.append("the buffer's file differs")
    return lost, redone


def plan(rng, reference, kills):
    """Moments for the attempts of one trial: (moment, number of the call) or (ANY, seconds)."""
    found = []
    for number in range(kills):
        if rng.random() < 0.4:
            found.append((ANY, rng.uniform(0.0, reference.seconds)))
        elif number and rng.random() < 0.3:
            found.append((rng.choice(list(RESUMING)), 0))
        else:
            moment = rng.choice(list(MOMENTS))
            found.append((moment, rng.randrange(reference.counts[moment])))
    return found


def trial(folder, reference, kills, rng=None, **settings):
    """Kill and restart one run; returns what happened as plain Python."""
    happened = []
    for moment, at in kills:
        if moment == ANY:
            status = attempt(folder, seconds=at, **settings)
        else:
            status = attempt(folder, kill=(moment, at), **settings)
        happened.append([moment, at, status])
        if rng is not None and rng.random() < 0.25 and folder.exists():
            folder = folder.rename(folder.with_name(folder.name + "m"))
    status = attempt(folder, **settings)
    lost, redone = [f"the last attempt ended with {status}: {folder.with_suffix('.log').read_text()[-2000:]}"], 0
    if status == 0:
        lost, redone = losses(folder, reference)
    lost += [f"an attempt ended with {status}" for _, _, status in happened if status not in (0, -signal.SIGKILL)]
    shutil.rmtree(folder)
    return {"kills": happened, "settings": settings, "lost": lost, "redone": redone}


def every_moment(folder, reference, policy):
    """One kill at each moment, in turn in the first and in the last task; those of a resumed attempt after another."""
    for number, moment in enumerate(MOMENTS):
        count = reference.counts[moment]
        at = (count // worker.TASKS) // 2 if number % 2 else count - 1 - (count // worker.TASKS) // 2
        yield trial(folder / f"moment{number}", reference, [(moment, at)], policy=policy, storage=number % 3 == 1)
    kills = [("inside a batch", 9), *((moment, 0) for moment in RESUMING)]
    yield trial(folder / "resuming", reference, kills, policy=policy, storage=True)


def campaign(folder, kills, seed, minutes):
    """Trials until so many kills, or minutes, are over."""
    rng, references, done = random.Random(seed), {}, 0
    started = time.monotonic()
    for number in range(10**9):
        if done >= kills or time.monotonic() - started > 60 * minutes:
            return
        policy = rng.choice(POLICIES)
        if policy not in references:
            references[policy] = Reference(folder / f"reference_{policy}", policy)
        planned = plan(rng, references[policy], rng.choice([1, 1, 1, 2, 2, 3]))
        found = trial(
            folder / f"trial{number}", references[policy], planned, rng, policy=policy, storage=rng.random() < 0.5
        )
        done += sum(status == -signal.SIGKILL for _, _, status in found["kills"])
        yield found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many processes are to be killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--every-moment", action="store_true", help="first one kill at each chosen moment")
    parser.add_argument("--json", type=Path, default=None, help="write all trials here")
    args = parser.parse_args()
    worker.quiet()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.every_moment:
            found += every_moment(folder, Reference(folder / "reference", "greedy_gain"), "greedy_gain")
        for result in campaign(folder, args.kills, args.seed, args.minutes):
            found.append(result)
            if result["lost"]:
                print(json.dumps(result), flush=True)
    killed = collections.Counter(m for r in found for m, _, status in r["kills"] if status == -signal.SIGKILL)
    missed = sum(status == 0 for r in found for _, _, status in r["kills"])
    for moment, count in killed.most_common():
        print(f"{count:6d}  {moment}")
    print(
        f"{len(found)} runs, {sum(killed.values())} processes killed ({missed} had ended before), at most "
        f"{max((r['redone'] for r in found), default=0)} steps done twice after a kill, "
        f"{sum(map(bool, (r['lost'] for r in found)))} runs that lost something"
    )
    if args.json is not None:
        hopfield_replay.utilities.files.write_json(args.json, found)
    sys.exit(any(r["lost"] for r in found))


if __name__ == "__main__":
    main()
