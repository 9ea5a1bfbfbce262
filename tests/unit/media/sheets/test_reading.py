"""Rows of tables and JSON are read unchanged in the forms that people have; a bad row does not affect the others."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.media.sheets.reading import CSV, JSON, SETTINGS, pairs, rows

from retllm.errors import MediaRejected, TooLarge
from retllm.media.normalization import is_blank
from retllm.media.sheets.reading import is_sheet, read_rows
from retllm.media.sheets.rows import Row
from retllm.media.sniffing import FileKind
from retllm.settings import Settings

# what a spreadsheet cell can contain: no control characters except line feed and tab
#: what programs write into a cell without a value, which is no text
NOTHING = {"nan", "NaN", "NULL", "null", "None", "N/A", "<NA>"}
CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('",;\n\t'), max_size=40).filter(
    lambda text: text.strip() not in NOTHING
)


def captions(text: str) -> tuple[str, ...]:
    return () if is_blank(text) else (text.strip(),)


@given(
    st.lists(st.tuples(CELL, CELL), max_size=8),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_quoted_tables_survive_a_round_trip(
    cells: list[tuple[str, str]], delimiter: str, end: str, mark: bool, throughout: bool
) -> None:
    made = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if throughout else csv.QUOTE_MINIMAL
    writer = csv.writer(made, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(("file", "caption"))
    writer.writerows(cells)
    expected = [
        Row(number, file.strip(), captions(text))
        for number, (file, text) in enumerate(cells, start=2)
        if file.strip() or text.strip()
    ]
    assert rows(("\ufeff" if mark else "") + made.getvalue()) == expected


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_json_survives_a_round_trip(cells: list[tuple[str, str]], ascii_only: bool, lines: bool) -> None:
    objects = [{"file": file, "caption": text} for file, text in cells]
    made = "\n".join(json.dumps(each, ensure_ascii=ascii_only) for each in objects)
    whole = json.dumps(objects, ensure_ascii=ascii_only, indent=1)
    expected = [Row(number, file.strip(), captions(text)) for number, (file, text) in enumerate(cells, start=1)]
    assert rows(made if lines else whole, JSON) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("sep=;\nfile;caption\na.png;x, y\n", [("a.png", ("x, y",))]),
        ("sep=\t\r\nfile\tcaption\na.png\tx\n", [("a.png", ("x",))]),
        ('"sep=\t"\nfile\tcaption\na.png\tx\n', [("a.png", ("x",))]),
        ("\n\n;;\nfile;caption\na.png;x\n", [("a.png", ("x",))]),
        # Markdown
        (
            "| file | caption |\n|:--|--:|\n| a.png | one \\| two |\n|b.png|-|\n",
            [("a.png", ("one | two",)), ("b.png", ("-",))],
        ),
        # what programs and people write above the header
        ("Table 1,,\nfile,caption,x\na.png,one,1\n", [("a.png", ("one",))]),
        ("My captions,,\n,,\nfile,caption,\na.png,one,\n", [("a.png", ("one",))]),
        ("Captions\n\nfile,caption\na.png,one\n", [("a.png", ("one",))]),
        ("# exported 2024, by me\n# again\nfile;caption\na.png;x, y\n", [("a.png", ("x, y",))]),
        ("image,caption\na.jpg,one\na.jpg,two\n", [("a.jpg", ("one",)), ("a.jpg", ("two",))]),
        ('a.jpg#0\tA dog .\na.jpg#1\tA "dog\n', [("a.jpg#0", ("A dog .",)), ("a.jpg#1", ('A "dog',))]),
        ('image_name| comment_number| comment\na.jpg| 0| Two "men" run\n', [("a.jpg", ('Two "men" run',))]),
        ("a.jpg|0|Two men\nb.jpg|0|Three\n", [("a.jpg", ("Two men",)), ("b.jpg", ("Three",))]),
        ("x/a.png,a cat\nx/b.png,a dog\n", [("x/a.png", ("a cat",)), ("x/b.png", ("a dog",))]),
        ("0,a.png,a cat\n1,b.png,a dog\n", [("a.png", ("a cat",)), ("b.png", ("a dog",))]),
        # Conceptual Captions, and a caption with the delimiter
        ("a cat\thttp://host/a.png?w=3\n", [("http://host/a.png?w=3", ("a cat",))]),
        ("a cat\thttp://host/12345\n", [("http://host/12345", ("a cat",))]),
        ("image| number| comment\na.jpg| 0| one | two\n", [("a.jpg", ("one | two",))]),
    ],
)
def test_tables_of_spreadsheets_and_of_well_known_collections_are_read(
    data: str, expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert pairs(data) == expected


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ('"big" red thing', '"big" red thing'),
        ('a 5" screen', 'a 5" screen'),
        ('"never closed', '"never closed'),
        ('"a, ""b"""', 'a, "b"'),
    ],
)
def test_tabs_are_quoted_only_if_all_quotes_of_the_sheet_are_those_of_fields(line: str, caption: str) -> None:
    assert pairs(f"file\tcaption\na.png\t{line}\nb.png\tplain\n") == [("a.png", (caption,)), ("b.png", ("plain",))]


