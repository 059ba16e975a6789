"""A standing campaign of faults: kills, signals, full and failing disks, hostile files, two processes, mixed at random.

python -m tests.reliability.campaign --minutes 30 --seed 0

Every attempt is a process of its own, forked from this one, whose peak of memory is watched. A run of three tasks with
monitor, buffer, storage and checkpoints is hit one to three times, each time by something else, and then ended in
peace: it must give what a run gives that nothing hit. Boundaries are hit by exceptions from outside at any moment:
history and buffer must be of before or of after. Files are damaged, or lie, and are read: one clear error, or the right
samples. The commands are run on such files, and on disks that fail: their exit codes hold, and no file is half written.

Printed are the attempts of each kind, and what must be zero: losses, half states, code that was run, wrong exit codes,
crashes, and attempts that took more than twice the memory that was allowed.
"""

import argparse
import collections
import contextlib
import errno
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay import EnergyReplayBuffer
from hopfield_replay.buffer.storage import load_tree, save_tree
from hopfield_replay.checkpoints import load_module, load_pipeline
from hopfield_replay.cli import main as command
from hopfield_replay.cli.datasets import load_data
from hopfield_replay.utilities.files import write_json
from tests.lightning.small import same
from tests.reliability import fuzz, kill, worker
from tests.reliability.test_whole_changes import CHANGES, state_of, tracker

ALLOWED = 1 << 26  # max_bytes of whatever reads files here
SLACK = 48 << 20  # of the interpreter, for one attempt
FINE, REFUSED, VIOLATION = 0, 10, 11
EXPECTED = (OSError, ValueError, TypeError, MemoryError, MisconfigurationException, SystemExit, KeyboardInterrupt)


class Violated(AssertionError):
    """Something happened that must not happen."""


# -- faults inside of a process


def failing_disk(draw):
    """Let one call of the system that writes fail, or all of them be slow."""
    slow = draw.random() < 0.4
    number = draw.choice((errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EDQUOT))
    at, calls = draw.randrange(12), [0]
    for name in ("fsync", "replace", "posix_fallocate", "open"):
        real = getattr(os, name)

        def faulty(*args, real=real, name=name, **options):
            if name == "open" and not (len(args) > 1 and args[1] & (os.O_WRONLY | os.O_RDWR)):
                return real(*args, **options)
            calls[0] += 1
            if slow:
                time.sleep(0.02)
            elif calls[0] == at + 1:
                raise OSError(number, os.strerror(number))
            return real(*args, **options)

        setattr(os, name, faulty)


def full_disk(draw):
    """No file may become larger than so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = draw.choice((3000, 9000, 30_000, 60_000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def alarm(draw, seconds):
    """A signal at some moment, with a handler of the user's own that exits, or Python's own."""
    number = draw.choice((signal.SIGALRM, signal.SIGALRM, signal.SIGALRM))
    kind = draw.choice((SystemExit, KeyboardInterrupt))

    def leave(*_):
        raise kind(1)

    signal.signal(number, leave)
    signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-3, seconds))


# -- one attempt in a process of its own


def peak_of(process):
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def forked(work, log, *, seconds=None, number=signal.SIGKILL, limit=120):
    """Run in a forked process; its status, its peak of memory beyond that of its beginning, and what it said."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = VIOLATION
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1), os.dup2(file, 2)
            sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)  # whatever they were made by a test's runner
            status = work() or FINE
        except Violated:
            traceback.print_exc()
        except EXPECTED as error:
            print(f"{type(error).__name__}: {error}")
            status = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
            os._exit(status)
    base, peak, started, sent = peak_of(child), 0, time.monotonic(), False
    while True:
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(code), max(0, peak - base), Path(log).read_text(errors="replace")[-1500:]
        peak = max(peak, peak_of(child))
        past = time.monotonic() - started
        if seconds is not None and past > seconds and not sent:
            os.kill(child, number)
            sent = True
        if past > limit:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return VIOLATION, peak - base, f"did not end in {limit} s"
        time.sleep(0.004)


