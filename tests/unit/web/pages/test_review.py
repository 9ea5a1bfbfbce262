"""Marks on the pages, with and without a script."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask import Flask
from tests.unit.web.conftest import PASSWORD, Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor

from retllm.db.enums import ItemState, MemberRole, Role
from retllm.db.jobs import Job
from retllm.db.people import CollectionMember
from retllm.db.reviews import Judgment
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.identity import accounts
from retllm_web.http.services import Services

SCRIPT = {"X-Requested-With": "fetch"}


def _post(reader: Visitor, path: str, **fields: str) -> Page:
    answer = reader.client.post(path, data={"csrf_token": reader.token(), **fields}, headers=SCRIPT)
    return Page(answer)


def _marks(served: Services) -> dict[object, bool]:
    with served.sessions() as session:
        return {one.item_id: one.relevant for one in session.scalars(sa.select(Judgment))}


def _path(searched: Searched, place: int) -> str:
    return f"/jobs/{searched.id}/marks/{searched.items[place - 1]}"


def test_a_mark_is_set_changed_and_removed_by_the_form(reader: Visitor, searched: Searched, served: Services) -> None:
    reader.get(f"/jobs/{searched.id}/missing?find=robin")
    page = reader.send(_path(searched, 1), mark="relevant")
    assert page.path == f"/jobs/{searched.id}"
    assert _marks(served) == {searched.items[0]: True}
    reader.get(f"/jobs/{searched.id}/missing?find=robin")
    reader.send(_path(searched, 1), mark="not")
    assert _marks(served) == {searched.items[0]: False}
    reader.get(f"/jobs/{searched.id}/missing?find=robin")
    reader.send(_path(searched, 1), mark="none")
    assert _marks(served) == {}


def test_a_script_gets_the_updated_buttons_and_measures(reader: Visitor, searched: Searched) -> None:
    searched.score(2, 0.9)
    searched.finish([2, 1, 3])
    reader.get(f"/jobs/{searched.id}")
    piece = _post(reader, _path(searched, 1), mark="relevant")
    assert piece.status == 200
    assert piece.all("div", data_part=f"mark-{searched.items[0]}")
    buttons = [one.attributes for one in piece.all("button")]
    assert [(one["data-mark-as"], one["aria-pressed"]) for one in buttons] == [("relevant", "true"), ("not", "false")]
    # a second click removes the mark
    assert [one["value"] for one in buttons] == ["none", "not"]
    text = piece.one("div", data_part="review").text
    assert "fine miss" in text
    assert "1 of 3 candidates marked; 1 relevant item marked" in text
    # coarse put it first, the fine stage second: nDCG falls from 1 to 1 / log2(3)
    assert "1.000 0.631 ▼worse by 0.369" in text.replace("▼ ", "▼")


def test_an_invalid_mark_is_rejected(reader: Visitor, searched: Searched, served: Services) -> None:
    reader.get(f"/jobs/{searched.id}")
    for said in ("perhaps", ""):
        refused = _post(reader, _path(searched, 1), mark=said)
        assert refused.status == 422
        assert "relevant, not, none" in refused.html
    assert _marks(served) == {}


def test_an_item_that_was_not_found_can_be_marked_and_counts_as_a_coarse_miss(
    reader: Visitor, searched: Searched, ada: Caller, indexed: str
) -> None:
    searched.finish([1, 2, 3])
    ada.post(f"/collections/{indexed}/items?index=false", json={"items": [{"text": "a great owl"}]})
    page = reader.get(f"/jobs/{searched.id}/missing?find=owls")
    (form,) = page.all("form", class_="marks")
    page = reader.send(form.attributes["action"] or "", mark="relevant")
    page = reader.get(f"/jobs/{searched.id}/missing?find=owls")
    assert "coarse miss" in page.text
    assert "Relevant items that are not candidates" in page.text
    assert page.all("button", data_mark_as="relevant")[0].attributes["aria-pressed"] == "true"


def test_the_search_for_missing_items_reports_no_matches_only_for_a_query(reader: Visitor, searched: Searched) -> None:
    assert "No item matches" not in reader.get(f"/jobs/{searched.id}/missing").text
    page = reader.get(f"/jobs/{searched.id}/missing?find=%3Cb%3Eno%00")
    assert "No item matches “<b>no”" in page.text


def test_the_mark_of_a_deleted_item_can_only_be_removed(reader: Visitor, searched: Searched, served: Services) -> None:
    reader.get(f"/jobs/{searched.id}/missing?find=robin")
    reader.send(_path(searched, 1), mark="relevant")
    with transaction(served.sessions) as session:
        session.get_one(Item, searched.items[0]).state = ItemState.DELETED
    reader.get(f"/jobs/{searched.id}/missing")
    refused = _post(reader, _path(searched, 1), mark="not")
    assert (refused.status, refused.html) == (409, "The item is deleted and cannot be marked.")
    piece = _post(reader, _path(searched, 1), mark="none")
    assert piece.status == 200
    assert piece.all("button") == []


@pytest.mark.parametrize(("member", "status"), [(True, 200), (False, 404)])
def test_a_viewer_can_mark_results_only_as_a_member(
    app: Flask, searched: Searched, served: Services, member: bool, status: int
) -> None:
    with transaction(served.sessions) as session:
        user = accounts.create_user(session, "vera", PASSWORD, Role.VIEWER)
        if member:
            collection = session.get_one(Job, searched.id).collection_id
            session.add(CollectionMember(collection_id=collection, user_id=user.id, role=MemberRole.VIEWER))
    vera = Visitor(app.test_client())
    vera.log_in("vera")
    answer = _post(vera, _path(searched, 1), mark="relevant")
    assert answer.status == status
    assert len(_marks(served)) == int(member)
    assert vera.get(f"/jobs/{searched.id}/missing").status == status
