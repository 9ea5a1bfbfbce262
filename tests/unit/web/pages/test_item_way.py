"""From one item to the next in the order that one came from."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Page, Searched, Visitor

from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm_web.http.services import Services

TAKEN = {"b": "1950", "a": None, "d": "1920", "c": None, "e": "1999"}


@pytest.fixture
def shelf(ada: Caller, served: Services) -> dict[str, str]:
    """Five texts of a collection by name; two were taken at an unknown time."""
    collection = str(ada.post("/collections", json={"name": "Shelf"}).json["id"])
    items = [{"text": f"text {name}", "name": name} for name in TAKEN]
    ada.post(f"/collections/{collection}/items?index=false", json={"items": items})
    keys = {one["name"]: str(one["id"]) for one in ada.get(f"/collections/{collection}/items").json["items"]}
    for name, taken in TAKEN.items():
        if taken is not None:
            assert ada.patch(f"/items/{keys[name]}", json={"taken": taken}).status_code == 200
    return keys | {"": collection}


def step(page: Page, rel: str) -> str | None:
    links = page.all("a", rel=rel)
    return str(links[0].attributes["href"]) if links else None


@pytest.mark.parametrize(
    ("address", "order"),
    [
        ("", "badce"),
        ("sort=-added", "ecdab"),
        ("sort=name", "abcde"),
        ("sort=-name", "edcba"),
        ("sort=taken", "dbeac"),
        ("sort=-taken", "ebdca"),
        ("q=text&sort=name", "abcde"),
        ("filter=taken+%3E%3D+1930&sort=taken", "be"),
        ("filter=not+has+taken", "ac"),
    ],
)
def test_the_steps_follow_the_list_that_one_came_from(
    reader: Visitor, shelf: dict[str, str], address: str, order: str
) -> None:
    page = reader.get(f"/collections/{shelf['']}?{address}")
    links = [str(one.attributes["href"]) for one in page.all("a", class_="tile-picture")]
    names = {key: name for name, key in shelf.items()}
    assert "".join(names[link.partition("?")[0].rpartition("/")[2]] for link in links) == order
    assert len(links) == len(order)
    for rel, way in (("next", links), ("prev", links[::-1])):
        here: str | None = way[0]
        for expected in [*way[1:], None]:
            assert here is not None
            here = step(reader.get(here), rel)
            assert here == expected


def test_the_way_leads_back_to_the_list_also_after_a_deletion(reader: Visitor, shelf: dict[str, str]) -> None:
    page = reader.get(f"/items/{shelf['b']}?filter=has+taken&sort=name&size=l")
    back = f"/collections/{shelf['']}?filter=has+taken&sort=name&size=l#items"
    assert page.one("a", href=back).text == "Filtered items"
    page = reader.send(f"/items/{shelf['b']}/delete?filter=has+taken&sort=name&size=l")
    assert page.path == f"/collections/{shelf['']}"
    assert page.one("input", id="filter").attributes["value"] == "has taken"
    assert len(page.all("a", class_="tile-picture")) == 2


def test_the_steps_follow_the_results_of_a_search(reader: Visitor, searched: Searched, served: Services) -> None:
    first, second, third = searched.items
    searched.finish([3, 1, 2])
    with transaction(served.sessions) as session:
        name = session.scalar(sa.select(Item.name).where(Item.id == second))
    links = [str(one.attributes["href"]) for one in reader.get(f"/jobs/{searched.id}").all("a", title=str(name))]
    assert links == [f"/items/{second}?search={searched.id}"]
    page = reader.get(links[0])
    assert (step(page, "prev"), step(page, "next")) == (f"/items/{first}?search={searched.id}", None)
    page = reader.get(f"/items/{first}?search={searched.id}")
    assert (step(page, "prev"), step(page, "next")) == (f"/items/{third}?search={searched.id}", links[0])
    assert page.all("a", href=f"/jobs/{searched.id}")[0].text == "Results"


def test_a_search_or_filter_that_is_not_there_changes_nothing(reader: Visitor, shelf: dict[str, str]) -> None:
    for address in (f"search={UUID(int=1)}", "filter=taken+%3E", "sort=unknown"):
        page = reader.get(f"/items/{shelf['a']}?{address}")
        assert step(page, "prev") == f"/items/{shelf['b']}"
        assert step(page, "next") == f"/items/{shelf['d']}"
