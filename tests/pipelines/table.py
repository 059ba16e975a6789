"""The families that can be audited, and what was shown of each: python -m tests.pipelines.table"""

import sys
import tempfile
import time
from pathlib import Path

from hopfield_replay.utilities.tables import text_table
from tests.pipelines import proofs, tiny


def row(family, folder):
    """Cells of one family; each with the seconds that it took."""
    started, cells = time.perf_counter(), [family]

    def cell(value):
        nonlocal started
        now = time.perf_counter()
        cells.append(f"{value} ({now - started:.1f} s)")
        started = now

    base = proofs.saved(family, folder / "base")
    again = proofs.versions(base, base)
    cell("yes")
    cell(f"{proofs.audited(*again, family).mean:g}")
    worse = proofs.saved(family, folder / "worse", lambda pipeline: proofs.unlearn(pipeline, family))
    found = proofs.audited(*proofs.versions(base, worse), family)
    cell(f"{found.overall.relative:+.0%}, first: {next(iter(found.classes))}")
    works = []
    for kind in proofs.formats(family):
        path, wanted = proofs.lora(family, folder / kind, kind)
        after = proofs.versions(base, path)[1]
        got = dict(getattr(after.module, after.model.component).named_parameters())
        assert all(proofs.torch.equal(got[name], weight) for name, weight in wanted.items())
        works.append(kind)
    cell(", ".join(works))
    cell(f"{max(proofs.error_of_own_step(family, steps)[0] for steps in (2, 4)):.0e}")
    return cells


def main():
    rows = []
    for family in sys.argv[1:] or tiny.FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(family, Path(folder)))
        print(*rows[-1], sep="; ", file=sys.stderr, flush=True)
    header = ("family", "loads", "self-audit", "one concept disturbed", "LoRA formats, merged weights equal W + BA",
              "denoiser against the pipeline's own step")  # fmt: skip
    print(text_table(header, rows))


if __name__ == "__main__":
    main()