def test_a_bad_csv_row_is_reported_and_the_next_row_is_read() -> None:
    made = rows('file,caption\na.png,a "quoted" cat\nb.png,"bad" quote\nc.png,red, blue\nd.png\n\ne.png,fine\n')
    assert [(row.number, row.file, bool(row.problem)) for row in made] == [
        (2, "a.png", False),
        (3, "", True),
        (4, "", True),
        (5, "d.png", False),
        (7, "e.png", False),
    ]
    assert made[1].problem is not None
    assert "Row 3" in made[1].problem.error.message


@pytest.mark.parametrize("stray", ['"big red thing', '"a 5"" screen', 'x,"', '"'])
def test_a_stray_quote_loses_its_row_only(stray: str) -> None:
    made = rows(f'file,caption\na.png,{stray}\nb.png,fine\nc.png,"quoted, and\ntwo lines"\nd.png,5" wide"\n')
    assert made[0].problem is not None
    assert made[1:3] == [Row(3, "b.png", ("fine",)), Row(4, "c.png", ("quoted, and\ntwo lines",))]
    assert len(made) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not an object"),
        ('"text"', "not an object"),
        ('{"caption": 3}', "has to be a text"),
        ('{"file": ["a"], "caption": "x"}', "has to be a text"),
        ('{"a":' * 20_000, "not valid JSON"),
    ],
)
def test_a_bad_json_line_is_reported_and_the_next_line_is_read(line: str, message: str) -> None:
    settings = Settings(max_text_chars=20_000)
    made = rows('{"caption": "first", "file": "a"}\n' + line + '\n{"caption": "last"}', JSON, settings)
    assert [row.number for row in made] == [1, 2, 3]
    assert made[1].problem is not None
    assert message in made[1].problem.error.message
    assert made[2].captions == ("last",)


def test_a_row_between_other_delimiters_than_the_header_is_refused_for_that() -> None:
    first, second, third = rows("file,caption\na.png;one\nb.png|two\nc.png,x;y\n")
    for row, other in ((first, ";"), (second, "|")):
        assert row.problem is not None
        assert f"has {other!r} between its fields, but the header has ','" in row.problem.error.message
    assert third == Row(4, "c.png", ("x;y",))


def test_a_sheet_that_is_too_large_is_refused() -> None:
    with pytest.raises(TooLarge, match="RETLLM_MAX_FILE_BYTES"):
        rows("caption\n" + "words\n" * (1 << 18))


@pytest.mark.parametrize("start", ["caption\n", "caption\na,", 'caption\n"', '{"caption": "x"}\n{"caption": "'])
def test_an_endless_line_is_not_read_into_memory(start: str) -> None:
    kind = JSON if start.startswith("{") else CSV
    stream = io.BytesIO(start.encode() + b"x" * (60 << 20))
    settings = Settings(max_text_chars=200, max_file_bytes=1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="RETLLM_MAX_TEXT_CHARS"), read_rows(stream, kind, settings) as sheet:
            list(sheet.rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20


def test_quotes_that_never_close_are_given_up_after_a_bounded_amount_of_work() -> None:
    # every row runs on to the end of what one row may have
    data = "file,caption\n" + 'x","a\n' * 40_000
    settings = Settings(max_text_chars=200, max_file_bytes=1 << 30)
    with pytest.raises(MediaRejected, match="too many quotes do not close"):
        rows(data, settings=settings)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("image,caption\na.jpg,a dog\n", True),
        ("a.jpg#0\ta dog\n", True),
        ("image,caption\n", False),
        ("Image, caption and text: a poem\nby me, myself\n", False),
        ("a.jpg\nb.jpg\n", False),
        ("My cat\n\nIt sleeps, it eats.", False),
        ("", False),
        ("\xff", False),
    ],
)
def test_a_plain_text_is_a_sheet_only_if_it_names_pictures(data: str, expected: bool) -> None:
    stream = io.BytesIO(data.encode("latin-1"))
    assert is_sheet(stream, SETTINGS) is expected
    assert stream.tell() == 0


