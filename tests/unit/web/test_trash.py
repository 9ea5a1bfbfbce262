"""Deleted items and collections are gone for everyone, can be restored for some days, and can be deleted for good."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pictures import picture
from tests.unit.web.policy import Person
from tests.unit.web.route_requests import RequestSender
from tests.unit.web.scene import Scene, SceneBuilder
from tests.unit.web.test_item_changes import added
from tests.unit.web.vectors import embed_items

from retllm.db.deletion import WITH_DELETED
from retllm.db.people import AuditEntry
from retllm.db.session import transaction
from retllm.db.tables import Collection, Item
from retllm.media import trash as media_trash
from retllm.queue.audit import violations
from retllm.queue.audit_files import orphans
from retllm.settings import Settings, public_name
from retllm.uploads.removal import remove_deleted
from retllm_web.actions import chosen
from retllm_web.http.services import Services

WORD = "xylophone"


@pytest.fixture
def items(ada: Caller, birds: str) -> list[str]:
    """Three pictures."""
    return [added(ada, birds, (f"{n}.png", picture(f"rgb({n},0,0)"))) for n in range(3)]


def listed(caller: Caller, collection: str) -> list[str]:
    return [one["id"] for one in caller.get(f"/collections/{collection}/items").json["items"]]


def in_trash(caller: Caller, collection: str, query: str = "") -> list[str]:
    return [one["id"] for one in caller.get(f"/collections/{collection}/trash{query}").json["items"]]


def restored(caller: Caller, collection: str, **body: Any) -> Any:
    answer = caller.post(f"/collections/{collection}/trash/restore", json=body)
    assert answer.status_code == 200, answer.json
    return answer.json


def assert_whole(served: Services) -> None:
    assert [str(one) for one in violations(served.sessions, served.storage)] == []
    with transaction(served.sessions) as session:
        assert [key for key in orphans(session, served.storage) if key.startswith("items/")] == []


def test_a_deleted_item_is_listed_in_the_trash_and_restored_as_it_was(
    ada: Caller, birds: str, items: list[str], served: Services, settings: Settings
) -> None:
    embed_items(served, settings, birds, public_name(settings.embedder_name))
    ada.patch(f"/items/{items[0]}", json={"tags": ["red"], "rating": 4, "text": "a robin"})
    before = [ada.get(f"/items/{one}").json for one in items]
    assert ada.delete(f"/items/{items[1]}").status_code == 204
    sent = ada.post(f"/collections/{birds}/items/delete", json={"items": items[:1]}).json
    assert (sent["done"], sent["trashed"]) == (items[:1], True)
    assert ada.get(f"/collections/{birds}").json["items_total"] == 1
    found = ada.get(f"/collections/{birds}/trash").json["items"]
    # what came last is first
    assert [(one["id"], one["name"], one["trashed_by"]) for one in found] == [
        (items[0], "0.png", "ada"),
        (items[1], "1.png", "ada"),
    ]
    left = datetime.fromisoformat(found[0]["kept_until"]) - datetime.now(UTC)
    assert timedelta(days=29) < left < timedelta(days=31)
    assert_whole(served)
    assert restored(ada, birds, items=items[:2])["done"] == items[:2]
    assert [ada.get(f"/items/{one}").json for one in items] == before
    assert in_trash(ada, birds) == []
    assert_whole(served)


def test_the_trash_is_paged(ada: Caller, birds: str, items: list[str]) -> None:
    for one in items:
        ada.delete(f"/items/{one}")
    page = ada.get(f"/collections/{birds}/trash?limit=2").json
    assert ([one["id"] for one in page["items"]], page["next"]) == (items[:0:-1], items[1])
    # the list goes on although its last entry is gone
    restored(ada, birds, items=[items[1]])
    assert in_trash(ada, birds, f"?after={page['next']}") == items[:1]
    assert in_trash(ada, birds, f"?after={uuid.uuid4()}") == []


def test_what_is_not_restored_is_told(ada: Caller, birds: str, items: list[str]) -> None:
    ada.delete(f"/items/{items[0]}")
    again = added(ada, birds, ("again.png", picture("rgb(0,0,0)")))
    assert again != items[0]
    other = ada.post("/collections", json={"name": "Other"}).json["id"]
    elsewhere = added(ada, other, ("x.png", picture("blue")))
    ada.delete(f"/items/{elsewhere}")
    answer = restored(ada, birds, items=[items[0], items[1], elsewhere])
    assert answer["done"] == []
    assert {one["item_id"]: (one["name"], one["reason"]) for one in answer["skipped"]} == {
        items[0]: ("0.png", "duplicate"),
        items[1]: ("1.png", "not_found"),
        elsewhere: (None, "not_found"),
    }
    assert in_trash(ada, birds) == items[:1]


def test_all_are_restored_a_bounded_number_in_a_request(
    ada: Caller, birds: str, items: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "BATCH", 1)
    monkeypatch.setattr(chosen, "MAX", 2)
    for one in items:
        ada.delete(f"/items/{one}")
    first = restored(ada, birds, all=True)
    assert (first["done"], first["next"]) == (items[:0:-1], items[1])
    rest = restored(ada, birds, all=True, after=first["next"])
    assert (rest["done"], rest["next"]) == (items[:1], None)
    assert listed(ada, birds) == items


@pytest.mark.parametrize("body", [{}, {"all": False}, {"items": []}, {"items": [str(uuid.uuid4())], "all": True}])
def test_a_request_says_which_items_it_is_about(ada: Caller, birds: str, body: dict[str, Any]) -> None:
    assert ada.post(f"/collections/{birds}/trash/restore", json=body).status_code == 422


def test_items_in_the_trash_are_deleted_for_good(ada: Caller, birds: str, items: list[str], served: Services) -> None:
    for one in items[:2]:
        ada.delete(f"/items/{one}")
    # one that is not in the trash stays
    answer = ada.post(f"/collections/{birds}/trash/delete", json={"items": [items[0], items[2]]}).json
    assert (answer["done"], [one["item_id"] for one in answer["skipped"]]) == (items[:1], items[2:])
    assert in_trash(ada, birds) == items[1:2]
    assert ada.delete(f"/collections/{birds}/trash").status_code == 204
    assert in_trash(ada, birds) == []
    assert ada.get(f"/items/{items[1]}/thumbnail").status_code == 404
    assert restored(ada, birds, all=True)["done"] == []
    media_trash.remove_due(served.sessions, served.storage)
    assert listed(ada, birds) == items[2:]
    assert_whole(served)
    with transaction(served.sessions) as session:
        kept = session.scalars(sa.select(Item.id).where(Item.picture_key.is_not(None))).all()
        entries = sa.select(AuditEntry.action).order_by(AuditEntry.id.desc()).limit(2)
        assert session.scalars(entries).all() == ["trash emptied", "items deleted for good"]
    assert list(map(str, kept)) == items[2:]


def test_only_who_may_change_the_collection_sees_its_trash_and_the_thumbnails_in_it(
    ada: Caller, bob: Caller, birds: str, items: list[str]
) -> None:
    ada.put(f"/collections/{birds}/visibility", json={"visibility": "everyone"})
    ada.delete(f"/items/{items[0]}")
    assert bob.get(f"/collections/{birds}/trash").status_code == 403
    assert bob.get(f"/items/{items[0]}/thumbnail").status_code == 404
    assert ada.get(f"/items/{items[0]}/thumbnail").mimetype == "image/webp"
    for which in ("", "/rendition", "/picture", "/source"):
        assert ada.get(f"/items/{items[0]}{which}").status_code == 404
    assert ada.patch(f"/items/{items[0]}", json={"title": "x"}).status_code == 404
    assert ada.delete(f"/items/{items[0]}").status_code == 404


# collections


def test_a_deleted_collection_is_restored_with_all_that_was_in_it(
    ada: Caller, bob: Caller, root: Caller, birds: str, items: list[str], served: Services
) -> None:
    before = ada.get(f"/collections/{birds}").json
    assert ada.delete(f"/collections/{birds}").status_code == 204
    remove_deleted(served.sessions, served.storage)
    assert ada.get("/collections").json["collections"] == []
    (found,) = ada.get("/trash").json["collections"]
    assert (found["id"], found["name"], found["items_total"]) == (birds, "Birds", 3)
    assert (found["owner"], found["deleted_by"]) == ("ada", "ada")
    assert bob.get("/trash").json["collections"] == []
    assert [one["id"] for one in root.get("/trash").json["collections"]] == [birds]
    assert bob.post(f"/collections/{birds}/restore").status_code == 404
    assert ada.post(f"/collections/{birds}/restore").json == before
    assert listed(ada, birds) == items
    assert ada.get("/trash").json["collections"] == []
    assert ada.post(f"/collections/{birds}/restore").status_code == 409
    assert_whole(served)


def test_a_collection_whose_name_was_taken_is_restored_under_another_one(ada: Caller, birds: str) -> None:
    keys = [birds]
    for _ in range(3):
        ada.delete(f"/collections/{keys[-1]}")
        keys.append(ada.post("/collections", json={"name": "Birds"}).json["id"])
    names = [ada.post(f"/collections/{key}/restore").json["name"] for key in keys[:-1]]
    assert names == ["Birds (restored)", "Birds (restored 2)", "Birds (restored 3)"]


def test_members_of_a_deleted_collection_do_not_see_it_in_the_trash(ada: Caller, bob: Caller, birds: str) -> None:
    ada.post(f"/collections/{birds}/members", json={"name": "bob", "role": "editor"})
    ada.delete(f"/collections/{birds}")
    assert bob.get("/trash").json["collections"] == []
    assert bob.post(f"/collections/{birds}/restore").status_code == 403
    assert bob.get(f"/collections/{birds}").status_code == 404
    ada.post(f"/collections/{birds}/restore")
    assert bob.get(f"/collections/{birds}").status_code == 200


def test_a_collection_is_removed_when_its_time_in_the_trash_is_over(
    ada: Caller, birds: str, items: list[str], served: Services
) -> None:
    ada.delete(f"/collections/{birds}")
    over = sa.update(Collection).values(kept_until=sa.func.now() - timedelta(seconds=1))
    with transaction(served.sessions) as session:
        session.execute(over.execution_options(**WITH_DELETED))
    assert ada.get("/trash").json["collections"] == []
    assert ada.post(f"/collections/{birds}/restore").status_code == 404
    remove_deleted(served.sessions, served.storage)
    with transaction(served.sessions) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Item)) == 0
        assert orphans(session, served.storage) == []


def test_a_collection_that_is_deleted_for_good_can_not_be_restored(ada: Caller, birds: str) -> None:
    assert ada.delete(f"/trash/{birds}").status_code == 409
    ada.delete(f"/collections/{birds}")
    assert ada.delete(f"/trash/{birds}").status_code == 204
    assert ada.delete(f"/trash/{birds}").status_code == 404
    assert ada.post(f"/collections/{birds}/restore").status_code == 404


@pytest.mark.usefixtures("without_trash")
def test_a_server_without_a_trash_deletes_for_good(ada: Caller, birds: str, items: list[str], served: Services) -> None:
    ada.delete(f"/items/{items[0]}")
    assert in_trash(ada, birds) == []
    ada.delete(f"/collections/{birds}")
    assert ada.get("/trash").json["collections"] == []
    remove_deleted(served.sessions, served.storage)
    with transaction(served.sessions) as session:
        assert orphans(session, served.storage) == []


# every route


@pytest.fixture
def scene(served: Services) -> Scene:
    """A collection with every kind of object; the item's text is a word that occurs nowhere else."""
    scene = SceneBuilder(served, PASSWORD).build()
    facts = {"text": WORD, "title": WORD, "tags": [WORD], "camera": WORD}
    with transaction(served.sessions) as session:
        session.execute(sa.update(Item).where(Item.id == scene.keys["item_id"]).values(facts))
    return scene