# -- whole runs


class Runs:
    """A run that is hit again and again, and must give what one gives that nothing hit."""

    def __init__(self, folder):
        self.folder = folder
        self.reference = kill.Reference(folder / "reference", "greedy_gain")

    def attempts(self, draw, number):
        place, settings = self.folder / f"run{number}", {"storage": draw.random() < 0.5}
        settings["policy"] = "greedy_gain"
        for _ in range(draw.choice((1, 1, 2, 3))):
            fault = draw.choice(("kill", "moment", "signal", "full disk", "failing disk", "two", "torn", "exit"))
            yield f"run: {fault}", *self.hit(draw, place, fault, settings)
        status, peak, said = forked(lambda: self.run(place, settings), self.folder / "log")
        lost = said if status else self.lost(place)
        shutil.rmtree(place, ignore_errors=True)
        yield "run: ended in peace", status, peak, lost

    def run(self, place, settings, *before):
        for fault in before:
            fault()
        worker.run(place, kill.Hooks(), **settings)

    def hit(self, draw, place, fault, settings):
        """Status, peak of memory, and what went wrong."""
        log, seconds, number, before = self.folder / "log", None, signal.SIGKILL, []
        if fault == "kill":
            seconds = draw.uniform(0.0, self.reference.seconds)
        elif fault == "signal":
            seconds, number = draw.uniform(0.0, self.reference.seconds), draw.choice((signal.SIGTERM, signal.SIGINT))
        elif fault == "moment":
            moment = draw.choice(list(kill.MOMENTS))
            at = draw.randrange(max(1, self.reference.counts[moment]))
            before.append(lambda: kill.trap(moment, at, collections.Counter()))
        elif fault == "full disk":
            before.append(lambda: full_disk(draw))
        elif fault == "failing disk":
            before.append(lambda: failing_disk(draw))
        elif fault == "exit":
            before.append(lambda: alarm(draw, self.reference.seconds))
        elif fault == "torn":
            self.tear(draw, place)
            seconds = draw.uniform(0.0, self.reference.seconds)
        other = None
        if fault == "two":
            other = os.fork()
            if not other:
                with open(self.folder / "other.log", "w") as file:
                    os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
                    try:
                        self.run(place, settings)
                    except EXPECTED:
                        os._exit(REFUSED)
                    except BaseException:
                        traceback.print_exc()
                        os._exit(VIOLATION)
                    os._exit(0)
        status, peak, said = forked(lambda: self.run(place, settings, *before), log, seconds=seconds, number=number)
        if other is not None:
            code = os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
            if code not in (0, REFUSED) or (code, status) == (REFUSED, REFUSED):
                return VIOLATION, peak, f"of two runs one ended with {code}: {(self.folder / 'other.log').read_text()}"
        fine = {0, REFUSED, -signal.SIGKILL, -signal.SIGTERM}
        return status, peak, None if status in fine else said

    def tear(self, draw, place):
        """Cut or change one of the newest files, as a file system does that loses power."""
        files = [file for file in place.rglob("*") if file.is_file() and file.name != "journal"]
        if files:
            file = max(files, key=lambda file: file.stat().st_mtime_ns)
            data = file.read_bytes()
            file.write_bytes(data[: draw.randrange(len(data) + 1)])

    def lost(self, place):
        found = [
            f"{name} differs"
            for name, expected in self.reference.result.items()
            if name != "metrics" and not same(torch.load(place / "result.pt", weights_only=True)[name], expected)
        ]
        for steps in worker.journal(place):
            wanted = dict(enumerate(self.reference.steps))
            found += [f"step {e['step']} differs" for e in steps if e != wanted.get(e["step"])]
        buffer = EnergyReplayBuffer(7)
        buffer.load(place / "buffer.safetensors")
        if not same(buffer.state_dict(), self.reference.result["buffer"]):
            found.append("the buffer's file differs")
        left = [file.name for file in (place / "checkpoints").iterdir() if "partial" in file.name]
        return "; ".join([*found, *(f"left {name}" for name in left)]) or None


