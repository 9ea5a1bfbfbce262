"""Collections through the API."""

from __future__ import annotations

import uuid
from io import BytesIO
from typing import Any

import pytest
import sqlalchemy as sa
from tests.factories import make_job
from tests.unit.web.conftest import Caller

from retllm.db.enums import JobKind
from retllm.db.jobs import Job
from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.db.tables import Collection, Embedding, EmbeddingModel, Item, new_id
from retllm.queue.submission import current_job
from retllm.settings import Settings, public_name
from retllm.uploads.removal import remove_deleted
from retllm_web.http.services import Services


def _create(caller: Caller, name: str, **more: str) -> str:
    answer = caller.post("/collections", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json["id"])


def test_creating_a_collection_returns_it_empty_with_its_location(ada: Caller) -> None:
    answer = ada.post("/collections", json={"name": "  Birds ", "description": "of the garden"})
    assert answer.status_code == 201
    body = answer.json
    assert answer.headers["Location"] == f"/api/v1/collections/{body['id']}"
    assert (body["name"], body["description"], body["owner"]) == ("Birds", "of the garden", "ada")
    assert body["items"] == {"image": 0, "text": 0, "image+text": 0}
    assert (body["items_total"], body["items_indexed"], body["last_job"]) == (0, 0, None)
    assert ada.get(f"/collections/{body['id']}").json == body


def test_collection_names_are_unique_per_owner(ada: Caller, bob: Caller) -> None:
    _create(ada, "Birds")
    again = ada.post("/collections", json={"name": " Birds"})
    assert again.status_code == 409
    assert again.json["error"]["code"] == "conflict"
    _create(bob, "Birds")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "   "},
        {"name": "x" * 201},
        {"name": "two\nlines"},
        {"name": "\u3000\u00a0"},
        {"name": "\u0085"},
        {"name": "nul\0"},
        {"name": 5},
        {"name": None},
        {"name": "a", "colour": "red"},
        {"name": "a", "description": "x" * 4001},
        {"name": "a", "description": "nul\0"},
    ],
)
def test_an_invalid_field_is_rejected_and_named(ada: Caller, body: dict[str, object]) -> None:
    answer = ada.post("/collections", json=body)
    assert answer.status_code == 422
    assert answer.json["error"]["code"] == "invalid_input"
    wrong = answer.json["error"]["detail"]["fields"]
    assert wrong[0]["message"]
    assert wrong[0]["field"] in ("name", "description", "colour")
    assert ada.get("/collections").json["collections"] == []


def test_paging_returns_every_collection_once_newest_first(ada: Caller) -> None:
    made = [_create(ada, f"c{n}") for n in range(7)]
    seen: list[str] = []
    pages, after = 0, None
    while pages < 10:
        body = ada.get("/collections?limit=3" + (f"&after={after}" if after else "")).json
        seen += [one["id"] for one in body["collections"]]
        pages, after = pages + 1, body["next"]
        if after is None:
            break
    assert seen == made[::-1]
    assert pages == 3


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "after=x", "limit=", "colour=red", "after=%00"])
def test_invalid_query_parameters_are_rejected(ada: Caller, query: str) -> None:
    assert ada.get(f"/collections?{query}").status_code == 422


def test_a_private_collection_is_visible_only_to_its_owner_and_administrators(
    ada: Caller, bob: Caller, root: Caller
) -> None:
    key = _create(ada, "Private")
    assert bob.get(f"/collections/{key}").status_code == 404
    assert bob.patch(f"/collections/{key}", json={"name": "mine"}).status_code == 404
    assert bob.delete(f"/collections/{key}").status_code == 404
    assert bob.get("/collections").json["collections"] == []
    assert root.get("/collections").json["collections"][0]["owner"] == "ada"
    assert root.get(f"/collections/{key}").status_code == 200


def test_a_patch_leaves_other_fields_unchanged(ada: Caller) -> None:
    key = _create(ada, "Birds", description="of the garden")
    assert ada.patch(f"/collections/{key}", json={"name": "Owls"}).json["description"] == "of the garden"
    changed = ada.patch(f"/collections/{key}", json={"description": ""}).json
    assert (changed["name"], changed["description"]) == ("Owls", "")
    assert ada.patch(f"/collections/{key}", json={}).json == changed


