"""The embedders of a collection through the API."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.vectors import embed_items

from retllm.db.enums import MemberRole
from retllm.db.people import CollectionMember
from retllm.db.session import transaction
from retllm.db.tables import new_id
from retllm.identity import audit
from retllm.settings import Settings
from retllm_web.http.services import Services

OTHER = "ViT-B-32/some"
Embed = Callable[[str, int | None], uuid.UUID]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with two embedders."""
    return settings.model_copy(update={"extra_embedders": (OTHER,)})


@pytest.fixture
def birds(ada: Caller) -> str:
    """A collection of ada's with three texts."""
    key = str(ada.post("/collections", json={"name": "Birds"}).json["id"])
    items = {"items": [{"text": text} for text in ("a robin", "a wren", "a crow")]}
    assert ada.post(f"/collections/{key}/items?index=false", json=items).json["added"] == 3
    return key


@pytest.fixture
def embed(birds: str, served: Services, settings: Settings) -> Embed:
    """Give the first items a vector of an embedder, as a worker would, and return the model's key."""

    def embed(name: str, count: int | None = None) -> uuid.UUID:
        return embed_items(served, settings, birds, name, limit=count)

    return embed


def _embedders(caller: Caller, key: str) -> dict[str, tuple[Any, ...]]:
    rows = caller.get(f"/collections/{key}/embedders").json["embedders"]
    return {row["name"]: (row["in_use"], row["embedded"], row["missing"]) for row in rows}


def _actions(served: Services) -> list[tuple[str, dict[str, Any]]]:
    with transaction(served.sessions) as session:
        return [(one.action, one.detail) for one in audit.page(session, audit.AuditFilters())]


def test_item_counts_follow_the_embedder_in_use(ada: Caller, birds: str, embed: Embed, served: Services) -> None:
    main = next(iter(_embedders(ada, birds)))
    embed(main, 1)
    embed(OTHER, None)
    assert _embedders(ada, birds) == {main: (True, 1, 2), OTHER: (False, 3, 0)}
    assert ada.get(f"/collections/{birds}").json["items_indexed"] == 1

    changed = ada.patch(f"/collections/{birds}", json={"embedder": OTHER}).json
    assert (changed["embedder"], changed["items_indexed"]) == (OTHER, 3)
    assert list(_embedders(ada, birds)) == [OTHER, main]
    assert {item["indexed"] for item in ada.get(f"/collections/{birds}/items").json["items"]} == {True}
    assert ada.get(f"/collections/{birds}/items?state=missing").json["items"] == []
    assert ada.patch(f"/collections/{birds}", json={"name": "Owls"}).json["embedder"] == OTHER
    assert _actions(served)[1] == ("collection changed", {"embedder": [None, OTHER]})


def test_switching_to_an_incomplete_or_unconfigured_embedder_is_rejected(ada: Caller, birds: str, embed: Embed) -> None:
    embed(OTHER, 2)
    answer = ada.patch(f"/collections/{birds}", json={"embedder": OTHER, "name": "Owls"})
    assert answer.status_code == 409
    assert "1 of 3 items" in answer.json["error"]["message"]
    assert ada.get(f"/collections/{birds}").json["name"] == "Birds", "nothing of the change was done"
    assert ada.patch(f"/collections/{birds}", json={"embedder": "ViT-B-32/none"}).status_code == 422


def test_indexing_with_one_embedder_creates_units_for_it_alone(
    ada: Caller, birds: str, embed: Embed, notified: RecordingNotifier
) -> None:
    answer = ada.post(f"/collections/{birds}/embedders/index", json={"embedder": OTHER})
    assert answer.status_code == 202
    assert answer.headers["Location"].endswith(answer.json["id"])
    assert len(notified.units) == 1
    assert answer.json["stages"][0]["items_total"] == 3


def test_only_vectors_of_unused_embedders_can_be_removed(
    ada: Caller, birds: str, embed: Embed, served: Services
) -> None:
    main = next(iter(_embedders(ada, birds)))
    used, old = embed(main, None), embed(OTHER, None)
    assert ada.delete(f"/collections/{birds}/embedders/{used}").status_code == 409
    assert ada.delete(f"/collections/{birds}/embedders/{old}").json == {"vectors": 3}
    assert _embedders(ada, birds)[OTHER] == (False, 0, 3)
    assert _actions(served)[0] == ("collection changed", {"vectors_removed": 3, "model_id": str(old)})
    assert ada.delete(f"/collections/{birds}/embedders/{new_id()}").status_code == 404


def test_an_editor_may_index_but_not_manage_embedders_and_outsiders_get_404(
    bob: Caller, birds: str, embed: Embed, served: Services
) -> None:
    model = embed(OTHER, None)
    asked = [
        lambda: bob.get(f"/collections/{birds}/embedders"),
        lambda: bob.patch(f"/collections/{birds}", json={"embedder": OTHER}),
        lambda: bob.post(f"/collections/{birds}/embedders/index", json={"embedder": OTHER}),
        lambda: bob.delete(f"/collections/{birds}/embedders/{model}"),
    ]
    assert [ask().status_code for ask in asked] == [404] * 4
    with transaction(served.sessions) as session:
        session.add(CollectionMember(collection_id=uuid.UUID(birds), user_id=bob.user.id, role=MemberRole.EDITOR))
    # an editor may index, but only a manager may choose embedders and remove vectors
    assert [ask().status_code for ask in asked] == [403, 403, 202, 403]