def _reads(app: OpenAPI) -> list[Any]:
    return [
        rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ()) and "static" not in rule.endpoint
    ]


@pytest.mark.parametrize("person", [Person.OWNER, Person.READER])
def test_no_route_shows_what_an_item_in_the_trash_has(
    app: OpenAPI, served: Services, scene: Scene, person: Person
) -> None:
    sender, user = RequestSender(app, served), scene.people[person]
    item_id = str(scene.keys["item_id"])
    addresses = {rule.endpoint: sender.address(rule, "GET", scene) for rule in _reads(app)}

    def shown() -> set[str]:
        answers = {endpoint: sender.send("GET", address, user) for endpoint, address in addresses.items()}
        found = {name for name, one in answers.items() if WORD.encode() in one.get_data()}
        by_key = {name for name, address in addresses.items() if address.split("/items/")[-1].startswith(item_id)}
        return found | {name for name in by_key if answers[name].status_code == 200}

    before = shown()
    assert {"api.get_item", "api.get_thumbnail", "api.get_item_source", "pages.item", "pages.collection"} <= before
    assert {"api.get_search", "api.list_items", "pages.job"} <= before
    owner = scene.people[Person.OWNER]
    assert sender.send("DELETE", f"/api/v1/items/{item_id}", owner).status_code == 204
    # its trash is for those who can restore it
    trash = {"api.list_trashed_items", "api.get_thumbnail"} if person is Person.OWNER else set()
    assert shown() == trash
    body = {"json": {"items": [item_id]}}
    address = f"/api/v1/collections/{scene.keys['collection_id']}/trash/restore"
    assert sender.send("POST", address, owner, body).get_json()["done"] == [item_id]
    assert shown() == before
