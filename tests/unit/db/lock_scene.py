"""A collection with jobs under way, and the transactions that lock its rows."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from flask import Flask, g
from tests.factories import make_user, store
from tests.unit.deleting import delete_collection
from tests.unit.stand_ins import FakeEmbedder, SilentNotifier

from retllm.db.duplicates import DuplicateGroup, DuplicateMember
from retllm.db.enums import ItemKind, JobKind, JobState, MemberRole, Stage, UnitState, Visibility
from retllm.db.jobs import Job, Unit
from retllm.db.locks import lock_collection
from retllm.db.searches import Candidate, Search
from retllm.db.session import Sessions, run_transaction, transaction
from retllm.db.tables import Collection, EmbeddingModel, Item, Source, new_id
from retllm.duplicates import replacing
from retllm.duplicates.grouping import Member
from retllm.duplicates.pictures import HashedPictures
from retllm.history import control
from retllm.history.control import BulkAction
from retllm.identity import links, members
from retllm.identity.access import Right, collection_for
from retllm.identity.actor import Actor
from retllm.indexing import coverage, sharing
from retllm.indexing.submit import submit_index
from retllm.indexing.worker import _store, register
from retllm.maps.replacing import Placed
from retllm.maps.replacing import replace_map as store_map
from retllm.media import copies, records, trash
from retllm.media.editing import change_items
from retllm.media.ingest import Ingest
from retllm.media.storage import get_storage
from retllm.media.transfers import Transfer
from retllm.ocr import worker as ocr
from retllm.ocr.reader import PictureText
from retllm.ocr.submit import submit_ocr
from retllm.operations import failures
from retllm.queue import claim as claims
from retllm.queue import lifecycle
from retllm.queue.claim import Claim
from retllm.queue.dispatcher import Dispatcher
from retllm.review import marks
from retllm.search.coarse import QueryVector, store_pool
from retllm.search.request import SearchRequest
from retllm.search.submit import submit_search
from retllm.settings import Settings, public_name
from retllm_web.actions import catalog, membership

MAIN, OTHER = "local-dir:/models/embedder", "local-dir:/models/other"


@dataclass(frozen=True)
class Scene:
    """A collection with four captioned pictures, a running index job, a running search, and an ended search.

    The first two pictures are a group of near-duplicates.
    """

    sessions: Sessions
    settings: Settings
    user: Actor
    collection: Collection
    items: list[Item]
    model_id: UUID
    index: Claim
    coarse: Claim
    ended: UUID
    group: UUID


_FILE = {"name": "a.pdf", "media_type": "application/pdf", "content_sha256": "f", "size_bytes": 1, "file_key": "f"}


class Other(FakeEmbedder):
    """The embedder that the collection does not use."""

    info = replace(FakeEmbedder.info, name=OTHER)


def scene_of(sessions: Sessions, settings: Settings, user: Actor) -> Scene:
    collection = Collection(id=new_id(), owner_id=user.id, name=new_id().hex)
    items = [
        Item(
            id=new_id(),
            collection_id=collection.id,
            kind=ItemKind.BOTH,
            name=f"{n}.png",
            text=f"caption {n}",
            content_sha256=hashlib.sha256(new_id().bytes).hexdigest(),
            size_bytes=1,
        )
        for n in range(4)
    ]
    vectors = FakeEmbedder().embed_texts([item.text or "" for item in items])
    with transaction(sessions) as session:
        session.add(collection)
        session.flush()
        source = Source(id=new_id(), collection_id=collection.id, **_FILE)
        session.add(source)
        session.flush()
        items[1].source_id = source.id
        # the order of the keys must differ from the order of the rows
        session.add_all(items[::-1])
        session.flush()
        group = DuplicateGroup(id=new_id(), collection_id=collection.id, size=2)
        members = (DuplicateMember(item_id=item.id, group_id=group.id, distance=0) for item in items[:2])
        store(session, group, *members)
        for embedder in (FakeEmbedder(), Other()):
            model = register(session, embedder)
            _store(session, model, collection.id, items, list(vectors), settings.item_image_weight, new_id())
        ended = _job(session, user, collection, JobKind.SEARCH, Stage.FINE, UnitState.DEAD, state=JobState.FAILED)
        index = _job(session, user, collection, JobKind.INDEX, Stage.EMBED, UnitState.READY)
        search = _job(session, user, collection, JobKind.SEARCH, Stage.COARSE, UnitState.READY)
        session.add_all([_search(ended.id), _search(search.id)])
        session.flush()
        session.add(Candidate(search_id=ended.id, item_id=items[0].id, coarse_rank=1, token=new_id()))
        session.flush()
        marks.set_mark(session, user, ended.id, items[0].id, True)
        first = sa.select(Unit.id).where(Unit.seq == 0)
        units = [session.scalars(first.where(Unit.job_id == job.id)).one() for job in (index, search)]
    at_work = [claims.claim_unit(sessions, unit, "w", settings) for unit in units]
    claimed = [claim for claim in at_work if claim is not None]
    with transaction(sessions) as session:
        sharing.claim_items(session, claimed[0], model.id, [item.id for item in items], weight=0.9)
    return Scene(sessions, settings, user, collection, items, model.id, *claimed, ended=ended.id, group=group.id)


def _job(
    session: Any, user: Actor, collection: Collection, kind: JobKind, stage: Stage, unit: UnitState, **more: Any
) -> Job:
    ended = sa.func.now() if "state" in more else None
    job = Job(
        id=new_id(), kind=kind, user_id=user.id, collection_id=collection.id, params={}, finished_at=ended, **more
    )
    session.add(job)
    session.flush()
    session.add_all(Unit(id=new_id(), job_id=job.id, stage=stage, seq=seq, state=unit, payload={}) for seq in range(2))
    session.flush()
    return job


def _search(job_id: UUID) -> Search:
    return Search(
        id=job_id,
        kind=ItemKind.TEXT,
        query_text="caption 1",
        question="q",
        k=4,
        item_kinds=[str(kind) for kind in ItemKind],
        query_image_weight=0.8,
        embedder=MAIN,
        scorer="/models/scorer",
        mode="true_false",
        injection={},
        tie_decimals=4,
    )


def _vectors(scene: Scene) -> list[np.ndarray]:
    return list(FakeEmbedder().embed_texts([item.text or "" for item in scene.items]))


def commit_vectors(scene: Scene) -> None:
    def write(session: Any, job: Job) -> list[Any]:
        model = session.get_one(EmbeddingModel, scene.model_id)
        _store(session, model, job.collection_id, scene.items, _vectors(scene), 0.7, scene.index.token)
        sharing.release_items(session, scene.index.token, model.id, [item.id for item in scene.items])
        return []

    claims.complete(scene.sessions, scene.index, write)


def claim_items(scene: Scene) -> None:
    """With another weight, for which there are no vectors; the unit of the scene has claimed the items before."""
    other, ids = replace(scene.index, token=new_id()), [item.id for item in scene.items]
    run_transaction(
        scene.sessions, lambda session: sharing.claim_items(session, other, scene.model_id, ids[::-1], weight=0.9)
    )


def commit_candidates(scene: Scene) -> None:
    def write(session: Any, job: Job) -> list[Any]:
        model = session.get_one(EmbeddingModel, scene.model_id)
        asked = {MAIN: QueryVector(model, FakeEmbedder().embed_texts(["caption 3 2 1"])[0])}
        store_pool(session, job, asked, {}, scene.coarse.token)
        return []

    claims.complete(scene.sessions, scene.coarse, write)


def fail_unit(scene: Scene) -> None:
    claims.fail(scene.sessions, scene.index, ValueError("broken"), scene.settings)


def return_unit(scene: Scene) -> None:
    claims.release(scene.sessions, scene.index)


def claim_unit(scene: Scene) -> None:
    with scene.sessions() as session:
        waiting = session.scalars(sa.select(Unit.id).filter_by(job_id=scene.index.job_id, seq=1)).one_or_none()
    if waiting is not None:
        claims.claim_unit(scene.sessions, waiting, "w", scene.settings)


def rescue(scene: Scene) -> None:
    with transaction(scene.sessions) as session:
        gone = sa.func.clock_timestamp() - sa.text("interval '1 second'")
        session.execute(sa.update(Unit).where(Unit.id == scene.index.unit_id).values(lease_until=gone))
    Dispatcher(scene.sessions, SilentNotifier(), scene.settings).rescue()


def _in_transaction(do: Callable[[Scene, Any], object]) -> Callable[[Scene], None]:
    def run(scene: Scene) -> None:
        run_transaction(scene.sessions, lambda session: do(scene, session))

    return run


def add_member(scene: Scene, session: Any) -> None:
    collection = collection_for(session, scene.user, scene.collection.id, Right.MANAGE)
    user = make_user(new_id().hex)
    store(session, user)
    members.add_member(session, collection, user, MemberRole.VIEWER)


def make_link(scene: Scene, session: Any) -> None:
    target = links.search_target(session, scene.user, scene.ended)
    links.make(session, b"key", scene.user, target, "l", days=1, longest=1, downloads=False)


def add_parts(scene: Scene, session: Any) -> None:
    """As the unit of an upload does, of the file whose only part the scene has."""
    lock_collection(session, scene.collection.id)
    collection = {"collection_id": scene.collection.id}
    source_id = records.name_source(session, {"id": new_id(), **collection, **_FILE})
    part = {"kind": ItemKind.IMAGE, "name": "a", "size_bytes": 1, "source_id": source_id, **collection}
    hashes = (scene.items[1].content_sha256, hashlib.sha256(new_id().bytes).hexdigest())
    records.insert_items(session, [{**part, "id": new_id(), "content_sha256": sha256} for sha256 in hashes])


def replace_groups(scene: Scene, session: Any) -> None:
    """As the last unit of a job that looks for near-duplicates does."""
    job = lifecycle.lock_job(session, scene.index.job_id)
    if job is not None:
        nothing = np.zeros(0, dtype=np.uint64)
        group = [(item.id, Member(place, 0, None)) for place, item in enumerate(scene.items[::-1])]
        replacing.replace_groups(session, job, HashedPictures(nothing, nothing, nothing), [group])


def replace_map(scene: Scene, session: Any) -> None:
    """As the unit of a job that makes a map does."""
    job = lifecycle.lock_job(session, scene.index.job_id)
    if job is not None:
        keys = np.frombuffer(b"".join(item.id.bytes for item in scene.items[::-1]), dtype=np.uint8).reshape(-1, 16)
        places = np.zeros((len(keys), 2), dtype=np.float32)
        store_map(session, job, Placed(new_id(), scene.items[-1].id, keys, places))


def store_texts(scene: Scene, session: Any) -> None:
    """As a unit that reads the text in pictures does."""
    if lifecycle.lock_job(session, scene.index.job_id) is not None:
        ocr.store_texts(session, {item.id: PictureText(new_id().hex, 1.0) for item in scene.items[::-1]})


def transfer(*, moves: bool) -> Callable[[Scene], None]:
    """Into a new collection, with the file that one of the items is a part of."""

    def run(scene: Scene) -> None:
        storage, ids = get_storage(scene.settings), [item.id for item in scene.items]
        storage.put(str(_FILE["file_key"]), io.BytesIO(b"f"))
        target = Collection(id=new_id(), owner_id=scene.user.id, name=new_id().hex)
        with transaction(scene.sessions) as session:
            session.add(target)
        plan = Transfer(storage, target.id, moves)
        plan.prepare(scene.sessions, ids)
        run_transaction(scene.sessions, lambda session: plan.write(session, ids))
        plan.finish()

    return run


def _in_request(do: Callable[[Any, Collection], object]) -> Callable[[Scene], None]:
    """Change the collection as a request of its owner does."""

    def run(scene: Scene) -> None:
        with Flask(__name__).test_request_context():
            g.actor = scene.user
            with transaction(scene.sessions) as session:
                do(session, collection_for(session, scene.user, scene.collection.id, Right.MANAGE))

    return run


ACTIONS: dict[str, Callable[[Scene], object]] = {
    "commit vectors": commit_vectors,
    "commit candidates": commit_candidates,
    "claim items": claim_items,
    "name a copy": _in_transaction(
        lambda s, session: copies.name_copy(session, s.items[1].id, "items/x/copy-1600.jpg")
    ),
    "record a failure": fail_unit,
    "return a unit": return_unit,
    "claim a unit": claim_unit,
    "rescue a unit": rescue,
    "delete the collection": lambda s: delete_collection(s.sessions, get_storage(s.settings), s.collection.id),
    "delete an item": _in_transaction(lambda s, session: records.empty_item(session, s.items[1].id)),
    "add parts": _in_transaction(add_parts),
    "change items": _in_transaction(
        lambda s, session: change_items(session, [item.id for item in s.items], {"title": new_id().hex}, s.settings)
    ),
    "delete items": _in_transaction(
        lambda s, session: records.empty_items(
            session, records.lock_items(session, [item.id for item in s.items], to_remove=True)
        )
    ),
    "put items into the trash": _in_transaction(
        lambda s, session: trash.trash_items(
            session, records.lock_items(session, [item.id for item in s.items]), days=1, by=None
        )
    ),
    "empty the trash": _in_transaction(lambda s, session: trash.empty_trash(session, s.collection.id)),
    "move items": transfer(moves=True),
    "copy items": transfer(moves=False),
    "change captions": _in_transaction(
        lambda s, session: records.set_captions(session, {item.id: records.Caption("another") for item in s.items})
    ),
    "add a text": lambda s: Ingest(s.sessions, get_storage(s.settings), s.settings, s.collection.id).add_text("x"),
    "submit a search": _in_transaction(
        lambda s, session: submit_search(session, s.user, s.collection.id, SearchRequest(text="x"), s.settings)
    ),
    "submit an index job": _in_transaction(
        lambda s, session: submit_index(session, s.user, s.collection.id, s.settings)
    ),
    "cancel a job": _in_transaction(lambda s, session: control.cancel_job(session, s.user, s.index.job_id)),
    "retry a job": _in_transaction(lambda s, session: control.retry_job(session, s.user, s.ended)),
    "cancel jobs": _in_transaction(
        lambda s, session: control.apply_to_jobs(session, s.user, BulkAction.CANCEL, [s.coarse.job_id, s.index.job_id])
    ),
    "delete jobs": _in_transaction(
        lambda s, session: control.apply_to_jobs(session, s.user, BulkAction.DELETE, [s.ended, s.index.job_id])
    ),
    "requeue dead units": _in_transaction(
        lambda s, session: failures.requeue(
            session, s.user, list(session.scalars(sa.select(Unit.id).filter_by(job_id=s.ended)))
        )
    ),
    "change the embedder": _in_transaction(
        lambda s, session: coverage.use(
            session, collection_for(session, s.user, s.collection.id, Right.MANAGE), OTHER, s.settings
        )
    ),
    "make a link": _in_transaction(make_link),
    "add a member": _in_transaction(add_member),
    "rename the collection": _in_request(
        lambda session, collection: catalog.change(session, collection, name=new_id().hex, description=None)
    ),
    "change the language": _in_request(
        lambda session, collection: catalog.change(session, collection, name=None, description=None, language="german")
    ),
    "change the visibility": _in_request(
        lambda session, collection: membership.set_visibility(session, collection, Visibility.EVERYONE)
    ),
    "remove vectors": lambda s: coverage.remove_vectors(s.sessions, s.collection.id, _other_model(s), s.settings),
    "replace groups": _in_transaction(replace_groups),
    "replace a map": _in_transaction(replace_map),
    "store texts in pictures": _in_transaction(store_texts),
    "submit a job that reads": _in_transaction(lambda s, session: submit_ocr(session, s.user, s.collection.id)),
    "dismiss a group": _in_transaction(lambda s, session: replacing.dismiss(session, s.collection.id, s.group)),
    "mark a result": _in_transaction(lambda s, session: marks.set_mark(session, s.user, s.ended, s.items[0].id, False)),
}


def _other_model(scene: Scene) -> UUID:
    with scene.sessions() as session:
        return session.scalars(sa.select(EmbeddingModel.id).filter_by(name=public_name(OTHER))).one()
