"""What may be said of a picture in an archive that has not come yet waits for it, and says so."""

from __future__ import annotations

import json
from collections.abc import Iterable
from uuid import UUID

import pytest
from tests.unit.uploads.conftest import Files, Uploads, packed, picture
from tests.unit.uploads.test_retry import retry
from tests.unit.uploads.test_rows_of_unsent_pictures import broken_off

from retllm.db.enums import FileStatus
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.db.uploads import LargeFile
from retllm.uploads import unsent

LATER = (
    "which another upload is still bringing: when that one has ended, or you closed it on its page because it is "
    "abandoned, retry this job"
)
AS_TEXT = ", or upload it with --texts (texts=true in the API) if it is no caption"
ARCHIVE = {"x/b.zip": packed({"a.png": picture(1)})}
SAYS: Files = {"a.txt": b"of the text", "c.csv": b"file,caption\na.png,of the row\nno.png,none\n"}


def announced(uploads: Uploads, names: Iterable[str]) -> UUID:
    job_id = uploads.open(index=False)
    with transaction(uploads.world.sessions) as session:
        unsent.expect(session, job_id, 0, list(names))
    return job_id


def bring(uploads: Uploads, how: str) -> UUID:
    """Begin an upload of the archive that is announced, on its way, or waits."""
    job_id = announced(uploads, ARCHIVE if how == "announced" else [])
    if how == "in parts":
        with transaction(uploads.world.sessions) as session:
            collection = uploads.world.collection_id
            key, (name,) = new_id(), ARCHIVE
            session.add(LargeFile(id=key, job_id=job_id, collection_id=collection, name=name, size_bytes=9))
    elif how == "waiting":
        uploads.send(job_id, ARCHIVE)
    return job_id


def come(uploads: Uploads, job_id: UUID, files: Files) -> None:
    """Send what has not come to an upload, and end it."""
    uploads.send(job_id, {name: content for name, content in files.items() if name not in uploads.rows(job_id)})
    uploads.close(job_id)
    uploads.run(job_id)


def captions(uploads: Uploads) -> dict[str, str | None]:
    return {name: item.text for name, item in uploads.items().items()}