def test_a_collection_has_a_language_that_the_server_knows(ada: Caller) -> None:
    assert ada.get(f"/collections/{_create(ada, 'Birds')}").json["language"] == "english"
    key = _create(ada, "Vögel", language="german")
    assert ada.get(f"/collections/{key}").json["language"] == "german"
    assert ada.patch(f"/collections/{key}", json={"name": "Oiseaux", "language": "french"}).json["language"] == "french"
    for answer in (
        ada.patch(f"/collections/{key}", json={"name": "Klingon", "language": "klingon"}),
        ada.post("/collections", json={"name": "Klingon", "language": "klingon"}),
    ):
        assert answer.status_code == 409
        assert "Choose one of: arabic, " in answer.json["error"]["message"]
        assert answer.json["error"]["detail"]["field"] == "language"
    body = ada.get(f"/collections/{key}").json
    assert (body["name"], body["language"]) == ("Oiseaux", "french"), "nothing of the refused change was stored"


def test_renaming_to_an_existing_name_is_rejected_and_changes_nothing(ada: Caller) -> None:
    _create(ada, "Birds")
    key = _create(ada, "Owls")
    assert ada.patch(f"/collections/{key}", json={"name": "Birds", "description": "x"}).status_code == 409
    body = ada.get(f"/collections/{key}").json
    assert (body["name"], body["description"]) == ("Owls", "")


def test_items_are_counted_by_kind_and_only_up_to_date_vectors_count_as_indexed(
    ada: Caller, served: Services, settings: Settings
) -> None:
    key = uuid.UUID(_create(ada, "Counted"))
    _create(ada, "Empty beside it")
    with transaction(served.sessions) as session:
        name = public_name(settings.embedder_name)
        old, new = (
            EmbeddingModel(id=new_id(), name=name, revision=revision, dimension=2, preprocessing_hash="h")
            for revision in ("old", "new")
        )
        session.add_all([old, new])
        texts = [
            Item(
                id=new_id(), collection_id=key, kind="text", name=str(n), content_sha256=str(n), text="t", size_bytes=1
            )
            for n in range(4)
        ]
        texts[3].state = "deleted"
        texts[1].version = 2
        session.add_all(texts)
        session.flush()

        def embed(item: Item, model: EmbeddingModel) -> Embedding:
            return Embedding(
                token=new_id(),
                item_id=item.id,
                model_id=model.id,
                collection_id=key,
                item_version=1,
                image_weight=settings.item_image_weight,
                vector=[1.0, 0.0],
            )

        session.add_all([embed(texts[0], new), embed(texts[1], new), embed(texts[2], old), embed(texts[3], new)])
    body = ada.get(f"/collections/{key}").json
    assert body["items"] == {"image": 0, "text": 3, "image+text": 0}
    assert body["items_total"] == 3
    # the second is stale, the third of an older model, the fourth deleted
    assert body["items_indexed"] == 1
    assert ada.get("/collections").json["collections"][0]["items_total"] == 0


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        (["succeeded", "failed"], 1),
        (["queued", "succeeded"], 0),
        (["queued", "queued", "failed"], 1),
        (["succeeded", "running", "queued", "succeeded"], 1),
    ],
)
def test_a_collection_shows_the_job_that_runs_or_waits_before_the_newest(
    ada: Caller, served: Services, states: list[str], shown: int
) -> None:
    key = uuid.UUID(_create(ada, "Busy"))
    with transaction(served.sessions) as session:
        jobs = [
            Job(id=new_id(), kind="index", state=state, user_id=ada.user.id, collection_id=key, params={})
            for state in states
        ]
        session.add_all(jobs)
        assert session.scalar(current_job(JobKind.INDEX, key)) is jobs[shown]
    view = ada.get(f"/collections/{key}").json["last_job"]
    assert (view["id"], view["state"]) == (str(jobs[shown].id), states[shown])


