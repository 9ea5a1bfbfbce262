"""What is in a deleted collection is removed in pieces, by whoever comes, whatever happens in between."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
import sqlalchemy as sa
from PIL import Image
from sqlalchemy.orm import Session
from tests.factories import make_candidate, make_collection, make_job, make_score, make_search, make_unit, store
from tests.unit.uploads.conftest import Uploads, packed, picture

from retllm.db.base import Base
from retllm.db.deletion import WITH_DELETED
from retllm.db.duplicates import Dismissal, DuplicateGroup, DuplicateMember, DuplicateResult, SimilarPair
from retllm.db.enums import JobState, RunSource, Stage, UnitState
from retllm.db.imports import ImportedFile, ImportedFolder
from retllm.db.maps import MapPoint, MapResult
from retllm.db.people import CollectionMember, ShareLink
from retllm.db.reviews import EvaluationRun, Judgment
from retllm.db.searches import SearchCollection
from retllm.db.session import transaction
from retllm.db.tables import Collection, EmbeddingModel, Item, new_id
from retllm.db.uploads import ExpectedFiles
from retllm.db.vectors import VectorIndex
from retllm.errors import StorageUnavailable
from retllm.media import records
from retllm.media.storage import Storage
from retllm.queue.audit_files import orphans
from retllm.queue.lifecycle import lock_job
from retllm.uploads import large_files, removal
from retllm.uploads.large_files import Announced
from retllm.uploads.orphans import delete_orphans
from retllm.uploads.removal import Postponed, remove_deleted

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def kept(uploads: Uploads) -> Uploads:
    """A collection that stays."""
    _fill(uploads)
    return uploads


@pytest.fixture
def doomed(kept: Uploads) -> UUID:
    """A collection with the same files, and something in every other table; it is deleted, and nothing is removed."""
    world = kept.world
    with transaction(world.sessions) as session:
        collection = make_collection(world.user.id, "doomed")
        session.add(collection)
    uploads = replace(kept, world=replace(world, collection_id=collection.id))
    _fill(uploads)
    with transaction(world.sessions) as session:
        item_id = session.scalars(sa.select(Item.id).filter_by(collection_id=collection.id).limit(1)).one()
        # nothing of this could be so: the audit would say it of any other collection
        job = make_job(world.user.id, collection.id, state=JobState.RUNNING)
        key = f"queries/{job.id}/picture"
        unit = make_unit(job.id, Stage.FINE, state=UnitState.LEASED, payload={"items": [str(item_id)]})
        store(session, job, make_search(job.id, query_picture_key=key), unit)
        store(session, make_candidate(job.id, item_id, 7), make_score(job.id, item_id, 0.5))
        inside = {"collection_id": collection.id}
        several = make_job(world.user.id, None, state=JobState.RUNNING)
        store(session, several, make_search(several.id, collections=2), make_unit(several.id, Stage.FINE))
        store(session, make_candidate(several.id, item_id, 7), SearchCollection(search_id=several.id, **inside))
        session.add(Judgment(question="q", item_id=item_id, relevant=True, search_id=job.id, **inside))
        session.add(EvaluationRun(id=new_id(), name="r", source=RunSource.REVIEWED, report={}, **inside))
        session.add(CollectionMember(user_id=world.user.id, role="viewer", **inside))
        ends = datetime.now(UTC) + timedelta(days=1)
        link = ShareLink(name="l", digest="d", downloads=False, expires_at=ends, user_id=world.user.id, **inside)
        session.add(link)
        model_id = session.scalars(sa.select(EmbeddingModel.id).limit(1)).one()
        group = DuplicateGroup(id=new_id(), size=2, **inside)
        pair = SimilarPair(job_id=job.id, first=item_id, second=new_id(), similarity=0.99)
        store(session, group, DuplicateMember(item_id=item_id, group_id=group.id, distance=1), pair)
        session.add(DuplicateResult(job_id=job.id, pictures=1, **inside))
        session.add(Dismissal(item_id=item_id, dismissal_id=new_id(), **inside))
        session.add(MapResult(job_id=job.id, model_id=model_id, through=item_id, items=1, **inside))
        session.add(MapPoint(item_id=item_id, rank=0, x=1.0, y=2.0, **inside))
        session.add(VectorIndex(id=new_id(), model_id=model_id, through=item_id, counts={}, **inside))
        kept.context.storage.put(key, io.BytesIO(picture(1)))
    job_id = uploads.open(expected=3)
    uploads.send(job_id, {"waits.png": picture(9)})
    with transaction(world.sessions) as session:
        job = lock_job(session, job_id)
        assert job is not None
        large = large_files.begin(session, job, Announced("large.zip", 9), kept.context.settings)
        part = large_files.store_part(kept.context.storage, large, io.BytesIO(b"half"))
        large_files.record_part(session, job_id, large, part)
        folder = ImportedFolder(id=new_id(), path=b"/srv/pictures", collection_id=collection.id)
        seen = {"size_bytes": 1, "changed_ns": 1, "run": 1, "pending": True}
        session.add(folder)
        session.flush()
        session.add(ImportedFile(folder_id=folder.id, path=b"a.png", name="pictures/a.png", **seen))
        session.add(ExpectedFiles(job_id=job_id, first=0, names=["late.png"]))
    with transaction(world.sessions) as session:
        records.delete_collection(session, collection.id)
    return collection.id


def _fill(uploads: Uploads) -> None:
    pages = io.BytesIO()
    first, second = (Image.new("RGB", (24, 16), colour) for colour in ("red", "blue"))
    first.save(pages, "TIFF", save_all=True, append_images=[second])
    inside = {f"{n}.png": picture(n) for n in range(3)} | {"captions.csv": b"file,caption\n0.png,a cat\nnone.png,x\n"}
    files = {"all.zip": packed(inside), "pages.tif": pages.getvalue(), "bad.png": picture(1)[:40], "a.txt": b"words"}
    uploads.upload(files)


def _counts(uploads: Uploads) -> Counter[str]:
    with uploads.world.sessions() as session:
        tables = {table.name: session.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in _tables()}
    return Counter(tables)


def _tables() -> list[sa.Table]:
    return Base.metadata.sorted_tables


def _left(uploads: Uploads) -> tuple[Counter[str], list[str]]:
    return _counts(uploads), uploads.stored("")


@pytest.fixture
def before(kept: Uploads) -> tuple[Counter[str], list[str]]:
    """The rows and files of the collection that stays."""
    return _left(kept)


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each second commit of this process kills it, with everything written and all files deleted."""
    commits = [0]

    def die(_: Session) -> None:
        commits[0] += 1
        if commits[0] % 2 == 0:
            raise Killed

    sa.event.listen(Session, "before_commit", die)
    yield
    sa.event.remove(Session, "before_commit", die)


