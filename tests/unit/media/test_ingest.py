"""Each uploaded file becomes an item completely or not at all."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, BinaryIO

import pytest
import skimage.data
import sqlalchemy as sa
from PIL import Image
from tests.unit.media.outcomes import Items, Stored, add_embedding, add_file, reason, statuses
from tests.unit.media.samples import packed, picture
from tests.unit.uploading import add_files

from retllm.db.enums import ItemKind
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Collection, Embedding, new_id
from retllm.errors import NotFound
from retllm.media import ingest as ingest_module
from retllm.media import records
from retllm.media.ingest import FileOutcome, IncomingFile, Ingest, open_picture
from retllm.media.storage import Storage
from retllm.settings import Settings


def test_a_picture_becomes_an_item_with_its_bytes_and_a_thumbnail(
    ingest: Ingest, items: Items, stored: Stored, storage: Storage
) -> None:
    data = picture(size=(200, 100))
    (outcome,) = add_file(ingest, "dir/one.png", io.BytesIO(data))
    (item,) = items()
    assert (outcome.status, outcome.item_id, outcome.kind, outcome.error) == ("added", item.id, ItemKind.IMAGE, None)
    assert (item.name, item.width, item.height, item.media_type) == ("dir/one.png", 200, 100, "image/png")
    assert item.size_bytes == len(data)
    assert item.version == 1
    assert item.picture_key is not None
    assert item.thumbnail_key is not None
    assert str(item.id) in item.picture_key
    with storage.open(item.picture_key) as file:
        assert file.read() == data
    with storage.open(item.thumbnail_key) as file, Image.open(file) as small:
        assert (small.format, small.size) == ("WEBP", (64, 32))
    assert stored() == sorted([item.picture_key, item.thumbnail_key])
    assert open_picture(storage, item).size == (200, 100)


def test_adding_the_same_picture_twice_makes_one_item(ingest: Ingest, items: Items, stored: Stored) -> None:
    first, second = (add_file(ingest, name, io.BytesIO(picture()))[0] for name in ("a.png", "b.png"))
    assert (first.status, second.status) == ("added", "duplicate")
    assert first.item_id == second.item_id
    assert len(items()) == 1
    kept = [key for key in stored() if not key.startswith("uploads/")]
    assert len(kept) == 2, "beside the bytes of what was rejected, which can be tried again"


def test_adding_the_same_picture_in_many_threads_makes_one_item(ingest: Ingest, items: Items, stored: Stored) -> None:
    threads = 8
    barrier = Barrier(threads)

    def add(number: int) -> FileOutcome:
        stream = io.BytesIO(picture())
        barrier.wait()
        return ingest.add_picture(f"{number}.png", stream)

    with ThreadPoolExecutor(threads) as pool:
        outcomes = list(pool.map(add, range(threads)))
    assert sorted(outcome.status for outcome in outcomes) == ["added"] + ["duplicate"] * (threads - 1)
    assert len({outcome.item_id for outcome in outcomes}) == 1
    assert len(items()) == 1
    assert len(stored()) == 2  # the files of the duplicates are deleted


def test_text_files_with_the_same_text_make_one_item(ingest: Ingest, items: Items) -> None:
    (first,) = add_file(ingest, "a.txt", io.BytesIO("\ufeffein Gruß\r\naus dem Wald \n".encode()))
    (second,) = add_file(ingest, "b.txt", io.BytesIO("ein Gruß\naus dem Wald".encode()))
    assert (first.status, second.status) == ("added", "duplicate")
    (item,) = items()
    assert (item.kind, item.text, item.name) == (ItemKind.TEXT, "ein Gruß\naus dem Wald", "a.txt")
    assert item.picture_key is None


def test_a_zip_can_contain_pictures_texts_and_captions_in_any_order(ingest: Ingest, items: Items) -> None:
    archive = packed(
        {
            "captions.csv": b"file,caption\nphotos/a.png,a cat\nb.png,a dog\nnone.png,a ghost\n,only words\n",
            "photos/a.png": picture(1),
            "photos/b.png": picture(2),
            "note.txt": b"a note",
            "__MACOSX/photos/._a.png": b"junk",
            "photos/.DS_Store": b"junk",
            "photos/Thumbs.db": b"junk",
            "bad.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        }
    )
    outcomes = add_file(ingest, "all.zip", archive)
    assert statuses(outcomes) == [
        ("photos/a.png", "added"),
        ("photos/b.png", "added"),
        ("note.txt", "added"),
        ("bad.png", "rejected"),
        ("__MACOSX", "ignored"),
        ("photos/.DS_Store", "ignored"),
        ("photos/Thumbs.db", "ignored"),
        ("captions.csv, row 2", "updated"),
        ("captions.csv, row 3", "updated"),
        ("captions.csv, row 4", "rejected"),
        ("captions.csv, row 5", "rejected"),
    ]
    by_name = {item.name: item for item in items()}
    assert by_name["photos/a.png"].text == "a cat"
    assert by_name["photos/a.png"].kind is ItemKind.BOTH
    assert by_name["photos/b.png"].text == "a dog"
    assert by_name["note.txt"].kind is ItemKind.TEXT
    assert len(by_name) == 3


def test_captions_of_a_request_are_applied_after_its_pictures(ingest: Ingest, items: Items) -> None:
    outcomes = add_files(
        ingest,
        [
            IncomingFile("one.jsonl", io.BytesIO(b'{"file": "a.png", "caption": "a cat"}\n{"text": "free words"}')),
            IncomingFile("inner.zip", packed({"deep/b.png": picture(2), "more.csv": b"name;text\nb.png;a dog\n"})),
            IncomingFile("a.png", io.BytesIO(picture(1))),
        ],
    )
    assert statuses(outcomes) == [
        ("a.png", "added"),
        ("deep/b.png", "added"),
        ("one.jsonl, row 1", "updated"),
        ("one.jsonl, row 2", "rejected"),
        ("more.csv, row 2", "updated"),
    ]
    assert {item.text for item in items()} == {"a cat", "a dog"}


def test_a_bad_file_does_not_affect_the_others(ingest: Ingest, items: Items, stored: Stored) -> None:
    whole = picture(3)
    outcomes = add_files(
        ingest,
        [
            IncomingFile("cut.png", io.BytesIO(whole[: len(whole) // 2])),
            IncomingFile("good.png", io.BytesIO(picture(1))),
            IncomingFile("page.jpg", io.BytesIO(b"<!DOCTYPE html><p>not found</p>")),
            IncomingFile("empty.png", io.BytesIO(b"")),
            IncomingFile("big.png", io.BytesIO(picture(4) + bytes(2 << 20))),
            IncomingFile("huge.png", io.BytesIO(wide_png())),
            IncomingFile("long.txt", io.BytesIO(b"x" * 201)),
            IncomingFile("broken.zip", io.BytesIO(b"PK\x03\x04 and no more")),
            IncomingFile("last.txt", io.BytesIO(b"last")),
        ],
    )
    assert [outcome.status for outcome in outcomes] == ["rejected", "added"] + ["rejected"] * 6 + ["added"]
    assert "truncated" in reason(outcomes[0])
    assert "HTML" in reason(outcomes[2])
    assert "empty" in reason(outcomes[3])
    for outcome, setting in zip(outcomes[4:7], ["MAX_FILE_BYTES", "MAX_PIXELS", "MAX_TEXT_CHARS"], strict=True):
        assert f"RETLLM_{setting}" in reason(outcome)
        assert outcome.error is not None
        assert outcome.error.code == "too_large"
    assert "ZIP" in reason(outcomes[7])
    assert len(items()) == 2
    kept = [key for key in stored() if not key.startswith("uploads/")]
    assert len(kept) == 2, "beside the bytes of what was rejected, which can be tried again"


def wide_png() -> bytes:
    made = io.BytesIO()
    Image.new("1", (4000, 1001)).save(made, "PNG")
    return made.getvalue()


def test_adding_a_caption_changes_the_kind_and_the_version_of_a_picture(
    ingest: Ingest, items: Items, media_sessions: Sessions
) -> None:
    add_file(ingest, "a.png", io.BytesIO(picture()))
    (before,) = items()
    add_embedding(media_sessions, before)
    sheet = b"file,caption\na.png,a cat\n"
    assert add_file(ingest, "c.csv", io.BytesIO(sheet))[0].status == "updated"
    (after,) = items()
    assert (after.id, after.kind, after.text, after.version) == (before.id, ItemKind.BOTH, "a cat", 2)
    assert add_file(ingest, "c.csv", io.BytesIO(sheet))[0].status == "duplicate"
    assert items()[0].version == 2
    assert add_file(ingest, "c.csv", io.BytesIO(b"file,caption\na.png,another cat\n"))[0].status == "updated"
    assert items()[0].version == 3
    with media_sessions() as session:
        # the old embedding stays until the next index job; its item version shows that it is stale
        assert session.scalar(sa.select(Embedding.item_version).filter_by(item_id=before.id)) == 1


def test_photographs_can_be_added(ingest: Ingest, items: Items, storage: Storage) -> None:
    folder = Path(skimage.data.__file__).parent
    files = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".gif", ".tif", ".tiff"))
    assert len(files) >= 5
    outcomes = add_files(ingest, (IncomingFile(path.name, io.BytesIO(path.read_bytes())) for path in files))
    names = [outcome.name for outcome in outcomes]
    expected = [path.name for path in files]
    for name in ("multipage.tif", "multipage_rgb.tif"):  # the second one has colours of 64-bit floats
        at = expected.index(name)
        expected[at : at + 1] = [f"{name}, page 1", f"{name}, page 2"]
    assert names == expected
    assert {outcome.status for outcome in outcomes} == {"added"}
    for item in items():
        assert open_picture(storage, item).size == (item.width, item.height)


def test_a_picture_can_be_added_with_its_caption(ingest: Ingest, items: Items) -> None:
    first = ingest.add_picture("a.png", io.BytesIO(picture()), "a cat")
    assert (first.status, first.kind) == ("added", ItemKind.BOTH)
    assert ingest.add_picture("a.png", io.BytesIO(picture()), "a cat").status == "duplicate"
    assert ingest.add_picture("a.png", io.BytesIO(picture())).status == "duplicate"
    assert ingest.add_picture("a.png", io.BytesIO(picture()), "a dog").status == "updated"
    assert [(item.text, item.version) for item in items()] == [("a dog", 2)]
    assert "MAX_TEXT_CHARS" in reason(ingest.add_picture("b.png", io.BytesIO(picture(2)), "x" * 201))
    assert "not a picture" in reason(ingest.add_picture("b.txt", io.BytesIO(b"words")))
    assert len(items()) == 1


def test_a_text_without_a_name_is_named_by_its_beginning(ingest: Ingest, items: Items) -> None:
    ingest.add_text("red and/or\nblue " * 10)
    ingest.add_text("green", name="../green.txt")
    assert [item.name for item in items()] == [("red and/or blue " * 5).strip(), "green.txt"]


def test_many_texts_need_few_statements_and_each_has_an_outcome(
    ingest: Ingest, items: Items, media_sessions: Sessions
) -> None:
    kept = ingest.add_text("number 7")
    texts = [(f"number {number % 600}", None) for number in range(1200)] + [("x" * 201, None)]
    sent: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        sent.append(statement)

    sa.event.listen(media_sessions.kw["bind"], "before_cursor_execute", note)
    outcomes = ingest.add_texts(texts)
    sa.event.remove(media_sessions.kw["bind"], "before_cursor_execute", note)
    assert len(sent) <= 10
    found = {item.text: item.id for item in items()}
    assert len(found) == 600
    assert [outcome.item_id for outcome in outcomes[:-1]] == [found[text] for text, _ in texts[:-1]]
    assert (found["number 7"], outcomes[7].status) == (kept.item_id, "duplicate")
    assert sum(outcome.status == "added" for outcome in outcomes) == 599
    assert "MAX_TEXT_CHARS" in reason(outcomes[-1])
    # the items of one upload have the order of its rows
    assert [item.text for item in items()[:3]] == ["number 7", "number 0", "number 1"]


def test_concurrent_uploads_of_the_same_texts_do_not_deadlock(ingest: Ingest, items: Items) -> None:
    texts = [(f"number {number}", None) for number in range(400)]
    start = Barrier(2)

    def add(mine: list[tuple[str, None]]) -> list[FileOutcome]:
        start.wait()
        return ingest.add_texts(mine)

    with ThreadPoolExecutor(2) as pool:
        both = [outcome for done in pool.map(add, [texts, texts[::-1]]) for outcome in done]
    assert sum(outcome.status == "added" for outcome in both) == len(items()) == 400
    assert {outcome.status for outcome in both} == {"added", "duplicate"}


def test_the_same_content_in_two_collections_makes_two_items(
    ingest: Ingest, media_sessions: Sessions, items: Items
) -> None:
    with transaction(media_sessions) as session:
        owner = session.scalar(sa.select(Collection.owner_id).filter_by(id=ingest.collection_id))
        other = Collection(id=new_id(), owner_id=owner, name="other")
        session.add(other)
    second = Ingest(media_sessions, ingest.storage, ingest.settings, other.id)
    first_outcome = add_file(ingest, "a.png", io.BytesIO(picture()))[0]
    second_outcome = add_file(second, "a.png", io.BytesIO(picture()))[0]
    assert (first_outcome.status, second_outcome.status) == ("added", "added")
    assert first_outcome.item_id != second_outcome.item_id


def test_equal_pictures_in_one_zip_make_one_item_with_the_first_name(ingest: Ingest, items: Items) -> None:
    files = {f"{n}.png": picture(n // 4) for n in range(16)}
    outcomes = add_file(ingest, "z.zip", packed(files))
    assert [outcome.status for outcome in outcomes] == (["added"] + ["duplicate"] * 3) * 4
    assert [item.name for item in items()] == ["0.png", "4.png", "8.png", "12.png"]


# failures


class Failing(Storage):
    """A storage whose disk is full from the given call of ``put`` on."""

    def __init__(self, url: str, from_put: int) -> None:
        super().__init__(url)
        self.puts = 0
        self.from_put = from_put

    def put(self, key: str, file: BinaryIO) -> int:
        self.puts += 1
        if self.puts >= self.from_put:
            raise OSError(28, "No space left on device")
        return super().put(key, file)


@pytest.mark.parametrize("from_put", [1, 2])
def test_a_full_disk_leaves_no_row_and_no_file(from_put: int, ingest: Ingest, items: Items, stored: Stored) -> None:
    ingest.storage = Failing(ingest.storage.url, from_put)
    with pytest.raises(OSError, match="No space"):
        ingest.add_picture("a.png", io.BytesIO(picture()))
    assert items() == []
    assert stored() == []


def test_nothing_can_be_added_to_a_deleted_collection(ingest: Ingest, media_sessions: Sessions, stored: Stored) -> None:
    with transaction(media_sessions) as session:
        records.delete_collection(session, ingest.collection_id)
    with pytest.raises(NotFound):
        ingest.add_picture("a.png", io.BytesIO(picture()))
    with pytest.raises(NotFound):
        ingest.add_text("words")
    assert stored() == []


def test_an_equal_picture_added_between_the_check_and_the_insert_is_used(
    ingest: Ingest, items: Items, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ingest_module.inspect_picture
    other: list[FileOutcome] = []

    def slowly(stream: BinaryIO, settings: Settings) -> Any:
        seen = real(stream, settings)
        if not other:
            monkeypatch.setattr(ingest_module, "inspect_picture", real)
            other.append(ingest.add_picture("first.png", io.BytesIO(picture())))
        return seen

    monkeypatch.setattr(ingest_module, "inspect_picture", slowly)
    late = ingest.add_picture("late.png", io.BytesIO(picture()), "a cat")
    assert other[0].status == "added"
    assert (late.status, late.item_id) == ("updated", other[0].item_id)
    assert [(item.name, item.text) for item in items()] == [("first.png", "a cat")]
    kept = [key for key in stored() if not key.startswith("uploads/")]
    assert len(kept) == 2, "beside the bytes of what was rejected, which can be tried again"


def test_items_keep_the_order_of_the_upload_even_if_large_pictures_take_longer(ingest: Ingest, items: Items) -> None:
    sizes = [(800, 700), (16, 16), (700, 800), (18, 18), (20, 20)]
    files = [IncomingFile(f"{n}.png", io.BytesIO(picture(size=size))) for n, size in enumerate(sizes)]
    add_files(ingest, files)
    assert [item.name for item in sorted(items(), key=lambda item: item.id)] == [file.name for file in files]


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (packed({"a.txt": b"words"}).read(), "archive inside an archive"),
        (bytes(257) + b"ustar\0" + bytes(249), "archive inside an archive"),
        (b"\x1f\x8b\x08" + bytes(99), "archive inside an archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "7z archive"),
        (b"Rar!\x1a\x07" + bytes(99), "RAR archive"),
        (b"BZh91AY" + bytes(99), "archive inside an archive"),
        (b"\xfd7zXZ\0" + bytes(99), "archive inside an archive"),
    ],
)
def test_an_archive_inside_a_zip_is_rejected_with_its_type(ingest: Ingest, inner: bytes, message: str) -> None:
    for name in ("inner.zip", "a.png", "a.txt"):
        refused, taken = add_file(ingest, "outer.zip", packed({name: inner, "b.txt": name.encode()}))
        assert refused.status == "rejected"
        assert message in str(refused.error and refused.error.message)
        assert taken.status in ("added", "duplicate")
