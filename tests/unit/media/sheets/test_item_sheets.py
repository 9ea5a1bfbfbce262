"""A sheet of items is read as it was written, whatever its cells look like, and no cell of it is a formula."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.db.tables import Item
from retllm.media.normalization import is_blank
from retllm.media.sheets import item_sheets
from retllm.media.sheets.formulas import guarded, unguarded
from retllm.media.sheets.reading import read_rows
from retllm.media.sheets.rows import NOTHING, Row
from retllm.media.sniffing import FileKind
from retllm.settings import Settings

SETTINGS = Settings(max_text_chars=10_000, max_file_bytes=1 << 20)
# what means something in sheets, in spreadsheets, or in neither
LETTERS = st.text(st.sampled_from("a1 '\"=+-@;,|#[]{}\\\t\n\u200b\uff1d"), max_size=12)


def written(*items: tuple[str, str]) -> bytes:
    """A sheet of items with these files and captions."""
    target = io.StringIO()
    writer = csv.writer(target)
    writer.writerow(item_sheets.columns(with_places=True))
    for file, caption in items:
        item = Item(name=file or "a text", text=caption, tags=[], further={})
        writer.writerow(item_sheets.cells(item, file, with_places=True))
    return target.getvalue().encode("utf-8-sig")


def read(data: bytes) -> list[Row]:
    with read_rows(io.BytesIO(data), FileKind.CSV, SETTINGS) as sheet:
        return list(sheet.rows)


@given(LETTERS)
def test_what_is_guarded_is_no_formula_and_is_found_again(text: str) -> None:
    made = guarded(text)
    assert unguarded(made) == text
    assert not re.match("[\\s\u200b]*[=+\\-@\uff1d]", made)


@given(st.lists(LETTERS.map(str.strip).filter(lambda text: not is_blank(text)), min_size=1, max_size=5))
def test_captions_are_read_as_they_were_written(captions: list[str]) -> None:
    files = [f"{number}.png" for number in range(len(captions))]
    rows = read(written(*zip(files, captions, strict=True)))
    # lines of a text end alike from then on
    assert [(row.file, *row.captions) for row in rows] == list(zip(files, captions, strict=True))


@pytest.mark.parametrize("text", [*sorted(NOTHING), *(f"'{text}" for text in sorted(NOTHING))])
def test_words_that_mean_nothing_elsewhere_are_captions(text: str) -> None:
    (row,) = read(written(("a.png", text)))
    assert row.captions == (text,)


def test_a_row_without_a_file_is_a_text_with_its_name() -> None:
    (row,) = read(written(("", "words")))
    assert (row.file, row.captions, row.name) == ("", ("words",), "a text")


def test_a_sheet_that_lacks_a_column_is_one_of_captions() -> None:
    (row,) = read(b"file,caption,title,tags\na.png,a bird,A,b\n")
    assert row.facts is None
    assert row.captions == ("a bird",)
