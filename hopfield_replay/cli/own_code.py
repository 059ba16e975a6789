"""Code of the user's own in the working folder, found only where the user names it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec


@contextlib.contextmanager
def importable(name: str | None) -> Iterator[None]:
    """Let the module of ``"package.module:name"`` be found in the working folder inside the block.

    Only if there is no such module elsewhere, and behind everything that is installed: a file that lies beside the
    data, called like a package, is never taken for that package.

    Args:
        name: of the user's class; None: nothing is to be found.

    Example:
        >>> before = list(sys.path)
        >>> with importable("no_such_module_is_installed:Model"):
        ...     sys.path[-1] == os.getcwd()
        True
        >>> sys.path == before
        True
    """
    if name is None or _is_installed(name.partition(":")[0].partition(".")[0]):
        yield
        return
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        # the last one: what the imported code put into the path before it stays
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]


def _is_installed(module: str) -> bool:
    try:
        return module in sys.modules or find_spec(module) is not None
    except (ImportError, ValueError):  # no name of a module
        return False