# -- boundaries


def boundary(draw, folder):
    """A change of tracker and buffer, hit by an exception at any moment."""
    name = draw.choice(list(CHANGES))
    begin, change = CHANGES[name]
    policy = draw.choice(("greedy_gain", "random", "high_energy"))
    storage = None if draw.random() < 0.5 else Path(tempfile.mkdtemp(dir=folder))
    other = tracker(None, policy, 3, True).state_dict()

    def made(folder):
        return tracker(folder, policy, 1, begin)

    reference = made(None)
    before = state_of(reference)
    started = time.perf_counter()
    change(reference, other)
    seconds, after = time.perf_counter() - started, state_of(reference)
    found = made(storage)
    alarm(draw, 1.3 * seconds)
    try:
        change(found, other)
    except (SystemExit, KeyboardInterrupt):
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    state = state_of(found)
    if not any(same({**state, "read": 0}, {**wanted, "read": 0}) for wanted in (before, after)):
        raise Violated(f"{name} was half made")


# -- files


class Watched:
    """Code that is run, and files that appear where none should."""

    def __init__(self, folder):
        self.folder, self.ran = folder, []
        self.before = set(os.listdir(folder))

        def hook(event, arguments):
            if event in fuzz.RUNS_CODE and "libnvidia" not in str(arguments):  # torch looks for a GPU
                self.ran.append(f"{event} {arguments}"[:200])

        sys.addaudithook(hook)

    def check(self, *own):
        left = set(os.listdir(self.folder)) - self.before - set(own)
        if self.ran or left or fuzz.SENTINEL.exists():
            fuzz.SENTINEL.unlink(missing_ok=True)
            raise Violated(f"code execution or stray files: ran {self.ran}, left {left}")


