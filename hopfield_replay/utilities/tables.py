"""Tables as text, for a terminal and in Markdown."""

from collections.abc import Sequence


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    r"""Lay out rows in columns as wide as their widest cell, two spaces apart.

    Args:
        headers: column names, of one or more lines.
        rows: cells, one sequence as long as ``headers`` for each row.
        left: so many of the first columns are aligned at the left, the others at the right.

    Returns:
        The table, without a trailing newline.

    Example:
        >>> print(text_table(["group", "mean\nrise"], [["outlier", "0.03"], ["all", "-0.5"]]))
                 mean
        group    rise
        outlier  0.03
        all      -0.5
    """
    parts = [header.split("\n") for header in headers]  # a header may have several lines, the last above its column
    height = max(map(len, parts), default=1)
    padded = [[""] * (height - len(part)) + part for part in parts]
    head = [[part[i] for part in padded] for i in range(height)]
    widths = [max(map(len, column)) for column in zip(*head, *rows, strict=True)]
    lines = []
    for row in (*head, *rows):
        cells = zip(row, widths, strict=True)
        aligned = [c.ljust(w) if column < left else c.rjust(w) for column, (c, w) in enumerate(cells)]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows as an aligned Markdown table; floats with four significant digits.

    Args:
        headers: column names.
        rows: cells, one sequence as long as ``headers`` for each row.

    Returns:
        The table, without a trailing newline.

    Example:
        >>> print(markdown_table(["group", "rise"], [["outlier", 0.0300114]]))
        | group   | rise    |
        |---------|---------|
        | outlier | 0.03001 |
    """
    texts = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = _widths(headers, texts)
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in (headers, *texts)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _widths(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(headers, *rows, strict=True)]


__all__ = ["markdown_table", "text_table"]
