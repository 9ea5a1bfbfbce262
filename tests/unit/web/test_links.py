"""Who may make, list and revoke links, and when a link opens nothing."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Searched, indexed, searched, texts
from tests.unit.web.sharing import Shared, made, path_of, shared
from werkzeug.test import TestResponse

from retllm.db.enums import Role
from retllm.db.people import ShareLink
from retllm.db.session import transaction
from retllm.db.tables import User
from retllm.identity import links
from retllm.uploads.removal import remove_deleted
from retllm_web.http.services import Services

__all__ = ["indexed", "searched", "shared", "texts"]

Change = Callable[[Services, Caller, str], None]


def test_uses_are_counted_for_who_made_the_link(client: FlaskClient, ada: Caller, shared: Shared) -> None:
    def listed() -> dict[str, Any]:
        return dict(ada.get(f"/collections/{shared.collection}/links").json["links"][0])

    assert (listed()["uses"], listed()["last_used_at"]) == (0, None)
    # a picture alone is a use, but opens nothing
    client.get(f"{shared.path}/items/{shared.items[0]}/thumbnail")
    assert (listed()["uses"], listed()["last_used_at"] is None) == (0, False)
    for _ in range(2):
        client.get(shared.path)
    assert listed()["uses"] == 2
    assert listed()["name"] == "the family"
    assert listed()["made_by"] == "ada"
    assert "address" not in listed()


def test_only_who_manages_a_collection_makes_lists_and_revokes_its_links(
    ada: Caller, bob: Caller, root: Caller, client: FlaskClient, shared: Shared
) -> None:
    place, link = f"/collections/{shared.collection}/links", f"/links/{shared.link['id']}"

    def told() -> list[int]:
        asked = bob.post(place, json={"name": "n"}), bob.get(place), bob.delete(link)
        return [answer.status_code for answer in asked]

    assert told() == [404] * 3
    ada.post(f"/collections/{shared.collection}/members", json={"name": "bob", "role": "editor"})
    assert told() == [403] * 3
    assert client.get(shared.path).status_code == 200
    assert root.delete(link).status_code == 204
    assert root.delete(link).status_code == 404
    assert client.get(shared.path).status_code == 404


def test_the_audit_log_has_who_made_and_revoked_a_link(ada: Caller, root: Caller, shared: Shared) -> None:
    ada.delete(f"/links/{shared.link['id']}")
    entries = [one for one in root.get("/audit").json["entries"] if one["action"].startswith("link ")]
    assert [(one["action"], one["user_name"], one["target"]) for one in entries] == [
        ("link revoked", "ada", "the family"),
        ("link created", "ada", "the family"),
    ]
    assert {one["collection_id"] for one in entries} == {shared.collection}
    assert entries[1]["detail"] == {"days": 30, "downloads": True}
    assert path_of(shared.link).removeprefix("/s/") not in str(entries)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"days": 366}, "days"),
        ({"days": 0}, "days"),
        ({"days": "7"}, "days"),
        ({"name": ""}, "name"),
        ({"name": "a" * 101}, "name"),
        ({"name": " \n "}, "name"),
        ({"downloads": "yes"}, "downloads"),
        ({"for": "x"}, "for"),
    ],
)
def test_an_invalid_link_is_refused_with_the_field(ada: Caller, birds: str, asked: Any, field: str) -> None:
    answer = ada.post(f"/collections/{birds}/links", json={"name": "n", **asked})
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json["error"]["detail"]["fields"]] == [field]
    assert ada.get(f"/collections/{birds}/links").json["links"] == []


def test_a_collection_has_a_limited_number_of_links_that_have_not_ended(
    ada: Caller, birds: str, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MAX_LINKS", 2)
    first = made(ada, f"/collections/{birds}")
    made(ada, f"/collections/{birds}")
    answer = ada.post(f"/collections/{birds}/links", json={"name": "n"})
    assert (answer.status_code, "Revoke one" in answer.json["error"]["message"]) == (409, True)
    _end(served, first["id"])
    made(ada, f"/collections/{birds}")
    assert len(ada.get(f"/collections/{birds}/links").json["links"]) == 2


def _end(served: Services, link_id: str) -> None:
    with transaction(served.sessions) as session:
        ended = sa.update(ShareLink).where(ShareLink.id == uuid.UUID(link_id)).values(expires_at=sa.func.now())
        session.execute(ended)


def _account(**values: Any) -> Change:
    def change(served: Services, ada: Caller, _collection: str) -> None:
        with transaction(served.sessions) as session:
            session.execute(sa.update(User).where(User.id == ada.user.id).values(**values))

    return change


def _expired(served: Services, ada: Caller, collection: str) -> None:
    _end(served, ada.get(f"/collections/{collection}/links").json["links"][0]["id"])


def _revoked(_served: Services, ada: Caller, collection: str) -> None:
    [link] = ada.get(f"/collections/{collection}/links").json["links"]
    assert ada.delete(f"/links/{link['id']}").status_code == 204


def _deleted(_served: Services, ada: Caller, collection: str) -> None:
    assert ada.delete(f"/collections/{collection}").status_code == 204


def _given_away(served: Services, _ada: Caller, collection: str) -> None:
    with transaction(served.sessions) as session:
        other = User(id=uuid.uuid4(), name="eve", password_hash="-", role=Role.EDITOR)
        session.add(other)
        session.flush()
        session.execute(
            sa.text("UPDATE collections SET owner_id = :owner WHERE id = :id"), {"owner": other.id, "id": collection}
        )


ENDS: dict[str, Change] = {
    "revoked": _revoked,
    "expired": _expired,
    "maker locked out": _account(disabled_at=sa.func.now()),
    "maker is a viewer": _account(role=Role.VIEWER),
    "maker owns it no more": _given_away,
    "collection deleted": _deleted,
}


@pytest.mark.parametrize("end", ENDS)
def test_what_a_link_opened_is_gone_at_once(
    client: FlaskClient, served: Services, ada: Caller, shared: Shared, end: str
) -> None:
    opened = [path for path in shared.paths() if client.get(path).status_code == 200]
    assert len(opened) >= 5
    ENDS[end](served, ada, shared.collection)
    never = [client.get(path.replace("/s/rll_", "/s/rll_x")) for path in opened]
    for path, other in zip(opened, never, strict=True):
        gone = client.get(path)
        # as if it had never been
        assert (gone.status_code, _told(gone)) == (404, _told(other)), path


def _told(answer: TestResponse) -> str:
    return re.sub(r"/s/[\w-]+", "/s/", answer.text)


def test_the_settings_end_links_that_are_older_than_they_allow(
    app: OpenAPI, client: FlaskClient, served: Services, ada: Caller, shared: Shared
) -> None:
    def allow(days: int) -> None:
        app.extensions["retllm"] = replace(served, settings=served.settings.model_copy(update={"link_days": days}))

    with transaction(served.sessions) as session:
        session.execute(sa.text("UPDATE share_links SET created_at = now() - interval '2 days'"))
    allow(1)
    assert client.get(shared.path).status_code == 404
    assert ada.get(f"/collections/{shared.collection}/links").json["links"] == []
    allow(3)
    assert client.get(shared.path).status_code == 200
    assert made(ada, f"/collections/{shared.collection}")["expires_at"]
    allow(0)
    assert client.get(shared.path).status_code == 404
    refused = ada.post(f"/collections/{shared.collection}/links", json={"name": "n"})
    assert (refused.status_code, "RETLLM_LINK_DAYS" in refused.json["error"]["message"]) == (403, True)


def test_links_of_a_removed_collection_are_removed_with_it(
    ada: Caller, served: Services, searched: Searched, texts: str
) -> None:
    made(ada, f"/collections/{texts}")
    made(ada, f"/searches/{searched.id}")
    assert ada.delete(f"/collections/{texts}").status_code == 204
    assert ada.delete(f"/trash/{texts}").status_code == 204
    remove_deleted(served.sessions, served.storage)
    with transaction(served.sessions) as session:
        assert session.scalars(sa.select(ShareLink.id)).all() == []


def test_the_result_of_several_is_shared_by_who_manages_all_of_them(
    client: FlaskClient, ada: Caller, bob: Caller, served: Services, searched: Searched, texts: str
) -> None:
    other = bob.post("/collections", json={"name": "Bob's"}).json["id"]
    bob.put(f"/collections/{other}/visibility", json={"visibility": "everyone"})
    with transaction(served.sessions) as session:
        session.execute(sa.text("UPDATE jobs SET collection_id = NULL WHERE id = :id"), {"id": searched.id})
        session.execute(sa.text("UPDATE searches SET collections = 2 WHERE id = :id"), {"id": searched.id})
        for key in (texts, other):
            row = {"search": searched.id, "collection": key}
            session.execute(sa.text("INSERT INTO search_collections VALUES (:search, :collection)"), row)
    asked = f"/searches/{searched.id}/links"
    assert ada.post(asked, json={"name": "n"}).status_code == 403
    # once bob's is deleted, the rest is ada's
    bob.delete(f"/collections/{other}")
    path = path_of(made(ada, f"/searches/{searched.id}"))
    assert "robin" in client.get(path).text
    bob.post(f"/collections/{other}/restore")
    assert client.get(path).status_code == 404


def test_a_job_that_is_no_search_is_not_shared(ada: Caller, shared: Shared) -> None:
    upload = ada.get("/jobs").json["jobs"][0]["id"]
    assert ada.post(f"/searches/{upload}/links", json={"name": "n"}).status_code == 404
