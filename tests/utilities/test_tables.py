"""Tables are read back by their columns, whatever the cells are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopfield_replay.utilities.tables import markdown_table, text_table

CELLS = st.text("abc -.0%", min_size=1, max_size=9).map(str.strip).filter(bool).filter(lambda cell: "  " not in cell)
TABLES = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=5))


@pytest.mark.heavy
@given(TABLES)
def test_markdown_cells_come_back(table):
    first, rule, *rest = markdown_table(table[0], table[1:]).split("\n")
    assert len({len(line) for line in (first, rule, *rest)}) == 1
    assert set(rule) == {"|", "-"}
    assert [index for index, sign in enumerate(first) if sign == "|"] == [
        i for i, sign in enumerate(rule) if sign == "|"
    ]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in (first, *rest)] == table


@given(TABLES, st.integers(0, 4))
def test_text_columns_are_aligned(table, left):
    lines = text_table(table[0], table[1:], left=left).split("\n")
    assert len(lines) == len(table)
    start = 0
    for column, cells in enumerate(zip(*table, strict=True)):
        width = max(map(len, cells))
        shown = [line[start : start + width].ljust(width) for line in lines]
        assert shown == [cell.ljust(width) if column < left else cell.rjust(width) for cell in cells]
        start += width + 2
    assert not any(line.endswith(" ") for line in lines)


def test_numbers_of_markdown_tables():
    assert markdown_table(["a", "longer"], [[1, 0.123456], ["xyz", None]]).split("\n") == [
        "| a   | longer |",
        "|-----|--------|",
        "| 1   | 0.1235 |",
        "| xyz | None   |",
    ]


def test_rows_of_another_length_are_refused():
    for table in (text_table, markdown_table):
        with pytest.raises(ValueError, match="zip"):
            table(["a", "b"], [["1"]])
