"""What a command took, and which files and code it was about."""

import hashlib
import sys
import sysconfig
import time
from pathlib import Path

from hopfield_replay.utilities.files import files_below


class Cost:
    """Time since it was made, and the most memory that was taken.

    Example:
        >>> str(Cost()).startswith("took 0.")
        True
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._start

    def __str__(self) -> str:
        parts = [f"took {self.seconds:.1f} s"]
        if (host := _host_bytes()) is not None:
            parts.append(f"{host / 2**30:.2f} GiB of host memory at most")
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            parts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of GPU memory at most")
        return ", ".join(parts)


def _host_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def fingerprint(source: str) -> str:
    """A text that differs where a file, or any file of a folder, has another name, size or time of writing.

    Example:
        >>> fingerprint("missing")
        'missing: []'
    """
    path = Path(source)
    files = sorted(files_below(path)) if path.is_dir() else [path]
    held = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return f"{source}: {held}"


def code_fingerprint() -> str:
    """A text that differs where a file of the user's own code that is loaded, or what computes below it, is another.

    Example:
        >>> "torch" in code_fingerprint()
        True
    """
    import torch

    from hopfield_replay.__about__ import __version__

    installed = tuple(sysconfig.get_paths().values())
    files = {getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if _is_own(name)}
    own = sorted(file for file in files if file is not None and not file.startswith(installed))
    held = [(file, hashlib.sha256(Path(file).read_bytes()).hexdigest()) for file in own if Path(file).is_file()]
    return f"hopfield_replay {__version__}, torch {torch.__version__}, {held}"


def _is_own(module: str) -> bool:
    return module.partition(".")[0] not in ("__main__", "hopfield_replay")  # these differ with how a command is called


__all__ = ["Cost", "code_fingerprint", "fingerprint"]