class Files:
    """Damaged and lying files, each read in a process of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.targets = [target for target in fuzz.targets(folder) if target.name != "names of data"]
        for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp"):
            (folder / kind).mkdir(exist_ok=True)
        (folder / "scratch").mkdir(exist_ok=True)

    def __call__(self, draw, folder):
        target = draw.choice(self.targets)
        watched = Watched(self.folder)
        warnings.simplefilter("ignore")
        target.attempt(draw, self.folder)
        watched.check(getattr(target, "file", "").split("/")[0], "whole")


def bombs(draw, folder):
    """Small files that ask for much."""
    place = Path(tempfile.mkdtemp(dir=folder))
    kind = draw.randrange(5)
    if kind == 0:
        rows = draw.choice((2**40, 2**62, 2**20))
        shape = draw.choice(([rows, 0], [0, rows], [rows, 1, 0]))
        header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
        (place / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    elif kind == 1:
        dtype = draw.choice((numpy.uint8, numpy.float16, numpy.float64, numpy.bool_))
        zeros(place / "x.npz", draw.choice((60, 200)), numpy.dtype(dtype))
    elif kind == 2:
        from PIL import Image

        size = draw.choice(((6000, 6000), (9000, 9000), (30_000, 2000)))
        for number in range(draw.choice((1, 3))):
            Image.new("1", size).save(place / f"{number}.png")
    elif kind == 3:
        model = fuzz_model(2)
        torch.save({"state_dict": model.state_dict(), "hyper_parameters": {"width": 10 ** draw.choice((4, 5, 9))}},
                   place / "a.ckpt")  # fmt: skip
        load_module(place / "a.ckpt", fuzz_model)
        raise Violated("a model of any width was made")
    else:
        (place / "metadata.jsonl").write_bytes(b"[" * 10**6)
    source = place if kind in (2, 4) else next(place.iterdir())
    load_data(str(source), max_bytes=ALLOWED)


def zeros(file, rows, dtype):
    """A compressed array of rows of a million zeros, written row by row: its writer needs no memory for it."""
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as part,
    ):
        header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, 1 << 20)}
        numpy.lib.format.write_array_header_1_0(part, header)
        for _ in range(rows):
            part.write(bytes(dtype.itemsize << 20))


class fuzz_model(torch.nn.Module):  # a model that a checkpoint makes
    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)


class Checkpoints:
    """Checkpoints whose entries are replaced or damaged, opened as the audit opens them."""

    def __init__(self):
        from tests.cli.test_exit_codes import Small

        self.make = Small

    def __call__(self, draw, folder):
        place = Path(tempfile.mkdtemp(dir=folder))
        state = {"state_dict": dict(self.make(2).state_dict()), "hyper_parameters": {"width": 2}}
        watched = Watched(folder)
        damaged = fuzz.mutate_state(state, draw)
        with contextlib.suppress(Exception):  # not everything can be pickled
            torch.save(damaged, place / "a.ckpt")
        if (place / "a.ckpt").exists() and draw.random() < 0.5:
            (place / "a.ckpt").write_bytes(fuzz.mutate_bytes((place / "a.ckpt").read_bytes(), draw))
        warnings.simplefilter("ignore")
        try:
            load_module(place / "a.ckpt", self.make)
        finally:
            watched.check(place.name)


class Pipelines:
    """Folders of pipelines with files that are damaged, hostile, or lie."""

    def __init__(self, folder):
        from tests.checkpoints import test_safety
        from tests.checkpoints.test_checkpoints import pipeline

        self.source = pipeline(folder / "pipeline")
        self.kinds = list(test_safety.KINDS)
        self.code = test_safety.CODE

    def __call__(self, draw, folder):
        place = Path(tempfile.mkdtemp(dir=folder))
        shutil.copytree(self.source, place / "pipeline")
        hostile = draw.random() < 0.4
        if hostile:
            draw.choice(self.kinds)(place / "pipeline", self.code.format(mark=str(fuzz.SENTINEL)))
        else:
            file = draw.choice([file for file in (place / "pipeline").rglob("*") if file.is_file()])
            file.write_bytes(fuzz.mutate_bytes(file.read_bytes(), draw))
        watched = Watched(folder)
        try:
            load_pipeline(place / "pipeline")
        finally:
            watched.check(place.name)
        if hostile:
            raise Violated("a hostile pipeline was loaded")


class Commands:
    """The commands on files that are whole or damaged, and on disks that fail: exit codes hold, no file is half."""

    def __init__(self, folder):
        from tests.cli.test_exit_codes import arguments

        self.folder = folder / "command"
        self.folder.mkdir()
        self.forms = {name: arguments(self.folder, name) for name in ("forecast", "audit")}

    def __call__(self, draw, folder):
        place = Path(tempfile.mkdtemp(dir=folder))
        shutil.copytree(self.folder, place / "command")
        name = draw.choice(list(self.forms))
        given = [part.replace(str(self.folder), str(place / "command")) for part in self.forms[name]]
        damaged = draw.random() < 0.5
        if damaged:
            file = draw.choice([file for file in (place / "command").iterdir() if file.is_file()])
            file.write_bytes(fuzz.mutate_bytes(file.read_bytes(), draw))
        else:
            draw.choice((full_disk, failing_disk))(draw)
        watched = Watched(folder)
        code = command([*given, "--max-bytes", str(ALLOWED), "--quiet"])
        if code not in (0, 2):
            raise Violated(f"{name} ended with {code}")
        out = place / "command" / "out"
        for file in out.iterdir() if out.is_dir() else ():
            if file.suffix == ".json":
                json.loads(file.read_text())
            if "partial" in file.name:
                raise Violated(f"left {file.name}")
        watched.check(place.name)
        return REFUSED if code else FINE


def two_writers(draw, folder):
    """Two processes write one file, and one of them is killed: it is whole, and one of theirs."""
    place = Path(tempfile.mkdtemp(dir=folder))
    children = []
    for value in (1.0, 2.0):
        child = os.fork()
        if not child:
            for _ in range(8):
                save_tree(place / "file", {"value": torch.full((5000,), value)})
            os._exit(0)
        children.append(child)
    time.sleep(draw.uniform(0, 0.03))
    os.kill(children[0], signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if codes[1] != 0 or len(load_tree(place / "file")["value"].unique()) != 1:
        raise Violated(f"two writers: {codes}")


# -- the campaign


def campaign(folder, seed, minutes, most):
    """Yield (kind, status, peak, what went wrong) of every attempt."""
    draw, started = random.Random(seed), time.monotonic()
    runs = Runs(folder)
    for name in ("files", "rest"):
        (folder / name).mkdir()
    single = {
        "boundary": (boundary, 4), "damaged file": (Files(folder / "files"), 8), "bomb": (bombs, 3),
        "checkpoint": (Checkpoints(), 4), "pipeline": (Pipelines(folder), 1), "command": (Commands(folder), 3),
        "two writers": (two_writers, 1),
    }  # fmt: skip
    names = [name for name, (_, weight) in single.items() for _ in range(weight)]
    for number in range(10**9):
        if time.monotonic() - started > 60 * minutes or number >= most:
            return
        if number % 12 == 0:
            yield from runs.attempts(draw, number)
            continue
        name = draw.choice(names)
        own = random.Random(f"{seed} {number}")
        status, peak, said = forked(lambda n=name, o=own: single[n][0](o, folder / "rest"), folder / "log", limit=240)
        wrong = None if status in (FINE, REFUSED) else f"attempt {number}: {said}"
        yield name, status, peak, wrong
        for left in (folder / "rest").iterdir():
            shutil.rmtree(left, ignore_errors=True)
        for left in (folder / "files" / "scratch").iterdir():
            shutil.rmtree(left, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="stop after so long")
    parser.add_argument("--attempts", type=int, default=10**9, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="write the counts here")
    given = parser.parse_args()
    faulthandler.enable()
    worker.quiet()
    outcomes, peaks = collections.defaultdict(collections.Counter), collections.Counter()
    violations, heavy, started = [], [], time.monotonic()
    held = io.StringIO()
    with tempfile.TemporaryDirectory() as name:
        for kind, status, peak, wrong in campaign(Path(name), given.seed, given.minutes, given.attempts):
            outcome = {FINE: "taken", REFUSED: "refused"}.get(status, "killed" if status < 0 else "violated")
            outcomes[kind][outcome] += 1
            peaks[kind] = max(peaks[kind], peak)
            done = sum(sum(counter.values()) for counter in outcomes.values())
            if done % 100 == 0:
                print(f"... {done} attempts, {len(violations)} violations, {len(heavy)} heavy", flush=True)
            if wrong:
                violations.append((kind, status, wrong))
                print(f"VIOLATION {kind} ({status}): {wrong}", flush=True)
            if not kind.startswith("run") and peak > 2 * ALLOWED + SLACK:
                heavy.append((kind, peak))
                print(f"MEMORY {kind}: {peak >> 20} MiB", flush=True)
    for kind in sorted(outcomes):
        said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes[kind].most_common())
        print(f"{kind:22} {sum(outcomes[kind].values()):6d} attempts: {said}; peak {peaks[kind] >> 20} MiB", file=held)
    words = {
        "losses": "differs", "half states": "half made", "code executions": "code execution", "exit codes": "ended with"
    }  # fmt: skip
    counts = {name: sum(word in wrong for _, _, wrong in violations) for name, word in words.items()}
    counts["crashes and others"] = len(violations) - sum(counts.values())
    total = sum(sum(counter.values()) for counter in outcomes.values())
    print(held.getvalue(), end="")
    print(
        f"{total} attempts in {(time.monotonic() - started) / 60:.1f} min; "
        + ", ".join(f"{count} {name}" for name, count in counts.items())
        + f", {len(heavy)} over twice the memory that was allowed"
    )
    if given.json is not None:
        write_json(given.json, {"attempts": total, **counts, "memory": len(heavy), "kinds": outcomes, "peaks": peaks})
    sys.exit(bool(violations or heavy))


if __name__ == "__main__":
    main()
