"""Broken and hostile files and states, by the thousand: one clear error each, and nothing else.

python -m tests.reliability.fuzz --mutations 20000 --seed 1

Every attempt either succeeds, and then what was loaded works, or it raises one documented error (which names the file,
if there is one) and what was there before is unchanged. Whatever else happens is printed with its target and number:
another error, code that was run, a file that was written, more memory than there should be. Memory is limited to what
the process had at the beginning and 256 MB (RLIMIT_AS); a dead interpreter shows in the exit status.
"""

import argparse
import copy
import faulthandler
import functools
import io
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource
from hopfield_replay.buffer.replay_stream import ReplayStream
from hopfield_replay.cli.datasets import load_data
from hopfield_replay.lightning.checkpoints import position
from hopfield_replay.lightning.tasks import TaskCursor
from tests.utilities.test_nested import same

DOCUMENTED = (ValueError, TypeError, OSError, MisconfigurationException)
RUNS_CODE = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "ctypes.dlopen")
SENTINEL = Path(tempfile.gettempdir()) / f"hopfield_replay_fuzz_{os.getpid()}"


class Bomb:
    """What a pickle that runs code holds."""

    def __reduce__(self):
        return (open, (str(SENTINEL), "w"))


def images(n, seed):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def full_buffer(tasks=2):
    """A small buffer with labels, captions, samples in reserve and a history."""
    buffer = EnergyReplayBuffer(5)
    buffer.load_state_dict(full_state(tasks))
    return buffer


@functools.cache
def full_state(tasks):
    buffer = EnergyReplayBuffer(5, beta=0.5)
    for task in range(tasks):
        x = images(24, task)
        batch = {"x": x, "text": [f"{task} {i}" for i in range(24)]}
        observed = torch.zeros(len(buffer)) if task else None
        labels = (x[:, 0] > 0).long()
        buffer.update(batch, x, ids=torch.arange(24) + 100 * task, task=task, labels=labels, observed=observed)
    return buffer.state_dict()


def use(buffer):
    """What is done with a buffer that was loaded; the errors of wrong input are all that may come of it."""
    again = EnergyReplayBuffer(buffer.capacity)
    again.load_state_dict(buffer.state_dict())
    assert same(again.state_dict(), buffer.state_dict()), "a second load differs"
    assert len(buffer) <= buffer.capacity
    if len(buffer):
        buffer.sample(3)
    try:
        x = images(8, 9)
        batch = {"x": x, "text": ["a"] * 8}
        buffer.update(batch, x, ids=torch.arange(8) + 9000, task=7, labels=torch.zeros(8).long())
        buffer.refine(x)
    except DOCUMENTED:
        pass


# -- what may be done to bytes


def mutate_bytes(data, draw):
    """One to three random damages."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(data) + 1)
        length = min(draw.choice((1, 1, 2, 4, 8, 64)), len(data) - at)
        kind = draw.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1 and length:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            data[at : at + length] = draw.randbytes(length)
        elif kind == 3:
            data[at : at + length] = bytes([draw.choice((0, 255, 127, 128))]) * length
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = draw.randbytes(draw.choice((1, 8, 100)))
        else:
            numbers = list(re.finditer(rb"\d+", bytes(data[:4096])))
            if numbers:
                found = draw.choice(numbers)
                huge = draw.choice((b"-1", b"0", b"1e9", b"4294967296", b"9223372036854775807", b"9" * 30))
                data[found.start() : found.end()] = huge
        if not data:
            break
    return bytes(data)


def mutate_header(data, draw):
    """A safetensors file whose header is well formed and lies."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    name = draw.choice(names)
    entry, other = header[name], header[draw.choice(names)]
    kind = draw.randrange(8)
    if kind == 0:
        entry["shape"] = draw.choice(([2**62], [-1], [0, 2**62], [1 << 40, 0], [2**32, 2**32], [], [1.5], ["3"], None))
    elif kind == 1:
        first = draw.choice((-8, 0, 2**63 - 1, 10**30, 1.0, "0"))
        entry["data_offsets"] = [first, draw.choice((0, 8, 2**62, -1))]
    elif kind == 2:
        entry["data_offsets"] = list(other["data_offsets"])  # overlapping
    elif kind == 3:
        entry["dtype"] = draw.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "Q4", 7, None))
    elif kind == 4:
        header[draw.choice(("../../etc/x", "", "\u0000", "a" * 5000, "7"))] = header.pop(name)
    elif kind == 5:
        entry["shape"] = list(other["shape"])
    elif kind == 6:
        header["__metadata__"] = draw.choice((None, {}, {"hopfield_replay": 7}, {"hopfield_replay": "[" * 9999}, []))
    else:
        meta = header.get("__metadata__") or {}
        text = meta.get("hopfield_replay", "{}")
        meta["hopfield_replay"] = mutate_bytes(text.encode(), draw).decode("latin-1")
        header["__metadata__"] = meta
    text = json.dumps(header).encode()
    size = draw.choice((len(text),) * 9 + (len(text) - 1, 2**62, 0))
    return size.to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :]