@pytest.mark.parametrize("between", [" ", ": ", "  "])
def test_a_text_whose_lines_begin_with_names_is_a_sheet(between: str) -> None:
    data = f"IMG 1.png#0{between}A dog , red .\nb.jpg{between}Two: cats\n\nmore words\n"
    assert is_sheet(io.BytesIO(data.encode()), SETTINGS)
    first, second, third = rows(data)
    assert (first, second) == (Row(1, "IMG 1.png#0", ("A dog , red .",)), Row(2, "b.jpg", ("Two: cats",)))
    assert third.problem is not None
    assert third.problem.error.message == "Row 4 does not begin with the name of a picture."


@pytest.mark.parametrize(
    "data",
    [
        "a.png shows a dog\n",
        "a.png shows a dog\nIt is red.\n",
        "a.png 1\nb.png 2\n",
        "a.png b.png\nc.png d.png\n",
        "a.png 0.1 0.2 0.3\nb.png 0.1 0.2 0.3\n",
    ],
)
def test_a_text_that_mentions_pictures_is_no_sheet(data: str) -> None:
    assert not is_sheet(io.BytesIO(data.encode()), SETTINGS)


def test_the_stream_stays_open_and_can_be_read_again() -> None:
    stream = io.BytesIO(b"caption\none\n")
    for _ in range(2):
        with read_rows(stream, CSV, SETTINGS) as sheet:
            assert list(sheet.rows) == [Row(2, "", ("one",))]


WORDS = "file caption image_path text a.png b.jpg#1 sep=; 1 - null é %20 ../ http://x/ { } [ ] : , ; | \ud800 \u0000"
KEYS = ["images", "annotations", "id", "image_id", "file", "caption"]
FRAGMENT = st.sampled_from([*WORDS.split(), *map(json.dumps, KEYS), '"', '""', "\t", "\n", "\r", " ", "\ufeff"])


@given(st.lists(FRAGMENT | st.text(max_size=4), max_size=40).map("".join), st.sampled_from([CSV, JSON, FileKind.TEXT]))
@example('{"images":[{"id":1,"file_name":2}],"annotations":[{"image_id":1,"caption":{"caption":"x"}}]}', JSON)
@example('{"file":[1],"caption":{"a":null}}', JSON)
def test_any_text_gives_rows_or_one_reason(data: str, kind: FileKind) -> None:
    raw = data.encode("utf-8", "surrogatepass")
    if kind is FileKind.TEXT:
        is_sheet(io.BytesIO(raw), SETTINGS)
        return
    with suppress(MediaRejected, TooLarge):
        assert all(row.number >= 1 for row in rows(raw, kind))


@given(st.binary(max_size=200), st.sampled_from([CSV, JSON]))
def test_any_bytes_give_rows_or_one_reason(data: bytes, kind: FileKind) -> None:
    with suppress(MediaRejected, TooLarge):
        rows(data, kind)


@pytest.mark.parametrize(
    ("sheet", "expected"),
    [
        ('"File\nname","Caption\n(en)"\na.png,A\nb.png,B\n', [("a.png", ("A",)), ("b.png", ("B",))]),
        ('My sheet\n"File\nname","Caption"\na.png,A\n', [("a.png", ("A",))]),
        ('file,caption\n"a\nb.png",A\nc.png,C\n', [("a\nb.png", ("A",)), ("c.png", ("C",))]),
    ],
    ids=["header", "header below a title", "name"],
)
def test_names_in_quotes_may_have_line_breaks(sheet: str, expected: list[tuple[str, tuple[str, ...]]]) -> None:
    assert pairs(sheet) == expected


def test_a_quote_that_is_not_closed_before_a_row_is_still_the_fault_of_its_own_row() -> None:
    made = rows('file,caption\na.png,"A\nb.png,B\n"c.png","C"\n')
    assert [(row.number, row.file, row.captions, bool(row.problem)) for row in made] == [
        (2, "", (), True),
        (3, "b.png", ("B",), False),
        (4, "c.png", ("C",), False),
    ]


@pytest.mark.parametrize("nothing", ["nan", "NaN", "NULL", "null", "None", "N/A", "<NA>"])
def test_what_stands_for_no_value_is_no_caption(nothing: str) -> None:
    made = pairs(f"file,caption,caption_2\na.png,{nothing},\nb.png,B,{nothing}\nc.png,none of them,\n")
    assert made == [("a.png", ()), ("b.png", ("B",)), ("c.png", ("none of them",))]


def test_a_dash_between_name_and_words_is_no_part_of_the_caption() -> None:
    made = pairs("a.png - A dog\nb.png \u2013 A cat\nc.png: A hen - B\nd.png x-y\n")
    assert made == [("a.png", ("A dog",)), ("b.png", ("A cat",)), ("c.png", ("A hen - B",)), ("d.png", ("x-y",))]