def test_deleting_a_collection_deletes_its_items_jobs_and_files(ada: Caller, served: Services) -> None:
    key = _create(ada, "Old")
    for name in ("items/aa/one/original", "queries/two/picture"):
        served.storage.put(name, BytesIO(b"bytes"))
    with transaction(served.sessions) as session:
        session.add(
            Item(
                id=new_id(),
                collection_id=uuid.UUID(key),
                kind="image",
                name="a.png",
                content_sha256="s",
                size_bytes=5,
                picture_key="items/aa/one/original",
            )
        )
        session.add(Job(id=new_id(), kind="index", user_id=ada.user.id, collection_id=uuid.UUID(key), params={}))
    assert ada.delete(f"/collections/{key}").status_code == 204
    assert ada.get(f"/collections/{key}").status_code == 404
    assert ada.delete(f"/collections/{key}").status_code == 404
    # it is in the trash
    remove_deleted(served.sessions, served.storage)
    assert served.storage.exists("items/aa/one/original")
    assert ada.delete(f"/trash/{key}").status_code == 204
    remove_deleted(served.sessions, served.storage)
    assert not served.storage.exists("items/aa/one/original")
    assert served.storage.exists("queries/two/picture")  # not referenced by this collection
    with transaction(served.sessions) as session:
        for table in (Collection, Item, Job):
            assert session.scalar(sa.select(sa.func.count()).select_from(table)) == 0


_MANY = """
    INSERT INTO items (id, collection_id, kind, state, name, content_sha256, version, text, size_bytes)
    SELECT gen_random_uuid(), :collection, 'text', 'ready', n, n, 1, n, 9 FROM generate_series(1, 20000) AS n
"""


def test_a_large_collection_is_deleted_by_the_statements_that_a_small_one_takes(ada: Caller, served: Services) -> None:
    small, large = _create(ada, "Small"), _create(ada, "Large")
    with transaction(served.sessions) as session:
        session.execute(sa.text(_MANY), {"collection": large})
        for key in (small, large):
            session.add_all(make_job(ada.user.id, uuid.UUID(key)) for _ in range(1 if key == small else 500))
    engine = served.sessions.kw["bind"]
    changes: dict[str, list[tuple[str, int]]] = {small: [], large: []}
    for key, done in changes.items():

        def note(_c: object, cursor: Any, statement: str, *_: object, done: list[tuple[str, int]] = done) -> None:
            done.append((statement, 1 if statement.startswith("SELECT") else cursor.rowcount))

        sa.event.listen(engine, "after_cursor_execute", note)
        assert ada.delete(f"/collections/{key}").status_code == 204
        sa.event.remove(engine, "after_cursor_execute", note)
    assert changes[small] == changes[large]
    # the last use of the token, the mark, the entry of the audit log
    assert sum(rows for statement, rows in changes[large] if not statement.startswith("SELECT")) <= 3
    with served.sessions() as session:
        told = sa.select(AuditEntry.detail).filter_by(action="collection deleted").order_by(AuditEntry.id)
        assert session.scalars(told).all() == [{"items": 0}, {"items": 20_000}]


def test_the_name_and_the_keys_of_a_deleted_collection_can_be_used_again_at_once(ada: Caller, served: Services) -> None:
    def create() -> str:
        key = _create(ada, "Birds")
        assert ada.post(f"/collections/{key}/items?index=false", json={"items": [{"text": "a"}]}).json["added"] == 1
        return key

    first = create()
    once = {"Idempotency-Key": "once"}
    job = ada.post(f"/collections/{first}/index", headers=once).json["id"]
    assert ada.delete(f"/collections/{first}").status_code == 204
    second = create()
    assert ada.post("/collections", json={"name": "Birds"}).status_code == 409
    again = ada.post(f"/collections/{second}/index", headers=once)
    assert again.status_code == 202
    assert again.json["id"] != job
    assert ada.post(f"/collections/{second}/index", headers=once).json["id"] == again.json["id"]
    assert ada.delete(f"/collections/{second}").status_code == 204
    remove_deleted(served.sessions, served.storage)
    assert ada.get("/collections").json["collections"] == []
