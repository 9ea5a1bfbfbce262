"""Cells of exported CSV are not evaluated by a spreadsheet, and others stay as they are."""

from __future__ import annotations

import codecs
import csv
import re

import pytest
from tests.unit.media.sheets.reading import pairs

from retllm_web.http import spreadsheet


def cell(value: object) -> str:
    ((read,),) = csv.reader([spreadsheet.line([value])])
    return read


@pytest.mark.parametrize("before", ["", " ", "\u00a0", "\u200b", "\u00ad", "\u2060", "\u180e", "\u202e \ufeff"])
@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_formula_is_escaped(before: str, first: str) -> None:
    assert cell(f"{before}{first}1+2") == f"'{before}{first}1+2"


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\uff1d"])
@pytest.mark.parametrize("before", ["a;", "a; ", 'a;"', "a\n", "a\t", "a;\u200b", ";;", 'a;"" ', "a\r\n "])
def test_no_formula_is_evaluated_where_cells_are_separated_by_semicolons_or_tabs(before: str, first: str) -> None:
    written = spreadsheet.line(["x", f"{before}{first}1+1;b"])
    for delimiter in ";\t":
        for read in csv.reader(written.splitlines(), delimiter=delimiter):
            for value in read:
                assert not re.match('[\\s\u200b"]*[=+\\-@\uff1d]', value), (delimiter, value)


def test_the_time_for_a_cell_of_nothing_but_separators_is_proportional_to_its_length() -> None:
    value = ";" * 200_000 + "\n\t \u200b" * 200_000
    assert spreadsheet.line([value]) == f'"{value}"\r\n'


@pytest.mark.parametrize(
    "value", ["a;b", "a; b-c", "two\nlines", "a=b", "IMG-1.png", "\u200bname", " spaced", "", -0.5, 3]
)
def test_other_cells_stay(value: object) -> None:
    assert cell(value) == str(value)


def test_what_is_written_for_excel_is_read_back() -> None:
    lines = [spreadsheet.line(cells) for cells in (("file", "caption"), ("möwe.png", "Ein Möwenpaar"))]
    data = "".join(spreadsheet.marked(lines)).encode()
    assert data.startswith(codecs.BOM_UTF8)
    assert pairs(data) == [("möwe.png", ("Ein Möwenpaar",))]
