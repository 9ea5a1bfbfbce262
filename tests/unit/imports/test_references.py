"""Items whose originals stay where they lie: made, read, moved and deleted as others are, and no original with them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from tests.factories import make_collection
from tests.unit.deleting import delete_collection
from tests.unit.imports.conftest import Imports
from tests.unit.media.test_parts import pages
from tests.unit.uploads.conftest import Uploads, packed, picture

from retllm.db.enums import FileStatus, ItemState
from retllm.db.session import transaction
from retllm.db.tables import Item, Source
from retllm.errors import OriginalLost
from retllm.imports.allowing import allowed
from retllm.media.ingest import delete_item
from retllm.media.storage import Storage
from retllm.media.transfers import Transfer
from retllm.queue.audit import violations
from retllm.uploads.orphans import AGE, delete_orphans

_LARGE = (3000, 2000)


@pytest.fixture
def imports(uploads: Uploads, tmp_path: Path) -> Iterator[Imports]:
    """A folder whose originals stay where they are."""
    path = tmp_path / "Pictures"
    path.mkdir()
    storage = Storage(uploads.context.storage.url, (str(tmp_path),))
    uploads.context = replace(uploads.context, storage=storage)
    with allowed(str(path), [str(tmp_path)]) as folder:
        yield Imports(uploads, path.resolve(), folder, reference=True)


def noise(size: tuple[int, int]) -> bytes:
    """Return a JPEG that is not small."""
    file = io.BytesIO()
    Image.frombytes("RGB", size, os.urandom(size[0] * size[1] * 3)).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_only_what_is_made_of_a_picture_is_kept(imports: Imports) -> None:
    imports.write(inner__a_jpg=noise(_LARGE), b_png=picture(2))
    imports.run()
    items = imports.uploads.items()
    large, small = items["Pictures/inner/a.jpg"], items["Pictures/b.png"]
    assert (large.original_root, large.original_path) == (str(imports.path.parent), b"Pictures/inner/a.jpg")
    assert large.copy_key is not None
    assert small.copy_key is None
    stored = imports.uploads.stored("")
    assert sorted(stored) == sorted(
        filter(None, (key for item in items.values() for key in (item.picture_key, item.thumbnail_key, item.copy_key)))
    )
    storage = imports.uploads.context.storage
    root = Path(storage.url.removeprefix("file://"))
    assert all((root / str(item.picture_key)).stat().st_size < 1000 for item in items.values())
    imports.uploads.check()


@pytest.mark.parametrize("source", ["copy", "original"])
def test_models_read_the_same_pixels_as_of_a_copied_original(imports: Imports, source: str, tmp_path: Path) -> None:
    content = noise((700, 500))
    imports.write(a_jpg=content)
    imports.run()
    referenced = imports.uploads.items()["Pictures/a.jpg"]
    with transaction(imports.uploads.world.sessions) as session:
        session.execute(sa.update(Item).values(state=ItemState.TRASHED, trashed_at=sa.func.now()))
    imports.uploads.upload({"copied.jpg": content})
    copied = imports.uploads.items()["copied.jpg"]
    assert copied.original_root is None
    settings = imports.uploads.context.settings.model_copy(update={"model_pictures": source})
    pictures = replace(imports.uploads.context, settings=settings).pictures
    for least in (0, 224):
        assert pictures.open(referenced, least).tobytes() == pictures.open(copied, least).tobytes()
    assert pictures.key(referenced) == pictures.key(copied)


def test_an_original_that_is_gone_or_changed_fails_alone_with_the_reason(imports: Imports) -> None:
    imports.write(a_png=picture(1), b_png=picture(2), c_png=picture(3))
    imports.run()
    imports.at("a_png").unlink()
    imports.write(b_png=picture(9))
    items, pictures = imports.uploads.items(), imports.uploads.context.pictures
    for name, reason in (("a.png", "is missing"), ("b.png", "changed")):
        with pytest.raises(OriginalLost, match=reason):
            pictures.open(items[f"Pictures/{name}"])
    assert pictures.open(items["Pictures/c.png"]).size == (24, 16)
    told = [one.detail for one in violations(imports.uploads.world.sessions, imports.uploads.context.storage)]
    assert len(told) == 2
    assert any("is missing" in one for one in told)
    assert any("changed" in one for one in told)
    assert str(imports.path) not in str(told)


def test_a_file_that_changes_before_it_is_processed_is_rejected(imports: Imports) -> None:
    imports.write(a_png=picture(1), b_png=picture(2))
    job_id = imports.send(imports.scan())
    imports.uploads.close(job_id)
    imports.write(a_png=picture(3))
    imports.uploads.run(job_id)
    assert imports.statuses() == {"Pictures/a.png": FileStatus.REJECTED, "Pictures/b.png": FileStatus.ADDED}
    assert imports.names() == ["Pictures/b.png"]
    imports.run()
    assert imports.names() == ["Pictures/a.png", "Pictures/b.png"]


def test_a_document_stays_where_it_lies_and_its_pages_are_kept(imports: Imports) -> None:
    imports.at("book_pdf").write_bytes(pages(3, "PDF"))
    imports.run()
    with imports.uploads.world.sessions() as session:
        (source,) = session.scalars(sa.select(Source))
        items = session.scalars(sa.select(Item)).all()
    assert (source.original_root, source.original_path) == (str(imports.path.parent), b"Pictures/book.pdf")
    assert len(items) == 3
    assert all(item.original_root is None for item in items)
    storage = imports.uploads.context.storage
    with storage.open(source.file_key) as file:
        assert file.read() == imports.at("book_pdf").read_bytes()
    imports.at("book_pdf").unlink()
    assert imports.uploads.context.pictures.open(items[0])
    with pytest.raises(OriginalLost):
        storage.open(source.file_key)


def test_what_is_in_an_archive_is_copied(imports: Imports) -> None:
    imports.write(all_zip=packed({"c.png": picture(3)}))
    imports.run()
    imports.at("all_zip").unlink()
    item = imports.uploads.items()["c.png"]
    assert item.original_root is None
    assert imports.uploads.context.pictures.open(item)


def test_deleting_items_and_collections_deletes_no_original(imports: Imports) -> None:
    imports.write(a_png=picture(1), b_png=picture(2))
    imports.at("book_pdf").write_bytes(pages(2, "PDF"))
    contents = {path.name: path.read_bytes() for path in imports.path.iterdir()}
    imports.run()
    world, storage = imports.uploads.world, imports.uploads.context.storage
    with world.sessions() as session:
        assert delete_item(session, storage, session.scalars(sa.select(Item).limit(1)).one())
    assert len(imports.uploads.items()) == 4
    with world.sessions() as session:
        emptied = session.scalars(sa.select(Item).where(Item.state == ItemState.DELETED)).one()
    assert (emptied.original_root, emptied.original_path, emptied.picture_key) == (None, None, None)
    imports.uploads.check()
    delete_collection(world.sessions, storage, world.collection_id)
    delete_orphans(world.sessions, storage, age=-AGE)
    assert imports.uploads.stored("items/") == []
    assert imports.uploads.stored("sources/") == []
    assert {path.name: path.read_bytes() for path in imports.path.iterdir()} == contents


@pytest.mark.parametrize("moves", [True, False])
def test_moved_and_copied_items_refer_to_the_same_originals(imports: Imports, moves: bool) -> None:
    imports.write(a_png=picture(1))
    imports.at("book_pdf").write_bytes(pages(1, "PDF"))
    imports.run()
    world, storage = imports.uploads.world, imports.uploads.context.storage
    with transaction(world.sessions) as session:
        other = make_collection(world.user.id, name="other")
        session.add(other)
    before = list(imports.uploads.items().values())
    transfer = Transfer(storage, other.id, moves)
    transfer.prepare(world.sessions, [item.id for item in before])
    with transaction(world.sessions) as session:
        transfer.write(session, [item.id for item in before])
    transfer.finish()
    with world.sessions() as session:
        new = session.scalars(sa.select(Item).where(Item.collection_id == other.id).order_by(Item.name)).all()
        source = session.scalars(sa.select(Source).where(Source.collection_id == other.id)).one()
    assert new[0].original_path == b"Pictures/a.png"
    assert source.original_path == b"Pictures/book.pdf"
    assert storage.reference(str(new[0].picture_key)).place.path == b"Pictures/a.png"
    assert storage.reference(source.file_key).place.path == b"Pictures/book.pdf"
    assert imports.uploads.context.pictures.open(new[0]).size == (24, 16)
    imports.uploads.check()


def test_a_folder_that_is_not_allowed_any_more_is_not_read(imports: Imports) -> None:
    imports.write(a_png=picture(1))
    imports.run()
    item = imports.uploads.items()["Pictures/a.png"]
    context = replace(imports.uploads.context, storage=Storage(imports.uploads.context.storage.url))
    with pytest.raises(OriginalLost, match="RETLLM_IMPORT_ROOTS"):
        context.pictures.open(item)
