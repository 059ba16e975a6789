"""A gate's outcome as CI systems show it: JUnit XML and Markdown."""

from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from hopfield_replay.analysis.gate import GATE_HEADERS, Gate
from hopfield_replay.utilities.tables import markdown_table
from hopfield_replay.utilities.text import printable


def as_junit(gates: Mapping[str, Gate], seconds: float = 0.0) -> str:
    """JUnit XML: one suite for each version, one case for each group.

    Args:
        gates: by the name of the version.
        seconds: that all took.

    Example:
        >>> import torch
        >>> gate = Gate.of(torch.ones(3), torch.tensor([2.0, 2.1, 1.9]), {"cat": range(3), "dog": [0]}, 0.1)
        >>> print(as_junit({"lora": gate}))
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="hopfield-replay audit" tests="2" failures="1" skipped="1" time="0.000">
          <testsuite name="lora" tests="2" failures="1" skipped="1">
            <testcase classname="lora" name="cat">
              <failure message="relative rise +100.0%, allowed 10.0% (adjusted p 0.002, 3 samples)" />
            </testcase>
            <testcase classname="lora" name="dog">
              <skipped message="fewer than two samples" />
            </testcase>
          </testsuite>
        </testsuites>
    """
    root = Element("testsuites", name="hopfield-replay audit")
    counts = [(len(g.groups) + len(g.untested), len(g.failing), len(g.untested)) for g in gates.values()]
    for key, total in zip(("tests", "failures", "skipped"), map(sum, zip(*counts, strict=True)), strict=True):
        root.set(key, str(total))
    root.set("time", f"{seconds:.3f}")
    for (version, gate), (tests, failures, skipped) in zip(gates.items(), counts, strict=True):
        label = printable(version, None)
        suite = SubElement(
            root, "testsuite", name=label, tests=str(tests), failures=str(failures), skipped=str(skipped)
        )
        for one in gate.groups:
            case = SubElement(suite, "testcase", classname=label, name=printable(one.name, None))
            if one.fails:
                said = f"relative rise {one.relative:+.1%}, allowed {gate.threshold:.1%}"
                SubElement(case, "failure", message=f"{said} (adjusted p {one.adjusted:.2g}, {one.samples} samples)")
        for name in gate.untested:
            case = SubElement(suite, "testcase", classname=label, name=printable(name, None))
            SubElement(case, "skipped", message="fewer than two samples")
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}'


def as_markdown(gates: Mapping[str, Gate], notes: Mapping[str, str]) -> str:
    """Markdown: the verdict and the table of each version.

    Args:
        gates: by the name of the version.
        notes: what to say of the run, by name.

    Example:
        >>> import torch
        >>> gate = Gate.of(torch.ones(3), torch.ones(3), {"cat": range(3)}, 0.1)
        >>> print(as_markdown({"lora": gate}, {"data": "cats"}).splitlines()[0])
        ## Audit of lora: passed
    """
    lines: list[str] = []
    for version, gate in gates.items():
        lines += [f"## Audit of {_plain(version)}: {'passed' if gate.passed else 'FAILED'}", "", gate.verdict(), ""]
        lines += [markdown_table(GATE_HEADERS, [[_plain(cell) for cell in row] for row in gate.rows()]), ""]
    lines += [f"- {name}: {_plain(value)}" for name, value in notes.items()]
    return "\n".join(lines).rstrip() + "\n"


def _plain(text: str) -> str:
    """Text that is no markup and ends no cell."""
    for mark in "\\|`*_<[":
        text = text.replace(mark, f"\\{mark}")
    return printable(text, None)


__all__ = ["as_junit", "as_markdown"]
