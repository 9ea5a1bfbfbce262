"""A sheet has a bounded number of columns, and a row costs what its own fields cost."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from retllm.errors import TooLarge
from retllm.media.sheets import column_names, columns
from retllm.media.sheets.columns import MAX_COLUMNS, Columns
from retllm.media.sheets.reading import read_rows
from retllm.media.sheets.rows import Record, Row
from retllm.media.sniffing import FileKind
from retllm.settings import Settings

SETTINGS = Settings(max_text_chars=50_000, max_file_bytes=1 << 20)
MORE = "The sheet has more than 1,000 columns"


def rows(data: str, kind: FileKind) -> list[Row]:
    with read_rows(io.BytesIO(data.encode()), kind, SETTINGS) as sheet:
        return list(sheet.rows)


def new_keys(extra: int) -> Iterator[dict[str, object]]:
    """Rows each of which has a key that no other has."""
    return ({"file": f"{n}.png", "caption": "a cat", f"key {n}": n} for n in range(extra))


@pytest.mark.parametrize("form", ["lines", "list", "table"])
def test_a_sheet_with_too_many_columns_is_refused_as_a_whole(form: str) -> None:
    def data(extra: int) -> tuple[str, FileKind]:
        if form == "lines":
            return "\n".join(map(json.dumps, new_keys(extra))), FileKind.JSONL
        if form == "list":
            return json.dumps(list(new_keys(extra))), FileKind.JSONL
        names = "".join(f",key {n}" for n in range(extra))
        return f"file,caption{names}\na.png,a cat\n", FileKind.CSV

    assert rows(*data(MAX_COLUMNS - 2))[-1].captions == ("a cat",)
    for extra in (MAX_COLUMNS - 1, 26_000 if form == "table" else 1_200):
        with pytest.raises(TooLarge, match=MORE):
            rows(*data(extra))


def test_the_role_of_a_column_is_looked_up_once_for_a_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    role = column_names.role
    monkeypatch.setattr(columns, "role", lambda name: looked_up.append(name) or role(name))
    records = [Record(n, fields) for n, fields in enumerate(new_keys(MAX_COLUMNS - 2), start=1)]
    chosen = Columns(["file", "caption"], records[:100])
    made = [chosen.row(record) for _ in range(3) for record in records]
    assert all(row.captions == ("a cat",) for row in made)
    assert len(looked_up) == len(set(looked_up)) == MAX_COLUMNS


class CountedFields(dict[str, object]):
    """Fields that count how often one is asked for."""

    asked = 0

    def __getitem__(self, name: str) -> object:
        self.asked += 1
        return super().__getitem__(name)

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
        self.asked += 1
        return super().get(name, default)


def test_a_row_of_few_fields_costs_little_in_a_sheet_of_many_known_columns() -> None:
    half = MAX_COLUMNS // 2
    chosen = Columns([*(f"caption_{n}" for n in range(half)), *(f"file{' ' * n}" for n in range(1, 90))], [])
    fields = CountedFields({"caption_7": "seven", "caption_3": "three", "file ": "a.png"})
    assert chosen.row(Record(1, fields)) == Row(1, "a.png", ("three", "seven"))
    assert fields.asked < 10


def test_columns_of_unlike_length_keep_only_their_own_values() -> None:
    document = {"file": [f"{n}.png" for n in range(3)], "caption_1": ["a", "b", "c"], "caption_2": ["d"]}
    assert [row.captions for row in rows(json.dumps(document), FileKind.JSONL)] == [("a", "d"), ("b",), ("c",)]


def test_a_second_column_of_a_name_never_takes_the_name_of_a_third() -> None:
    made = rows("file,caption (3),caption,caption\na.png,one,two,three\n", FileKind.CSV)
    assert made[0].captions == ("one", "two", "three")
    made = rows("file,caption,caption (4),caption\na.png,one,two,three\n", FileKind.CSV)
    assert made[0].captions == ("one", "two", "three")