@pytest.mark.parametrize("how", ["announced", "in parts", "waiting"])
def test_texts_and_rows_wait_for_an_archive_that_another_upload_brings(uploads: Uploads, how: str) -> None:
    first = bring(uploads, how)
    early = uploads.upload(SAYS, index=False)
    assert uploads.items() == {}
    rows = uploads.rows(early)
    assert rows["a.txt"].status is FileStatus.REJECTED
    assert rows["a.txt"].error == f"The picture of 'a.txt' may be in 'b.zip', {LATER}{AS_TEXT}."
    may_come = f"which is not in this collection; it may be in 'b.zip', {LATER}."
    assert rows["c.csv, row 2"].error == f"Row 2 names the picture 'a.png', {may_come}"
    retry(uploads, early)
    assert uploads.rows(early)["a.txt"].status is FileStatus.REJECTED, "it is still to come"
    come(uploads, first, ARCHIVE)
    retry(uploads, early)
    assert captions(uploads) == {"a.png": "of the row"}
    assert "upload it or correct the name" in str(uploads.rows(early)["c.csv, row 3"].error)
    uploads.check(left=lambda key: key.startswith("uploads/"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.caption", b"words"),
        ("a.png.json", json.dumps({"title": "a.png", "description": "words"}).encode()),
        ("a.json", json.dumps({"text": "words"}).encode()),
        ("a.png.xmp", b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'),
    ],
)
def test_sidecars_wait_for_an_archive_too(uploads: Uploads, name: str, content: bytes) -> None:
    announced(uploads, ARCHIVE)
    row = uploads.rows(uploads.upload({name: content}, index=False))[name]
    assert row.error == f"The picture of {name!r} may be in 'b.zip', {LATER}."
    assert uploads.items() == {}


@pytest.mark.parametrize(
    ("names", "files", "options"),
    [
        (["b.zip"], {"a.txt": b"words"}, {"texts": True}),
        (["coco_val.zip"], {"coco_train.zip": packed({"a.txt": b"words"})}, {}),
        (["notes.pdf"], {"a.txt": b"words"}, {}),
    ],
    ids=["asked for", "of another part of the data set", "of no archive"],
)
def test_texts_that_no_picture_can_have_do_not_wait(
    uploads: Uploads, names: list[str], files: Files, options: dict[str, bool]
) -> None:
    announced(uploads, names)
    uploads.upload(files, index=False, **options)
    assert len(uploads.items()) == 1


def test_texts_wait_for_no_archive_that_has_come(uploads: Uploads) -> None:
    first = announced(uploads, ARCHIVE)
    uploads.send(first, ARCHIVE)
    uploads.run(first)
    files = {"note.txt": b"words", "a.txt": b"of the text"}
    uploads.upload(files, index=False)
    assert captions(uploads) == {"a.png": "of the text", "note.txt": "words"}


def test_a_text_that_waits_is_one_if_the_archive_has_no_picture_for_it(uploads: Uploads) -> None:
    first = announced(uploads, ARCHIVE)
    early = uploads.upload({"note.txt": b"words"}, index=False)
    come(uploads, first, ARCHIVE)
    retry(uploads, early)
    assert captions(uploads) == {"a.png": None, "note.txt": "words"}
    assert uploads.stored("uploads/") == []


@pytest.mark.parametrize("packing", [False, True])
def test_a_text_whose_picture_may_be_in_an_archive_that_was_not_sent_is_no_item(
    uploads: Uploads, packing: bool
) -> None:
    says: Files = {"t.zip": packed({"a.txt": b"words"})} if packing else {"a.txt": b"words"}
    job_id = broken_off(uploads, [*says, *ARCHIVE], says)
    alone = "or the text alone if it is to be an item"
    told = f"The picture of 'a.txt' may be in 'b.zip', which was not sent: upload both again, {alone}."
    assert uploads.rows(job_id)["a.txt"].error == told
    uploads.upload(says | ARCHIVE, index=False)
    assert captions(uploads) == {"a.png": "words"}


@pytest.mark.parametrize("packing", [False, True])
def test_what_is_said_of_a_picture_that_an_open_upload_rejected_says_why(uploads: Uploads, packing: bool) -> None:
    broken: Files = {"a.png": b"\x89PNG\r\n\x1a\n broken"}
    sent = {"b.zip": packed(broken)} if packing else broken
    first = announced(uploads, sent)
    uploads.send(first, sent)
    uploads.run(first)
    why = str(uploads.rows(first)["a.png"].error)
    rows = uploads.rows(uploads.upload(SAYS, index=False))
    assert str(rows["a.txt"].error).startswith(f"Its picture 'a.png' was rejected in another upload: {why} ")
    row = f"Row 2 names the picture 'a.png', which was rejected in another upload: {why} Upload it again."
    assert rows["c.csv, row 2"].error == row


def test_a_row_waits_for_its_picture_although_another_folder_has_one_of_the_name(uploads: Uploads) -> None:
    uploads.upload({"val/1.png": picture(1)}, index=False)
    announced(uploads, ["train/1.png"])
    early = uploads.upload({"c.csv": b"file,caption\ntrain/1.png,x\n"}, index=False)
    assert uploads.rows(early)["c.csv, row 2"].error == f"Row 2 names the picture 'train/1.png', {LATER}."


def test_what_is_said_of_a_rejected_picture_waits_if_it_is_on_its_way_again(uploads: Uploads) -> None:
    uploads.upload({"a.png": b"\x89PNG\r\n\x1a\n broken"}, index=False)
    first = announced(uploads, ["a.png"])
    early = uploads.upload(SAYS, index=False)
    rows = uploads.rows(early)
    assert rows["a.txt"].error == f"'a.txt' has the caption of 'a.png', {LATER}."
    assert rows["c.csv, row 2"].error == f"Row 2 names the picture 'a.png', {LATER}."
    come(uploads, first, {"a.png": picture(1)})
    retry(uploads, early)
    assert captions(uploads) == {"a.png": "of the row"}


def test_the_record_of_an_album_waits_for_nothing(uploads: Uploads) -> None:
    announced(uploads, ARCHIVE)
    album = json.dumps({"title": "Holiday", "description": "By the sea", "date": {}}).encode()
    job_id = uploads.upload({"Holiday/Metadaten.json": album}, index=False)
    assert uploads.rows(job_id)["Holiday/Metadaten.json"].status is FileStatus.IGNORED
