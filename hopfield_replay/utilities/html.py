"""One self-contained HTML page: pictures inside, nothing from elsewhere, no scripts."""

import base64
import io
from collections.abc import Sequence
from html import escape as escape_markup
from typing import TYPE_CHECKING

from torch import Tensor

from hopfield_replay.utilities.pictures import png
from hopfield_replay.utilities.text import printable_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --page: #fff; --soft: #595959; --line: #ddd; --strong: #888;
  --code: #f3f3f3; --bar: #d55e00; --heat: 213 94 0; --cool: 0 114 178; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --page: #16181c; --soft: #a8adb5; --line: #34383f;
  --strong: #6b727d; --code: #262a31; --bar: #f08a3c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 56rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
p.lead { font-size: 1.25rem; line-height: 1.4; margin: .6rem 0; } p.note { color: var(--soft); font-size: .9rem; }
p.warning { border-left: .25rem solid var(--bar); padding-left: .7rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid var(--strong);
  white-space: normal; overflow-wrap: normal; vertical-align: bottom; }
table.text td { white-space: normal; text-align: left; }
td.bar { min-width: 7rem; text-align: left; } td.bar i { display: block; height: .8rem; background: var(--bar); }
td.hot { background: rgb(var(--heat) / var(--share)); } td.cold { background: rgb(var(--cool) / var(--share)); }
img { max-width: 100%; height: auto; background: #fff; } code { background: var(--code); padding: 0 .2rem; }
.cards { display: flex; flex-wrap: wrap; gap: .9rem; margin: .6rem 0; }
.cards figure { margin: 0; font-size: .8rem; line-height: 1.3; } .cards figcaption { max-width: 13rem; }
.cards img { width: 4rem; image-rendering: pixelated; margin-right: .2rem; background: none; }
.cards.small { gap: .25rem; } .cards.small img { width: 3rem; margin: 0; } details { margin: .6rem 0; }
@media (max-width: 56rem) { th, td { padding: .2rem .4rem; } td.bar { min-width: 4rem; } }
@media (max-width: 30rem) { body { margin: 1rem auto; } th, td { padding: .2rem .35rem; font-size: .85rem; }
  td.bar { min-width: 3rem; } .cards img { width: 2.5rem; } .cards figcaption { max-width: 8.5rem; } }
"""


def escape(text: str) -> str:
    """Text as a page can hold it: no markup, no control characters, no halves of characters."""
    return escape_markup(printable_lines(text))


def sentence(text: str) -> str:
    """Text with a capital at its beginning.

    Example:
        >>> sentence("worst class: cat")
        'Worst class: cat'
    """
    return text[:1].upper() + text[1:]


def heading(text: str) -> str:
    """Heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """Paragraph of plain text; ``kind`` is "", "lead" (large) or "note" (small) or "warning"."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> str:
    """Table whose first column is text and whose other columns are numbers, or with ``text`` all of it.

    Example:
        >>> table(["class", "rise"], [["cat", "0.1"]]).count("<td>")
        2
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headers)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    kind = ' class="text"' if text else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def ranked(headers: Sequence[str], rows: Sequence[Sequence[str]], values: Sequence[float]) -> str:
    """Table whose second column is a bar for the value of each row, as long as the value is large; none below zero.

    Args:
        headers: of the first column, of the bars, and of the other columns.
        rows: cells of the first and of the other columns.
        values: of the bars, one for each row.

    Example:
        >>> ranked(["task", "", "rise"], [["0", "0.2"], ["1", "-0.1"]], [0.2, -0.1]).count("width:100%")
        1
    """
    largest = max((value for value in values if value > 0), default=0.0)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headers)
    lines = []
    for (name, *others), value in zip(rows, values, strict=True):
        share = max(0.0, value / largest) if largest else 0.0
        bar = f'<td class="bar"><i style="width:{share:.0%}"></i></td>'
        lines.append(f"<tr><td>{escape(name)}</td>{bar}{''.join(f'<td>{escape(cell)}</td>' for cell in others)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def heat(headers: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    """Table of numbers, the larger the warmer, those below zero the colder; None is left empty.

    Example:
        >>> heat(["after task", "of task 0"], [("0", [None]), ("1", [0.5])]).count('class="hot"')
        1
    """
    largest = max((abs(value) for _, values in rows for value in values if value is not None), default=0.0)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headers)
    lines = []
    for name, values in rows:
        cells = []
        for value in values:
            if value is None:
                cells.append("<td></td>")
            else:
                share, kind = abs(value) / largest if largest else 0.0, "hot" if value >= 0 else "cold"
                cells.append(f'<td class="{kind}" style="--share:{0.75 * share:.2f}">{value:.3g}</td>')
        lines.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def cards(pictures: Sequence[tuple[Sequence[Tensor], str]], *, small: bool = False) -> str:
    """Small pictures (height, width, 3) of bytes, one or more beside each other, each with a caption, as wide as fits.

    Example:
        >>> import torch
        >>> cards([([torch.zeros(4, 4, 3, dtype=torch.uint8)] * 2, "a <cat>")]).count("<img")
        2
    """
    shown = []
    for beside, caption in pictures:
        said = escape(caption)
        images = "".join(f'<img alt="{said}" src="data:image/png;base64,{_base64(png(one))}">' for one in beside)
        below = f"<figcaption>{said.replace(chr(10), '<br>')}</figcaption>" if caption and not small else ""
        shown.append(f"<figure>{images}{below}</figure>")
    return f'<div class="cards{" small" if small else ""}">{"".join(shown)}</div>'


def folded(summary: str, parts: Sequence[str]) -> str:
    """Parts that are seen after a click."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def picture(figure: "Figure", description: str) -> str:
    """A figure as a PNG inside the page, with a description for those who cannot see it."""
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=120)
    return f'<p><img alt="{escape(description)}" src="data:image/png;base64,{_base64(held.getvalue())}"></p>'


def html_page(title: str, parts: Sequence[str]) -> str:
    """Lay out a page.

    Args:
        title: of the page, plain text.
        parts: what :func:`heading`, :func:`paragraph`, :func:`table` and :func:`picture` return, in order.

    Returns:
        The whole page; its policy forbids the browser to load anything from elsewhere or to run scripts.

    Example:
        >>> page = html_page("Audit <1>", [paragraph("a < b")])
        >>> "<title>Audit &lt;1&gt;</title>" in page, "<p>a &lt; b</p>" in page
        (True, True)
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


__all__ = [
    "cards",
    "escape",
    "folded",
    "heading",
    "heat",
    "html_page",
    "paragraph",
    "picture",
    "ranked",
    "sentence",
    "table",
]
