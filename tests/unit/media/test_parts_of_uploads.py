"""Pages of a TIFF or a PDF and key frames of a film become items; the whole file is kept as long as one of them is."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image
from tests.unit.deleting import delete_collection
from tests.unit.media.films import film
from tests.unit.media.outcomes import Items, Stored, add_file, statuses
from tests.unit.media.samples import encoded, noise, packed
from tests.unit.media.test_parts import COLOURS, pages, plain, with_tag
from tests.unit.uploading import add_files

from retllm.db.enums import FileStatus, ItemKind, ItemState
from retllm.db.session import Sessions
from retllm.db.tables import Item, Source, new_id
from retllm.db.uploads import UploadFile
from retllm.media import sources
from retllm.media.ingest import IncomingFile, Ingest, delete_item
from retllm.media.storage import Storage
from retllm.queue.audit_files import orphans, wrong_files
from retllm.settings import Settings

Sources = Callable[[], list[Source]]


@pytest.fixture
def whole_files(media_sessions: Sessions, collection_id: uuid.UUID) -> Sources:
    """Returns the whole files of the collection."""

    def read() -> list[Source]:
        with media_sessions() as session:
            return list(session.scalars(sa.select(Source).filter_by(collection_id=collection_id)))

    return read


def add(ingest: Ingest, name: str, data: bytes) -> list[tuple[str, str]]:
    return statuses(add_file(ingest, name, io.BytesIO(data)))


def rows(sessions: Sessions, collection_id: uuid.UUID) -> list[UploadFile]:
    with sessions() as session:
        found = sa.text("SELECT f.id FROM upload_files f JOIN jobs j ON j.id = f.job_id WHERE j.collection_id = :c")
        ids = session.scalars(found, {"c": collection_id}).all()
        return list(session.scalars(sa.select(UploadFile).where(UploadFile.id.in_(ids)).order_by(UploadFile.id)))


@pytest.mark.parametrize(
    ("name", "data", "media_type", "names", "parts"),
    [
        ("a/b.tif", pages(3), "image/tiff", [f"a/b.tif, page {n}" for n in (1, 2, 3)], [1, 2, 3]),
        ("a/b.pdf", pages(3, "PDF"), "application/pdf", [f"a/b.pdf, page {n}" for n in (1, 2, 3)], [1, 2, 3]),
        ("f.mp4", film(plain(3), frames=15), "video/mp4", ["f.mp4, 0:00", "f.mp4, 0:01.5", "f.mp4, 0:03"], [0, 1.5, 3]),
        (
            "f.mts",
            film(plain(2), frames=15, kind="mpegts", codec="mpeg2video"),
            "video/mp2t",
            ["f.mts, 0:00", "f.mts, 0:01.5"],
            [0, 1.5],
        ),
    ],
    ids=["TIFF", "PDF", "film", "film of a camera"],
)
def test_each_part_is_an_item_that_leads_to_the_whole(
    name: str,
    data: bytes,
    media_type: str,
    names: list[str],
    parts: list[Any],
    ingest: Ingest,
    items: Items,
    whole_files: Sources,
    storage: Storage,
    media_sessions: Sessions,
) -> None:
    assert add(ingest, name, data) == [(part, "added") for part in names]
    (source,) = whole_files()
    sha256 = hashlib.sha256(data).hexdigest()
    assert (source.name, source.media_type, source.content_sha256) == (name, media_type, sha256)
    with storage.open(source.file_key) as file:
        assert file.read() == data
    assert source.size_bytes == len(data)
    found = items()
    size = (640, 480) if name == "a/b.pdf" else (160, 120)  # 288 pixels an inch
    assert [item.name for item in found] == names
    assert {item.source_id for item in found} == {source.id}
    assert {(item.kind, item.media_type, item.width, item.height) for item in found} == {
        (ItemKind.IMAGE, "image/jpeg", *size)
    }
    expected = [{"seconds": part} if name.startswith("f.") else {"page": part, "pages": 3} for part in parts]
    assert [item.part for item in found] == expected
    for item, colour in zip(found, COLOURS, strict=False):
        for key, expected_size in ((item.picture_key, size), (item.thumbnail_key, (64, 48))):
            with storage.open(key or "") as file, Image.open(file) as picture:
                assert picture.size == expected_size
                middle = picture.convert("RGB").getpixel((5, 5))
                assert middle == pytest.approx(Image.new("RGB", (1, 1), colour).getpixel((0, 0)), abs=40)
    (whole, *others) = rows(media_sessions, ingest.collection_id)
    assert (whole.name, whole.status, whole.item_id, whole.file_key) == (name, FileStatus.READ, None, None)
    assert [(row.parent_id, row.id, row.name) for row in others] == [(whole.id, item.id, item.name) for item in found]
    with media_sessions() as session:
        # other tests share the database
        own = {f"item {item.id}" for item in found} | {f"source {source.id}"}
        assert [wrong for wrong in wrong_files(session, storage, None) if wrong.subject in own] == []
        assert orphans(session, storage) == []


def test_a_large_page_has_a_working_copy(ingest: Ingest, items: Items, storage: Storage) -> None:
    ingest.settings = ingest.settings.model_copy(update={"copy_side": 400})
    first, second = plain(2, (800, 600))
    add(ingest, "a.pdf", encoded(first, "PDF", save_all=True, append_images=[second], resolution=288))
    for item in items():
        with storage.open(item.copy_key or "") as file, Image.open(file) as copy:
            assert (copy.format, copy.size, item.width, item.height) == ("JPEG", (400, 300), 800, 600)


def test_a_file_of_one_page_has_the_name_of_the_file(ingest: Ingest, items: Items, whole_files: Sources) -> None:
    assert add(ingest, "a.pdf", pages(1, "PDF")) == [("a.pdf", "added")]
    assert add(ingest, "a.tif", pages(1)) == [("a.tif", "added")]
    document, picture = items()
    assert [source.id for source in whole_files()] == [document.source_id]
    assert (document.part, picture.part, picture.source_id) == ({"page": 1, "pages": 1}, None, None)


def test_the_same_file_again_gives_duplicates(
    ingest: Ingest, items: Items, stored: Stored, whole_files: Sources
) -> None:
    add(ingest, "a.pdf", pages(2, "PDF"))
    before = stored()
    assert add(ingest, "b.pdf", pages(2, "PDF")) == [("b.pdf, page 1", "duplicate"), ("b.pdf, page 2", "duplicate")]
    assert stored() == before
    assert (len(items()), len(whole_files())) == (2, 1)


def test_the_same_file_twice_in_one_upload_is_kept_once(
    ingest: Ingest, items: Items, stored: Stored, whole_files: Sources, storage: Storage, media_sessions: Sessions
) -> None:
    data = pages(2)
    outcomes = add_files(ingest, [IncomingFile("a.zip", io.BytesIO(packed({"a.tif": data, "b.tif": data}).getvalue()))])
    assert sorted(outcome.status for outcome in outcomes) == ["added", "added", "duplicate", "duplicate"]
    assert (len(items()), len(whole_files())) == (2, 1)
    assert len([key for key in stored() if not key.startswith("uploads/")]) == 5


def test_the_whole_file_goes_with_its_last_part(
    ingest: Ingest, items: Items, stored: Stored, whole_files: Sources, storage: Storage, media_sessions: Sessions
) -> None:
    add(ingest, "a.pdf", pages(2, "PDF"))
    for left, item in enumerate(items()):
        assert len(whole_files()) == 1
        with media_sessions() as session:
            delete_item(session, storage, session.get_one(Item, item.id))
        assert len(stored()) == (3 if left == 0 else 0)
    assert whole_files() == []
    assert {(item.state, item.source_id) for item in items()} == {(ItemState.DELETED, None)}
    # a page that was deleted comes back with the file
    add(ingest, "a.pdf", pages(2, "PDF"))
    with media_sessions() as session:
        delete_item(session, storage, session.get_one(Item, items()[2].id))
    assert add(ingest, "a.pdf", pages(2, "PDF")) == [("a.pdf, page 1", "added"), ("a.pdf, page 2", "duplicate")]
    assert {item.source_id for item in items()[3:]} == {whole_files()[0].id}


def test_a_deleted_collection_leaves_no_whole_file(
    ingest: Ingest, stored: Stored, storage: Storage, media_sessions: Sessions, whole_files: Sources
) -> None:
    add(ingest, "a.pdf", pages(2, "PDF"))
    delete_collection(media_sessions, storage, ingest.collection_id)
    assert (stored(), whole_files()) == ([], [])


def test_what_can_not_be_read_and_what_is_left_out_is_said(
    ingest: Ingest, items: Items, media_sessions: Sessions
) -> None:
    ingest.settings = ingest.settings.model_copy(update={"max_parts": 2, "max_pixels": 160 * 120})
    first, second, third = Image.new("RGB", (160, 120), "red"), Image.new("RGB", (161, 120)), noise(2, (160, 120))
    data = encoded(first, "TIFF", save_all=True, append_images=[second, third])
    outcomes = add_file(ingest, "a.tif", io.BytesIO(data))
    assert statuses(outcomes) == [("a.tif", "read"), ("a.tif, page 1", "added"), ("a.tif, page 2", "rejected")]
    assert outcomes[2].error is not None
    assert outcomes[2].error.message == "It has 161 × 120 pixels."
    whole = rows(media_sessions, ingest.collection_id)[0]
    assert whole.remark == "The file has 3 pages; RETLLM_MAX_PARTS allows 2: the rest was left out."
    assert [item.part for item in items()] == [{"page": 1, "pages": 3}]


def test_a_broken_first_page_is_told_and_the_others_are_added(ingest: Ingest, items: Items) -> None:
    outcomes = add_file(ingest, "a.tif", io.BytesIO(with_tag(pages(3), 259, 9999)))
    assert statuses(outcomes) == [
        ("a.tif, page 1", "rejected"),
        ("a.tif, page 2", "added"),
        ("a.tif, page 3", "added"),
    ]
    assert [item.part for item in items()] == [{"page": 2, "pages": 3}, {"page": 3, "pages": 3}]


def test_a_file_without_a_part_that_can_be_read_is_rejected(
    ingest: Ingest, items: Items, stored: Stored, whole_files: Sources
) -> None:
    broken = pages(2, "PDF")[:300]
    (outcome,) = add_file(ingest, "a.pdf", io.BytesIO(broken))
    assert (outcome.name, outcome.status) == ("a.pdf", "rejected")
    assert (items(), whole_files()) == ([], [])
    assert [key for key in stored() if not key.startswith("uploads/")] == []


def test_a_film_may_be_larger_than_a_picture(ingest: Ingest, items: Items, settings: Settings) -> None:
    data = film(plain(2))
    ingest.settings = settings.model_copy(update={"max_file_bytes": len(data) - 1})
    assert [status for _, status in add(ingest, "f.mp4", data)] == ["added", "added"]
    packed_film = packed({"g.mp4": data + bytes(9)}).getvalue()
    assert [status for _, status in add(ingest, "f.zip", packed_film)] == ["added", "added"]
    ingest.settings = settings.model_copy(update={"max_film_bytes": len(data) - 1})
    (outcome,) = add_file(ingest, "f.mp4", io.BytesIO(data))
    assert outcome.error is not None
    assert "RETLLM_MAX_FILM_BYTES" in outcome.error.message


def test_one_decoder_is_enough_for_several_files_of_parts(ingest: Ingest) -> None:
    ingest.settings = ingest.settings.model_copy(update={"decoders": 1})
    files = packed(
        {f"{n}.tif": encoded(noise(n, (160, 120)), "TIFF", save_all=True, append_images=plain(1)) for n in (1, 2)}
    ).getvalue()
    assert [status for _, status in add(ingest, "a.zip", files)] == ["added"] * 4


def test_a_row_captions_the_page_that_it_names(ingest: Ingest, items: Items) -> None:
    files = [
        IncomingFile("scans/a.pdf", io.BytesIO(pages(2, "PDF"))),
        IncomingFile("scans/b.pdf", io.BytesIO(pages(1, "PDF"))),
        IncomingFile("scans/c.csv", io.BytesIO(b'file,caption\n"a.pdf, page 2",the end\nb.pdf,all of it\n')),
    ]
    add_files(ingest, files)
    assert [(item.name, item.text) for item in items()] == [
        ("scans/a.pdf, page 1", None),
        ("scans/a.pdf, page 2", "the end"),
        ("scans/b.pdf", "all of it"),
    ]
    add(ingest, "later.csv", b'file,caption\n"scans/a.pdf, page 1",the start\n')
    assert items()[0].text == "the start"


def test_names_of_parts() -> None:
    assert sources.part_name("a.mp4", {"seconds": 3723.04}) == "a.mp4, 1:02:03"
    assert sources.part_name("a.mp4", {"seconds": 59.96}) == "a.mp4, 1:00"
    assert sources.part_name("a.mp4", {}) == "a.mp4, a frame"
    assert sources.part_label({"seconds": 12.48}) == "at 0:12.5"
    assert sources.part_label({"page": 3, "pages": 1200}) == "page 3 of 1,200"
    long = sources.part_name("x" * 300, {"page": 3, "pages": 12})
    assert (len(long), long[-8:]) == (300, ", page 3")
    key = new_id()
    assert key < sources.part_id(key, 1) < sources.part_id(key, 2)