def mutate_npz(data, draw):
    """A .npz file whose parts are well formed and lie, or hold what they must not."""
    out = io.BytesIO()
    packing = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(out, "w", packing) as new, zipfile.ZipFile(io.BytesIO(data)) as old:
        for name in old.namelist():
            body = old.read(name)
            kind = draw.randrange(7)
            if kind == 0:
                shape = draw.choice((b"(9999999999, 4)", b"(-6, -4)", b"(2**40,)", b"(6,)", b"", b"(" * 99))
                body = re.sub(rb"\([\d, ]*\)", shape, body, count=1)
            elif kind == 1:
                to = draw.choice((b"'|O'", b"'>f8'", b"'<c8'", b"'<U4'", b"'<f16'", b"'V9999999999'", b"[]"))
                body = re.sub(rb"'[<|]\w+'", to, body, count=1)
            elif kind == 2:
                body = mutate_bytes(body, draw)
            elif kind == 3:
                held = io.BytesIO()
                numpy.save(held, numpy.array([Bomb()] * 6, dtype=object), allow_pickle=True)
                body = held.getvalue()
            name = draw.choice((name, name, name, "../../" + name, "/" + name, "x.txt"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # two entries of one name
                new.writestr(name, body)
    packed = bytearray(out.getvalue())
    if draw.random() < 0.3:  # lie about the sizes
        at = packed.find(b"PK\x01\x02")
        packed[at + 20 : at + 28] = draw.randbytes(8) if draw.random() < 0.5 else b"\xff\xff\xff\x7f" * 2
    return bytes(packed)


# -- what may be done to states


def leaf_paths(tree, path=()):
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, item in items:
        yield from leaf_paths(item, (*path, key))


def hostile(value, draw):
    """Something else in the place of a value."""
    choices = [
        None, 7, -1, 2**70, 0.5, float("nan"), float("inf"), "x", "", [], {}, (), [None], True, b"x", object(),
        {"format": 1}, torch.tensor(1.0), torch.zeros(0), torch.zeros(3, 3), torch.zeros(1).expand(10**12),
        torch.zeros(2, device="meta"), torch.eye(2).to_sparse(), torch.zeros(0, 10**9, 10**6), torch.zeros(2**8).long(),
    ]  # fmt: skip
    if isinstance(value, torch.Tensor) and value.ndim and 0 < value.numel() < 10**5 and value.layout is torch.strided:
        other = value.clone()
        choices = choices[:12] + choices[17:] + [value[:0], value[None], value.double(), value.to(torch.int32)]
        choices += [value.to(torch.complex64), torch.cat([value, value]), value.half(), value.to(torch.float8_e4m3fn)]
        if other.numel():
            spot = other.reshape(-1)
            huge = torch.finfo(value.dtype).max if value.is_floating_point() else 0
            bad = [float("nan"), float("inf"), -huge, huge] if value.is_floating_point() else [-1, 2**30]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if value.dtype not in (torch.uint8, torch.bool):
                    spot[draw.randrange(len(spot))] = draw.choice(bad)
            choices += [other] * 4
    return draw.choice(choices)


def mutate_state(state, draw):
    """A copy of the state with one or two entries replaced, dropped or added."""
    state = copy.deepcopy(state)
    for _ in range(draw.choice((1, 1, 1, 2))):
        *parents, last = draw.choice(list(leaf_paths(state))[1:])
        at = state
        for key in parents:
            at = at[key]
        if isinstance(at, tuple):
            continue
        kind = draw.randrange(6)
        if kind == 0:
            del at[last]
        elif kind == 1 and isinstance(at, dict):
            at[draw.choice(("extra", 7, "__class__"))] = hostile(None, draw)
        else:
            at[last] = hostile(at[last], draw)
        if not state:
            break
    return state


# -- targets: each has a name and a method attempt(draw, folder)


class Bytes:
    """A file, damaged and then read."""

    def __init__(self, name, file, data, read, mutators=(mutate_bytes,)):
        self.name, self.file, self.data, self.read, self.mutators = name, file, data, read, mutators

    def attempt(self, draw, folder):
        self.given(draw.choice(self.mutators)(self.data, draw), folder)

    def given(self, data, folder):
        path = folder / self.file
        path.write_bytes(data)
        try:
            self.read(path)
        except DOCUMENTED as error:
            if self.file not in str(error):
                raise RuntimeError(f"the file is not named: {error}") from error
            raise


class State:
    """A state, damaged and then loaded into an object that has contents of its own."""

    def __init__(self, name, make, use=lambda thing: None):
        self.name, self.make, self.use = name, make, use
        self.state = make(2).state_dict()

    def attempt(self, draw, folder):
        thing = self.make(1)
        before = copy.deepcopy(thing.state_dict())
        try:
            thing.load_state_dict(mutate_state(self.state, draw))
        except DOCUMENTED:
            assert same(thing.state_dict(), before), "half changed"
            raise
        self.use(thing)


def read_buffer(path):
    buffer = full_buffer(tasks=1)
    before = buffer.state_dict()
    try:
        buffer.load(path)
    except DOCUMENTED:
        assert same(buffer.state_dict(), before), "half changed"
        raise
    use(buffer)


def read_samples(path):
    samples = load_data(str(path)).samples
    assert samples.dtype == torch.float32
    assert bool(samples.isfinite().all())


def read_checkpoint(path):
    position(str(path), TaskCursor().state_key, 3)


def read_folder(path):
    read_samples(path.parent)


def make_tracker(tasks):
    tracker = ForgettingTracker(EnergyReplayBuffer(4, "high_energy"), probe_size=3, beta=1.0)
    for task in range(tasks):
        source = TaskSource([images(10, task)])
        tracker.begin_task(source)
        tracker.end_task(source)
    return tracker


def use_tracker(tracker):
    source = TaskSource([images(10, 5)])
    try:
        tracker.begin_task(source)
        tracker.end_task(source, replay_ratio=0.5)
        use(tracker.buffer)
    except DOCUMENTED:
        pass


def make_stream(draws):
    stream = ReplayStream([1, 2], full_buffer(), 0.5, 0)
    stream.set_epoch(draws)
    for _ in range(draws):
        stream.draw(4)
    return stream


class Scratch:
    """Files of a memory-mapped buffer, cut, removed or replaced while it is in use."""

    name = "storage folder"

    def attempt(self, draw, folder):
        place = Path(tempfile.mkdtemp(dir=folder / "scratch"))
        buffer = EnergyReplayBuffer(4, "random", storage=place, beta=1.0)
        x = images(600, 1)
        wide = x.repeat(1, 600)  # several pages
        buffer.update(wide[:9], x[:9], ids=torch.arange(9), task=0)
        (file,) = place.glob("*.bin")
        kind = draw.randrange(4)
        if kind == 0:
            os.truncate(file, draw.choice((0, 1, file.stat().st_size // 2, file.stat().st_size - 1)))
        elif kind == 1:
            file.unlink()
        elif kind == 2:
            file.unlink()
            file.symlink_to(SENTINEL)
        else:
            (place / f"{draw.randrange(4)}.bin.more").write_bytes(draw.randbytes(9))
        buffer.sample(5)
        buffer.update(wide[9:20], x[9:20], ids=torch.arange(9, 20), task=1)
        buffer.load_state_dict(buffer.state_dict())
        assert not place.joinpath("0.bin").is_symlink() or not SENTINEL.exists()


class Storm:
    """NaN, infinity and numbers out of all range in what is offered to a buffer."""

    name = "offered samples"

    def attempt(self, draw, folder):
        buffer = EnergyReplayBuffer(4, draw.choice(("random", "high_energy", "proportional", "greedy_gain", "herding")))
        x = images(12, 0)
        buffer.update(x, x, ids=torch.arange(12), task=0)
        before = buffer.state_dict()
        bad = (float("nan"), float("inf"), -float("inf"), 1e38, -3e38, 1e-45)
        given = {"vectors": images(12, 1), "energies": images(12, 2)[:, 0], "batch": images(12, 3)}
        if draw.random() < 0.3:
            given["vectors"] = given["vectors"].double() * draw.choice((1e-300, 1e150, 1e200))
        for _ in range(draw.choice((1, 3, 40))):
            part = given[draw.choice(list(given))].view(-1)
            part[draw.randrange(len(part))] = draw.choice(bad)
        if draw.random() < 0.5:
            del given["energies"]
        try:
            buffer.update(given.pop("batch"), **given, ids=torch.arange(12) + 20, task=1)
        except DOCUMENTED:
            assert same(buffer.state_dict(), before), "half changed"
            raise
        assert not buffer.energies.isnan().any(), "NaN energies were kept"
        buffer.sample(9)
        again = EnergyReplayBuffer(4)
        again.load_state_dict(buffer.state_dict())


class Names:
    """Things that are no data, by name."""

    name = "names of data"
    words = ("os:system", "os:abort", "sys:exit", "builtins:breakpoint", "builtins:exec", "subprocess:Popen", ":", "a:",
             ":b", "..:x", "\0", "\0:x", "x.npz", "x.safetensors", "/", "..", "C:\\x", "a" * 300 + ".npz", "",
             "json:loads",
             "http://x/y.npz", "torch.nn:Linear", "//x:y", "x\n:y", "faulthandler:_sigsegv", "_ctypes:PyObj_FromPtr",
             "/dev/zero", "/dev/null", "/proc/self/mem", "ctypes:string_at")  # fmt: skip

    def attempt(self, draw, folder):
        word = draw.choice(self.words)
        if draw.random() < 0.5:
            word = mutate_bytes(word.encode() or b"x", draw).decode("latin-1") or "x"
        if Path("/" + word.strip("\0")).is_dir() or ("\0" not in word and Path(word).is_dir()):
            return  # a real folder; images are read from it
        load_data(word)


def encoded(save):
    held = io.BytesIO()
    save(held)
    return held.getvalue()


def targets(folder):
    """All targets; sources of bytes are written once."""
    from PIL import Image
    from safetensors.numpy import save

    full_buffer().save(folder / "whole")
    buffer_file = (folder / "whole").read_bytes()
    pixels = numpy.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=numpy.uint8)
    arrays = {"images": pixels.astype(numpy.float32), "labels": numpy.arange(6)}
    picture = Image.fromarray(pixels[0])
    checkpoint = {
        "callbacks": {TaskCursor().state_key: {"task": 1, "first_step": 4}, "m": make_tracker(1).state_dict()}
    }
    found = [
        Bytes("buffer file", "b.safetensors", buffer_file, read_buffer, (mutate_bytes, mutate_header, mutate_header)),
        Bytes("safetensors", "x.safetensors", save(arrays), read_samples, (mutate_bytes, mutate_header)),
        Bytes("npz", "x.npz", encoded(lambda f: numpy.savez(f, **arrays)), read_samples, (mutate_bytes, mutate_npz)),
        Bytes("compressed npz", "y.npz", encoded(lambda f: numpy.savez_compressed(f, **arrays)), read_samples),
        Bytes("checkpoint", "last.ckpt", encoded(lambda f: torch.save(checkpoint, f)), read_checkpoint),
        State("buffer state", lambda n: full_buffer(tasks=n), use),
        State("tracker state", make_tracker, use_tracker),
        State("replay stream state", make_stream, lambda stream: [stream.draw(4) for _ in range(3)]),
        Scratch(),
        Storm(),
        Names(),
    ]
    for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp"):
        data = encoded(lambda f, kind=kind: picture.save(f, kind.upper()))
        found.append(Bytes(f"{kind} image", f"{kind}/x.{kind}", data, read_folder))
    return found


def every_header_byte(target, header, masks):
    """Every truncation up to the end of the header, and every byte of it changed by each mask."""
    for length in range(header + 1):
        yield target.data[:length]
    for at in range(header):
        for mask in masks:
            yield target.data[:at] + bytes([target.data[at] ^ mask]) + target.data[at + 1 :]


def address_space():
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def watch(violations):
    """Have code that is run, or files that are written elsewhere, noted as violations."""

    def hook(event, arguments):
        if event in RUNS_CODE and not violations.get("paused"):
            violations.setdefault("ran", []).append(f"{event} {arguments}"[:200])

    sys.addaudithook(hook)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000, help="random mutations of each target")
    parser.add_argument("--masks", type=int, default=3, help="changes tried of each byte of a header")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names of targets, a regular expression")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    faulthandler.enable()
    violations, failures, outcomes, started = {}, [], Counter(), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = [target for target in targets(folder) if re.search(given.only or "", target.name)]
        (folder / "scratch").mkdir()
        for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp"):
            (folder / kind).mkdir()
        for target in chosen:  # once unharmed: everything is imported before memory is limited
            if isinstance(target, Bytes):
                target.given(target.data, folder)
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + 256 * 10**6,) * 2)
        watch(violations)

        def judge(target, number, attempt):
            before = set(os.listdir(folder))
            try:
                attempt()
                outcomes[target.name, "taken"] += 1
            except DOCUMENTED as error:
                outcomes[target.name, "refused"] += 1
                if re.search("allocate|MemoryError", str(error)):
                    failures.append((target.name, number, f"memory: {error}"))
            except Exception as error:
                failures.append((target.name, number, repr(error)))
            left = set(os.listdir(folder)) - before - {getattr(target, "file", "").split("/")[0]}
            if left or SENTINEL.exists() or violations.get("ran"):
                failures.append((target.name, number, f"left {left}, ran {violations.pop('ran', None)}"))
                SENTINEL.unlink(missing_ok=True)

        for target in chosen:
            for number in range(given.mutations):
                draw = random.Random(f"{given.seed} {target.name} {number}")
                judge(target, number, lambda t=target, d=draw: t.attempt(d, folder))
        masks = [1, 255, 128, 32, 2, 64, 4, 16, 8][: given.masks]
        for target in [target for target in chosen if target.name in ("buffer file", "safetensors")]:
            header = 8 + int.from_bytes(target.data[:8], "little")
            for number, data in enumerate(every_header_byte(target, header, masks)):
                judge(target, f"header {number}", lambda t=target, d=data: t.given(d, folder))
    for target in chosen:
        print(f"{target.name:20} refused {outcomes[target.name, 'refused']}, taken {outcomes[target.name, 'taken']}")
    for failure in failures[:40]:
        print("FAILED", *failure)
    total = sum(outcomes.values()) + len(failures)
    print(f"{total} attempts, {len(failures)} failures, {time.perf_counter() - started:.0f} s")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
