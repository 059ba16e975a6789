"""Libraries that are silent while they are used."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars and no advice of diffusers and transformers: what matters of it is an error here."""
    logs = [import_module(f"{name}.utils.logging") for name in ("diffusers", "transformers") if find_spec(name)]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity(50)  # critical
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, shown) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if shown:
                log.enable_progress_bar()


__all__ = ["quiet_libraries"]
