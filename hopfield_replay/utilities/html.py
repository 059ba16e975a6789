"""One self-contained HTML page: pictures inside, nothing from elsewhere, no scripts."""

import base64
import io
from collections.abc import Sequence
from html import escape as escape_markup
from typing import TYPE_CHECKING

from hopfield_replay.utilities.text import printable_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 56rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
p.lead { font-size: 1.1rem; } p.note { color: #555; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; } code { background: #f3f3f3; padding: 0 .2rem; overflow-wrap: anywhere; }
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
    """Paragraph of plain text; ``kind`` is "", "lead" (large) or "note" (small)."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Table whose first column is text and whose other columns are numbers.

    Example:
        >>> table(["class", "rise"], [["cat", "0.1"]]).count("<td>")
        2
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headers)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(figure: "Figure", description: str) -> str:
    """A figure as a PNG inside the page, with a description for those who cannot see it."""
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=120)
    data = base64.b64encode(held.getvalue()).decode()
    return f'<p><img alt="{escape(description)}" src="data:image/png;base64,{data}"></p>'


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


__all__ = ["escape", "heading", "html_page", "paragraph", "picture", "sentence", "table"]
