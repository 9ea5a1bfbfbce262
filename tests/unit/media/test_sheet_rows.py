"""The rows of a caption sheet find their pictures."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from tests.unit.media.outcomes import Items, add_file, reason
from tests.unit.media.samples import packed, picture

from retllm.media.batch import add_files
from retllm.media.ingest import FileOutcome, IncomingFile, Ingest


def test_a_row_matches_a_picture_by_full_name_or_else_by_base_name(ingest: Ingest, items: Items) -> None:
    for number, name in enumerate(["x/a.png", "y/a.png", "x/b.png", "c.png"]):
        add_file(ingest, name, io.BytesIO(picture(number)))
    sheet = "file,caption\nx/a.png,one\na.png,two\nb.png,three\n./images\\c.png,four\nd.png,five\n"
    outcomes = add_file(ingest, "c.csv", io.BytesIO(sheet.encode()))
    assert [outcome.status for outcome in outcomes] == ["updated", "rejected", "updated", "updated", "rejected"]
    assert "matches 2 pictures" in reason(outcomes[1])
    assert "Row 6" in reason(outcomes[4])
    assert "'d.png'" in reason(outcomes[4])
    assert {item.name: item.text for item in items()} == {
        "x/a.png": "one",
        "y/a.png": None,
        "x/b.png": "three",
        "c.png": "four",
    }


def test_a_row_prefers_a_picture_of_the_same_upload(ingest: Ingest, items: Items) -> None:
    add_file(ingest, "a.png", io.BytesIO(picture(1)))
    add_file(ingest, "z.zip", packed({"new/a.png": picture(2), "c.csv": b"file,caption\na.png,the new one\n"}))
    assert {item.name: item.text for item in items()} == {"a.png": None, "new/a.png": "the new one"}


def test_a_row_matches_a_duplicate_by_its_name_in_the_upload(ingest: Ingest, items: Items) -> None:
    add_file(ingest, "old.png", io.BytesIO(picture(1)))
    add_file(ingest, "z.zip", packed({"again.png": picture(1), "c.csv": b"file,caption\nagain.png,a cat\n"}))
    assert [(item.name, item.text) for item in items()] == [("old.png", "a cat")]


def test_a_second_caption_for_a_picture_in_one_sheet_is_rejected(ingest: Ingest, items: Items) -> None:
    add_file(ingest, "a.png", io.BytesIO(picture()))
    sheet = b"file,caption\na.png,first\na.png,second\na.png,first\n"
    for _ in range(2):
        outcomes = add_file(ingest, "c.csv", io.BytesIO(sheet))
        assert "after row 2" in reason(outcomes[1])
        assert outcomes[2].status == "duplicate"
    assert [(item.text, item.version) for item in items()] == [("first", 2)]


def test_rejected_rows_have_a_reason(ingest: Ingest, items: Items) -> None:
    add_file(ingest, "a.png", io.BytesIO(picture()))
    lines = [
        '{"file": "a.png", "caption": "  "}',
        '{"file": "a.png", "caption": "' + "x" * 201 + '"}',
        '{"caption": "nul \\u0000"}',
        '{"caption": "half \\ud800"}',
        "{",
        '{"caption": "fine"}',
    ]
    outcomes = add_file(ingest, "c.jsonl", io.BytesIO("\n".join(lines).encode()))
    assert [outcome.status for outcome in outcomes] == ["rejected"] * 5 + ["added"]
    for number, part in enumerate(["empty", "RETLLM_MAX_TEXT_CHARS", "NUL", "surrogate", "JSON"], start=1):
        message = reason(outcomes[number - 1])
        assert message.startswith(f"Row {number}")
        assert part in message
    assert {item.text for item in items()} == {None, "fine"}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("c.csv", b"file,caption\n", "no captions"),
        ("c.csv", b"what,ever\n1,2\n", "first line"),
        ("c.csv", b"caption\ngr\xfcn\n", "UTF-8"),
        ("c.jsonl", b"[]", "one object per line"),
    ],
)
def test_an_unusable_sheet_is_rejected_as_a_whole(
    name: str, data: bytes, message: str, ingest: Ingest, items: Items
) -> None:
    for outcomes in (add_file(ingest, name, io.BytesIO(data)), add_file(ingest, "z.zip", packed({name: data}))):
        (outcome,) = outcomes
        assert outcome.name == name
        assert message in reason(outcome)
    assert items() == []


@pytest.mark.slow
def test_a_sheet_can_have_more_rows_than_one_transaction(ingest: Ingest, items: Items) -> None:
    add_file(ingest, "a.png", io.BytesIO(picture()))
    lines = [f'{{"text": "number {n}"}}' for n in range(1100)] + ['{"file": "a.png", "caption": "the last"}']
    outcomes = add_file(ingest, "c.jsonl", io.BytesIO("\n".join(lines).encode()))
    assert {outcome.status for outcome in outcomes[:-1]} == {"added"}
    assert outcomes[-1].status == "updated"
    assert outcomes[-1].name == "c.jsonl, row 1101"
    assert len(items()) == 1101


def test_concurrent_sheets_are_all_applied(ingest: Ingest, items: Items) -> None:
    names = [f"{n}.png" for n in range(20)]
    add_files(ingest, [IncomingFile(name, io.BytesIO(picture(n))) for n, name in enumerate(names)])
    sheets = []
    for person in range(6):
        order = names if person % 2 else names[::-1]
        sheets.append("file,caption\n" + "".join(f"{name},by {person}\n" for name in order))
    barrier = Barrier(len(sheets))

    def add(sheet: str) -> list[FileOutcome]:
        barrier.wait()
        return add_file(ingest, "c.csv", io.BytesIO(sheet.encode()))

    with ThreadPoolExecutor(len(sheets)) as pool:
        outcomes = [outcome for part in pool.map(add, sheets) for outcome in part]
    assert {outcome.status for outcome in outcomes} == {"updated"}
    # no update was lost, and each sheet was applied as a whole
    assert {item.version for item in items()} == {1 + len(sheets)}
    assert len({item.text for item in items()}) == 1
