"""Which process something belongs to, told by a name that outlives it."""

import os
from pathlib import Path


def owner() -> str | None:
    """A name that only this process has, among all that ever run on this machine and on others.

    The machine's boot, the namespace of process numbers (a container has its own), this process's number and the time
    it started at. None where the system does not tell (only Linux does).

    Example:
        >>> owner() == owner()
        True
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc is that of another namespace
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}-{os.getpid()}-{_started(os.getpid())}"
    except OSError:
        return None


def has_ended(name: str) -> bool:
    """Whether the process that :func:`owner` gave this name is certain to have ended.

    False where that cannot be known: for processes of other machines and of other containers, for those that ran before
    this machine was booted, and for what is no such name.

    Example:
        >>> has_ended(str(owner())), has_ended("somebody")
        (False, False)
    """
    own = owner()
    if own is None or name.rsplit("-", 2)[0] != own.rsplit("-", 2)[0]:
        return False
    number, started = name.rsplit("-", 2)[1:]
    try:
        os.kill(int(number), 0)  # tells whether it is there, also where /proc hides what belongs to others
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    try:
        return _started(int(number)) != started  # another process, which was given its number
    except OSError:
        return False


def _started(number: int) -> str:
    """When a process started, in ticks since the boot."""
    after_name = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2]
    return after_name.split()[19]
