"""Files that no row names are deleted once nobody can be writing them; all others stay."""

from __future__ import annotations

import io
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.factories import make_collection, make_user, store
from tests.unit.stand_ins import png
from tests.unit.uploading import add_files

from retllm.db.enums import FileStatus
from retllm.db.jobs import Job
from retllm.db.session import Sessions, transaction
from retllm.db.tables import Item, new_id
from retllm.db.uploads import UNPACKED, LargeFile, UploadFile
from retllm.media.ingest import IncomingFile, Ingest
from retllm.media.storage import Storage
from retllm.settings import Settings
from retllm.uploads import orphans
from retllm.uploads.kept import drop_old
from retllm.uploads.large_files import folder_of
from retllm.uploads.orphans import delete_orphans

NOW = timedelta(seconds=-60)  # also what was written just now


@pytest.fixture
def ingest(fresh_sessions: Sessions, tmp_path) -> Ingest:
    """An ingest into an empty collection."""
    settings = Settings(home=tmp_path / "home", thumbnail_size=32)
    with transaction(fresh_sessions) as session:
        user = make_user()
        collection = make_collection(user.id)
        store(session, user, collection)
    return Ingest(fresh_sessions, Storage(settings.media_url), settings, collection.id)


def _put(storage: Storage, key: str) -> str:
    storage.put(key, io.BytesIO(b"bytes"))
    return key


def _item_key(key: UUID) -> str:
    return f"items/{key.hex[-2:]}/{key}/original"


def test_only_files_that_no_row_names_are_deleted(ingest: Ingest) -> None:
    (added,) = add_files(ingest, [IncomingFile("red.png", png("red"))])
    storage = ingest.storage
    orphans = [_put(storage, _item_key(new_id())), _put(storage, f"queries/{new_id()}/picture")]
    orphans.append(_put(storage, f"uploads/{new_id()}/{new_id()}"))
    assert delete_orphans(ingest.sessions, storage) == 0, "they may still be written"
    assert delete_orphans(ingest.sessions, storage, age=NOW) == 3
    assert not any(storage.exists(key) for key in orphans)
    with ingest.sessions() as session:
        item = session.get_one(Item, added.item_id)
    assert storage.exists(item.picture_key or "")
    assert storage.exists(item.thumbnail_key or "")


def test_files_of_an_attempt_that_is_made_again_stay(ingest: Ingest) -> None:
    add_files(ingest, [IncomingFile("red.png", png("red"))])
    with transaction(ingest.sessions) as session:
        row = session.scalars(sa.select(UploadFile)).one()
        waiting = UploadFile(id=new_id(), job_id=row.job_id, name="b.png", status=FileStatus.WAITING)
        store(session, waiting)
        session.get_one(Job, row.job_id).finished_at = None
    key = _put(ingest.storage, _item_key(waiting.id))
    assert delete_orphans(ingest.sessions, ingest.storage, age=NOW) == 0
    assert ingest.storage.exists(key)
    with transaction(ingest.sessions) as session:
        session.get_one(Job, row.job_id).finished_at = sa.func.now()
    assert delete_orphans(ingest.sessions, ingest.storage, age=NOW) == 1


def test_the_bytes_of_an_upload_are_kept_for_rejected_files_only_and_not_forever(ingest: Ingest) -> None:
    add_files(
        ingest,
        [IncomingFile("red.png", png("red")), IncomingFile("cut.png", io.BytesIO(png("blue").getvalue()[:60]))],
    )
    with ingest.sessions() as session:
        kept = session.scalars(sa.select(UploadFile.name).where(UploadFile.file_key.is_not(None))).all()
        key = session.scalar(sa.select(UploadFile.file_key).where(UploadFile.name == "cut.png"))
    assert kept == ["cut.png"]
    assert key is not None
    assert ingest.storage.exists(key)
    assert drop_old(ingest.sessions, ingest.storage, timedelta(days=7)) == 0
    assert drop_old(ingest.sessions, ingest.storage, NOW) == 1
    assert not ingest.storage.exists(key)


@pytest.mark.parametrize("batch", [1, 1000])
def test_files_of_a_kept_upload_that_no_row_names_are_deleted(
    ingest: Ingest, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker leaves them that is killed when it has committed an item, if other files of the upload are kept."""
    monkeypatch.setattr(orphans, "_BATCH", batch)
    cut = io.BytesIO(png("blue").getvalue()[:60])
    add_files(ingest, [IncomingFile("red.png", png("red")), IncomingFile("cut.png", cut)])
    with ingest.sessions() as session:
        job, added = session.execute(sa.select(UploadFile.job_id, UploadFile.id).filter_by(name="red.png")).one()
        kept = session.scalars(sa.select(UploadFile.file_key).filter_by(name="cut.png")).one()
    assert kept is not None
    left = [_put(ingest.storage, f"uploads/{job}/{key}") for key in (added, new_id(), f"{new_id()}{UNPACKED}")]
    other_form = _put(ingest.storage, f"{kept}{UNPACKED}")
    assert delete_orphans(ingest.sessions, ingest.storage) == 0, "they may still be written"
    assert delete_orphans(ingest.sessions, ingest.storage, age=NOW) == len(left)
    assert not any(ingest.storage.exists(key) for key in left)
    assert all(ingest.storage.exists(key) for key in (kept, other_form))


@pytest.mark.parametrize("is_whole", [True, False])
def test_parts_are_kept_only_until_their_file_is_whole(ingest: Ingest, is_whole: bool) -> None:
    """A request that was killed may have left a part that no row names, or all parts of a file that is whole."""
    large = LargeFile(
        id=new_id(),
        collection_id=ingest.collection_id,
        name="a.mp4",
        size_bytes=9,
        file_id=new_id() if is_whole else None,
    )
    with transaction(ingest.sessions) as session:
        session.add(large)
        key = _put(ingest.storage, f"{folder_of(large.id)}/{new_id()}")
    assert delete_orphans(ingest.sessions, ingest.storage, age=NOW) == int(is_whole)
    assert ingest.storage.exists(key) is not is_whole
