"""Rows of CSV and JSON Lines are read unchanged; a bad row does not affect the others."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retllm.errors import MediaRejected, TooLarge
from retllm.media.captions import Row, read_rows
from retllm.media.sniffing import FileKind
from retllm.settings import Settings

SETTINGS = Settings(max_text_chars=200, max_file_bytes=1 << 20)
# what a spreadsheet cell can contain: no control characters except line feed and tab
CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('",;\n\t'), max_size=40)


def rows(data: str | bytes, kind: FileKind = FileKind.CSV, settings: Settings = SETTINGS) -> list[Row]:
    raw = data.encode() if isinstance(data, str) else data
    return list(read_rows(io.BytesIO(raw), kind, settings))


@given(
    st.lists(st.tuples(CELL, CELL), max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_csv_rows_survive_a_round_trip(cells: list[tuple[str, str]], delimiter: str, end: str, mark: bool) -> None:
    made = io.StringIO(newline="")
    writer = csv.writer(made, delimiter=delimiter, lineterminator=end)
    writer.writerow(("file", "caption"))
    writer.writerows(cells)
    expected = [
        Row(number, file.strip(), text.strip())
        for number, (file, text) in enumerate(cells, start=2)
        if file.strip() or text.strip()
    ]
    assert rows(("\ufeff" if mark else "") + made.getvalue()) == expected


@given(st.lists(st.tuples(CELL, CELL), max_size=8), st.booleans())
def test_json_lines_survive_a_round_trip(cells: list[tuple[str, str]], ascii_only: bool) -> None:
    lines = [json.dumps({"file": file, "caption": text}, ensure_ascii=ascii_only) for file, text in cells]
    assert rows("\n".join(lines), FileKind.JSONL) == [
        Row(number, file.strip(), text.strip()) for number, (file, text) in enumerate(cells, start=1)
    ]


@pytest.mark.parametrize(
    "header",
    ["file,caption", "FILENAME;Text", "id\timage\tcaption", '"name", "caption"', "caption,file", "text,file,caption"],
)
def test_columns_can_have_several_names_in_any_order(header: str) -> None:
    delimiter = next(d for d in ",;\t" if d in header)
    values = {"file": "a.png", "filename": "a.png", "image": "a.png", "name": "a.png", "id": "1"}
    names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
    line = delimiter.join(
        values.get(name, "words" if name != "text" or "caption" not in names else "other") for name in names
    )
    assert rows(f"{header}\n{line}\n") == [Row(2, "a.png", "words")]


def test_rows_of_texts_need_no_file_column() -> None:
    first, second = rows("caption\none\ntwo, three\n")
    assert first == Row(2, "", "one")
    assert "2 fields, but the header has 1" in str(second.problem)
    assert rows('{"text": "one"}\n\n{"caption": "two", "file": null}\n', FileKind.JSONL) == [
        Row(1, "", "one"),
        Row(3, "", "two"),
    ]


@pytest.mark.parametrize("data", ["", "\n", "a,b\n1,2\n", "file\na.png\n", "a.png,a cat\n", "\ufeff"])
def test_a_csv_without_a_known_header_is_refused(data: str) -> None:
    with pytest.raises(MediaRejected, match="first line"):
        rows(data)


def test_a_bad_csv_row_is_reported_and_the_next_row_is_read() -> None:
    made = rows('file,caption\na.png,a "quoted" cat\nb.png,"bad" quote\nc.png,red, blue\nd.png\n\ne.png,fine\n')
    assert [(row.number, row.file, bool(row.problem)) for row in made] == [
        (2, "a.png", False),
        (3, "", True),
        (4, "", True),
        (5, "d.png", False),
        (7, "e.png", False),
    ]
    assert "Row 3" in str(made[1].problem)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not an object"),
        ('"text"', "not an object"),
        ('{"caption": 3}', "must be strings"),
        ('{"file": ["a"], "caption": "x"}', "must be strings"),
        ('{"a":' * 20_000, "not valid JSON"),
    ],
)
def test_a_bad_json_line_is_reported_and_the_next_line_is_read(line: str, message: str) -> None:
    settings = Settings(max_text_chars=20_000)
    made = rows('{"caption": "first"}\n' + line + '\n{"caption": "last"}', FileKind.JSONL, settings)
    assert [row.number for row in made] == [1, 2, 3]
    assert message in str(made[1].problem)
    assert made[2].text == "last"


def test_a_json_array_is_refused_and_the_error_asks_for_one_object_per_line() -> None:
    with pytest.raises(MediaRejected, match="one object per line"):
        rows('[\n{"file": "a", "caption": "b"}\n]', FileKind.JSONL)


@pytest.mark.parametrize("kind", [FileKind.CSV, FileKind.JSONL])
def test_a_file_that_is_not_utf8_is_refused_before_the_first_row(kind: FileKind) -> None:
    data = b"file,caption\na.png,fine\nb.png,gr\xfcn\n" if kind is FileKind.CSV else b'{"caption": "fine"}\n"gr\xfcn"\n'
    with pytest.raises(MediaRejected, match="UTF-8"):
        next(iter(read_rows(io.BytesIO(data), kind, SETTINGS)))


def test_a_caption_sheet_that_is_too_large_is_refused() -> None:
    with pytest.raises(TooLarge, match="RETLLM_MAX_FILE_BYTES"):
        rows("caption\n" + "words\n" * (1 << 18))


@pytest.mark.parametrize("start", ["caption\n", "caption\na,", 'caption\n"', '{"caption": "'])
def test_an_endless_line_is_not_read_into_memory(start: str) -> None:
    kind = FileKind.JSONL if start.startswith("{") else FileKind.CSV
    stream = io.BytesIO(start.encode() + b"x" * (60 << 20))
    settings = Settings(max_text_chars=200, max_file_bytes=1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="RETLLM_MAX_TEXT_CHARS"):
            list(read_rows(stream, kind, settings))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20


@pytest.mark.slow
def test_an_unclosed_quote_does_not_read_the_sheet_into_memory() -> None:
    data = b'caption\n"never closed\n' + b"more words\n" * 100_000
    settings = Settings(max_text_chars=200, max_file_bytes=1 << 30)
    tracemalloc.start()
    try:
        made = list(read_rows(io.BytesIO(data), FileKind.CSV, settings))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made[0].problem is not None
    assert peak < 100 << 20


def test_the_stream_stays_open_and_can_be_read_again() -> None:
    stream = io.BytesIO(b"caption\none\n")
    assert list(read_rows(stream, FileKind.CSV, SETTINGS)) == [Row(2, "", "one")]
    assert list(read_rows(stream, FileKind.CSV, SETTINGS)) == [Row(2, "", "one")]
