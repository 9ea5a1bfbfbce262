"""Sheets with many rows, several at once, and rows without a caption."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa
from tests.unit.media.outcomes import Items, add_file, reason, statuses
from tests.unit.media.samples import picture
from tests.unit.media.test_sheet_rows import add_all, captions
from tests.unit.uploading import add_files

from retllm.db.session import Sessions
from retllm.db.uploads import UploadFile
from retllm.media.captioning import Captioner, Document, Located, NamesSeen
from retllm.media.ingest import FileOutcome, IncomingFile, Ingest
from retllm.media.sniffing import FileKind


def test_a_long_list_of_refusals_is_shortened_by_reason_with_an_exact_count(ingest: Ingest) -> None:
    lines = [f"{n}.png,words" for n in range(2710)]
    lines[5] = "a.png,too,many"
    add_file(ingest, "a.png", io.BytesIO(picture()))
    outcomes = add_file(ingest, "c.csv", io.BytesIO("\n".join(["file,caption", *lines, "a.png,fine"]).encode()))
    assert len(outcomes) == 23
    assert reason(outcomes[-1]) == "And 2,689 more like row 22: their pictures are not in this collection."
    assert outcomes[-1].name == "c.csv"
    assert [outcome.status for outcome in outcomes].count("updated") == 1
    assert "3 fields" in reason(outcomes[5])


def test_rows_are_written_in_batches(ingest: Ingest, items: Items, media_sessions: Sessions) -> None:
    """3,000 texts take a few transactions, not one each."""
    count = 3000
    lines = [f'{{"text": "number {n}"}}' for n in range(count)]
    commits = 0

    def counted(_: object) -> None:
        nonlocal commits
        commits += 1

    engine = media_sessions.kw["bind"]
    sa.event.listen(engine, "commit", counted)
    try:
        outcomes = add_file(ingest, "c.jsonl", io.BytesIO("\n".join(lines).encode()))
    finally:
        sa.event.remove(engine, "commit", counted)
    assert {outcome.status for outcome in outcomes} == {"added"}
    assert outcomes[-1].name == f"c.jsonl, row {count}"
    assert len(items()) == count
    assert commits < 20


def test_of_concurrent_sheets_the_one_that_came_last_stays(
    ingest: Ingest, items: Items, media_sessions: Sessions
) -> None:
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
        statuses = [{outcome.status for outcome in outcomes} for outcomes in pool.map(add, sheets)]
    # each sheet was applied as a whole or not at all, and no update was lost
    assert all(status in ({"updated"}, {"ignored"}) for status in statuses)
    assert {item.version for item in items()} == {1 + statuses.count({"updated"})}
    with media_sessions() as session:
        last = session.scalar(sa.select(UploadFile.id).filter_by(name="c.csv").order_by(UploadFile.id.desc()).limit(1))
    assert {item.caption_file_id for item in items()} == {last}
    assert len({item.text for item in items()}) == 1


class Ended(Exception):
    """Somebody cancelled the upload."""


COCO = {"images": [], "annotations": [{"image_id": n, "caption": f"caption {n}"} for n in range(5_000)]}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (FileKind.JSONL, json.dumps(COCO).encode()),
        (FileKind.CSV, b"file,caption\n" + b"a.png,a caption\n" * 20_000),
    ],
)
def test_the_reading_of_a_long_sheet_can_be_ended_at_any_time(kind: FileKind, data: bytes, ingest: Ingest) -> None:
    left = iter(range(5))

    def check() -> None:
        if next(left, None) is None:
            raise Ended

    document = Document(Located("captions"), kind, lambda: io.BytesIO(data))
    with pytest.raises(Ended):
        list(Captioner(ingest, NamesSeen(), check=check).read([document]))


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("c.csv", "file;caption\na.png;\nb.png;two\nc.png;\u200b\n;\n"),
        ("c.json", '[{"file": "a.png", "caption": ""}, {"file": "b.png", "caption": ["two", " "]}, {"file": "c.png"}]'),
        ("d.json", '{"a.png": "", "b.png": "two", "c.png": null}'),
        ("c.jsonl", '{"file": "a.png", "text": null}\n{"file": "b.png", "text": "two"}\n'),
        (
            "coco.json",
            '{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}], "annotations": '
            '[{"image_id": 1, "caption": ""}, {"image_id": 2, "caption": "two"}]}',
        ),
    ],
)
def test_a_row_without_a_caption_is_ignored_and_the_caption_stays(
    name: str, sheet: str, ingest: Ingest, items: Items
) -> None:
    pictures = {f"{letter}.png": picture(number) for number, letter in enumerate("abc")}
    add_all(ingest, {**pictures, "a.txt": b"before"})
    outcomes = [outcome for outcome in add_all(ingest, {name: sheet.encode()}) if outcome.status != "updated"]
    assert {outcome.status for outcome in outcomes} == {"ignored"}
    assert all("is empty" in str(one.remark) or "no caption." in str(one.remark) for one in outcomes)
    assert captions(items) == {"a.png": "before", "b.png": "two", "c.png": None}


def test_a_sheet_of_empty_rows_is_rejected_once(ingest: Ingest) -> None:
    add_all(ingest, {"a.png": picture(0)})
    sheets = {"c.csv": b"file,caption\na.png,\nb.png,\n", "d.json": b'[{"file": "a.png", "caption": ""}]'}
    outcomes = add_all(ingest, sheets)
    assert statuses(outcomes) == [("c.csv", "rejected"), ("d.json", "rejected")]
    assert {reason(outcome) for outcome in outcomes} == {"The file contains no captions."}


def test_many_empty_rows_are_told_together(ingest: Ingest) -> None:
    sheet = "file,caption\n" + "a.png,\n" * 30 + "a.png,words\n"
    outcomes = add_all(ingest, {"a.png": picture(0), "c.csv": sheet.encode()})
    assert sum(outcome.count for outcome in outcomes if outcome.status == "ignored") == 30
    assert [outcome.status for outcome in outcomes].count("ignored") == 21
    assert outcomes[-1].remark == "And 10 more like row 21: they have no caption or text."


def test_an_empty_text_is_ignored(ingest: Ingest, items: Items) -> None:
    outcomes = add_all(ingest, {"a.png": picture(0), "a.txt": b" \n", "b.txt": b"\r\n"})
    told = {outcome.name: (outcome.status, outcome.remark) for outcome in outcomes}
    assert told["a.txt"] == told["b.txt"] == ("ignored", "The text is empty.")
    assert captions(items) == {"a.png": None}