def test_the_fixtures_have_something_in_every_table(
    before: tuple[Counter[str], list[str]], kept: Uploads, doomed: UUID
) -> None:
    added = _counts(kept) - before[0]
    of_the_system = {"users", "api_tokens", "logins", "audit_log", "saved_views", "workers", "paused_queues"}
    of_contents = {"embedding_models", "embedding_claims", "score_cache", "metric_totals"}
    assert {table.name for table in _tables()} - set(added) == of_the_system | of_contents


def test_nothing_is_left_and_others_keep_everything(
    before: tuple[Counter[str], list[str]], kept: Uploads, doomed: UUID
) -> None:
    kept.check()
    assert remove_deleted(kept.world.sessions, kept.context.storage) > 10
    assert _left(kept) == before
    kept.check()


@pytest.mark.parametrize("rows", [1, 7])
def test_a_removal_that_is_killed_at_any_point_loses_nothing_and_goes_on(
    before: tuple[Counter[str], list[str]],
    kept: Uploads,
    doomed: UUID,
    dies: None,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(removal, "BATCH", rows)
    killed = 0
    while True:
        try:
            remove_deleted(kept.world.sessions, kept.context.storage)
        except Killed:
            killed += 1
            # also that each file still has a row that names it
            kept.check()
            assert sum((before[0] - _counts(kept)).values()) == 0
        else:
            break
    assert killed > 30 / rows
    assert _left(kept) == before


def test_one_transaction_removes_no_more_than_a_batch(
    kept: Uploads, doomed: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "BATCH", 5)
    deleted: list[int] = []

    def count(_connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE"):
            deleted[-1] += cursor.rowcount  # type: ignore[attr-defined]

    engine = kept.world.sessions.kw["bind"]
    sa.event.listen(engine, "after_cursor_execute", count)
    sa.event.listen(engine, "begin", lambda _: deleted.append(0))
    remove_deleted(kept.world.sessions, kept.context.storage)
    assert max(deleted) == 5
    assert len(deleted) > 5


def test_a_collection_that_another_dispatcher_is_removing_is_left_to_it(kept: Uploads, doomed: UUID) -> None:
    with kept.world.sessions() as other:
        query = sa.select(Collection.id).where(Collection.id == doomed).with_for_update(key_share=True)
        assert other.scalar(query.execution_options(**WITH_DELETED)) == doomed
        assert remove_deleted(kept.world.sessions, kept.context.storage) == 0
    assert remove_deleted(kept.world.sessions, kept.context.storage) > 0


def test_a_file_that_can_not_be_deleted_stops_nothing_and_is_swept_later(
    before: tuple[Counter[str], list[str]], kept: Uploads, doomed: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = kept.context.storage
    stuck = next(key for key in kept.stored("items") if key not in before[1] and key.endswith("original"))
    delete = type(storage).delete

    def fail(self: object, key: str) -> None:
        if key == stuck:
            raise PermissionError(key)
        delete(storage, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(storage), "delete", fail)
        remove_deleted(kept.world.sessions, storage)
    assert _counts(kept) == before[0]
    with kept.world.sessions() as session:
        assert orphans(session, storage) == [stuck]
    assert delete_orphans(kept.world.sessions, storage, age=timedelta(seconds=-60)) == 1
    assert _left(kept) == before


@pytest.fixture
def deleted_later(kept: Uploads, doomed: UUID) -> UUID:
    """Another deleted collection, with files, deleted after the other one."""
    world = kept.world
    with transaction(world.sessions) as session:
        collection = make_collection(world.user.id, "later")
        session.add(collection)
    _fill(replace(kept, world=replace(world, collection_id=collection.id)))
    with transaction(world.sessions) as session:
        records.delete_collection(session, collection.id)
    return collection.id


def _deleted(uploads: Uploads) -> list[UUID]:
    gone = sa.select(Collection.id).where(Collection.deleted_at.is_not(None)).order_by(Collection.deleted_at)
    with uploads.world.sessions() as session:
        return list(session.scalars(gone.execution_options(**WITH_DELETED)))


@pytest.mark.parametrize("error", [PermissionError("denied"), StorageUnavailable(), RuntimeError("of a store")])
def test_a_collection_that_can_not_be_removed_does_not_stop_others_and_is_tried_again_later(
    before: tuple[Counter[str], list[str]],
    kept: Uploads,
    doomed: UUID,
    deleted_later: UUID,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, now, tries = kept.context.storage, 1000.0, []

    def fail(_: object, key: str) -> None:
        tries.append(key)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now)
        postponed = Postponed()
        with monkeypatch.context() as broken:
            # folders of queries, which the other collection does not have
            broken.setattr(removal.query_pictures, "folder_of", partial(fail, None))
            for waited in (0, 0, 29, 1):
                now += waited
                remove_deleted(kept.world.sessions, storage, postponed)
                assert _deleted(kept) == [doomed]
                kept.check()
        # at once, and after 30 seconds
        assert len(tries) == 2
        remove_deleted(kept.world.sessions, storage, postponed)
        assert _deleted(kept) == [doomed]
        now += 60
        remove_deleted(kept.world.sessions, storage, postponed)
    assert _left(kept) == before


def test_a_removal_is_tried_again_after_an_hour_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    postponed, collection_id = Postponed(), new_id()
    assert [postponed.add(collection_id) for _ in range(2000)][-1] == 3600
    postponed.forget(collection_id)
    assert postponed.now() == []
    assert postponed.add(collection_id) < 60


def test_a_small_collection_does_not_wait_for_a_large_one(
    kept: Uploads, doomed: UUID, deleted_later: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "BATCH", 1)
    turns: list[UUID] = []
    remove = removal._remove_some

    def noted(session: Session, storage: Storage, collection_id: UUID) -> int | None:
        turns.append(collection_id)
        return remove(session, storage, collection_id)

    monkeypatch.setattr(removal, "_remove_some", noted)
    remove_deleted(kept.world.sessions, kept.context.storage)
    assert turns.count(doomed) > turns.count(deleted_later) > 10
    own = turns.count(deleted_later)
    assert turns[: 2 * own] == [doomed, deleted_later] * own
