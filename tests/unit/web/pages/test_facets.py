"""The facets of a list of items: each link leads to as many items as it says."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import sqlalchemy as sa
from tests.factories import make_picture, make_text, store
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Element, Page, Visitor

from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.filters import condition, parse
from retllm_web.actions import item_facets, item_lists
from retllm_web.http.services import Services

SCRIPT = {"X-Requested-With": "fetch"}
ITEMS = 200
_TIMES = [
    None,
    (datetime(1998, 1, 1), timedelta(365)),
    (datetime(1998, 5, 1), timedelta(31)),
    (datetime(1998, 5, 31, 14, 30), timedelta(seconds=1)),
    (datetime(1999, 12, 31), timedelta(1)),
]


def _facts() -> Iterator[dict[str, Any]]:
    """Items with each value beside many others."""
    rng = np.random.default_rng(7)

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    for number in range(ITEMS):
        taken = one_of(*_TIMES)
        yield {
            "name": f"{one_of('', 'box 1/', 'box 1/roll/', 'box 1/roll/b/', 'Ü/', 'box 2/a/')}{number}.jpg",
            "camera": one_of("X100", "x100", 'Canon "5D"', "", None),
            "lens": one_of("35 mm", None),
            "tags": one_of([], ["Sea"], ["sea", "boats, old"], ["hills"]),
            "rating": one_of(None, 1, 4, 5),
            "taken": taken and taken[0],
            "taken_until": taken and taken[0] + taken[1],
            "further": one_of(
                {"Photographer": "Ann", "Inventory": f"no. {number}"},
                {"photographer": 'Bo "B" and C', "Box no.": "7"},
                {"Photographer": "ann", "Box no.": "07", "Notes": "x" * 250},
                {},
            ),
        }


@pytest.fixture
def shelf(ada: Caller, served: Services) -> str:
    """A collection of pictures of which much is known, and of one text."""
    key = str(ada.post("/collections", json={"name": "Shelf"}).json["id"])
    with transaction(served.sessions) as session:
        store(session, *(make_picture(uuid.UUID(key), **facts) for facts in _facts()))
        store(session, make_text(uuid.UUID(key), "a list of the boxes"))
    return key


def _said(link: Element) -> tuple[str, str]:
    """Return the value and the count of the link of a facet."""
    found = re.fullmatch(r"(.+) (\S+) items?(?:, remove)?", link.text)
    assert found
    return found[1], found[2]


def _links(page: Page) -> dict[str, tuple[int, str]]:
    """Return how many items each link promises, and its address; not of those that take a value away."""
    found = {}
    for link in page.all("a"):
        if link.attributes.get("aria-current"):
            continue
        if link.attributes.get("class") == "facet":
            label, count = _said(link)
            found[label] = int(count), str(link.attributes["href"])
        elif ": " in (link.attributes.get("title") or ""):
            title, _, number = str(link.attributes["title"]).partition(": ")
            found[title] = int(number), str(link.attributes["href"])
    return found


def _matching(served: Services, key: str, address: str) -> int:
    expression = parse(parse_qs(urlsplit(address).query).get("filter", [""])[0])
    with served.sessions() as session:
        query = sa.select(sa.func.count()).select_from(Item).where(Item.collection_id == uuid.UUID(key))
        return session.scalar(query.where(condition(expression)) if expression else query) or 0


@pytest.mark.parametrize(
    "chosen",
    [
        "",
        "camera = X100",
        'folder ~ "box 1/"',
        "folder ~ box",
        "taken = 1998 and rating in (4, 5)",
        "taken >= 1998-05-31 or has lens",
        "not has taken",
        "column.Photographer = Ann",
        'not has column."Box no."',
    ],
)
def test_each_link_leads_to_as_many_items_as_it_says(
    reader: Visitor, shelf: str, served: Services, chosen: str
) -> None:
    links = _links(reader.get(f"/collections/{shelf}/facets", query_string={"filter": chosen}, headers=SCRIPT))
    assert len(links) > 10
    assert {label: count for label, (count, _) in links.items()} == {
        label: _matching(served, shelf, address) for label, (_, address) in links.items()
    }


def test_all_values_are_there(reader: Visitor, shelf: str) -> None:
    page = reader.get(f"/collections/{shelf}?facets=1")
    titles = [e.text for e in page.all("h3")]
    known = ("When they were taken", "Camera", "Lens", "Year taken", "Folder", "Tags", "Rating", "Kind")
    # not those without a value that two items share
    assert titles == [*known, "photographer", "Box no."]
    labels = _links(page).keys()
    assert {"x100", 'Canon "5D"', "35 mm", "1998", "1999", "box 1/", "box 2/", "Ü/", "directly here"} <= labels
    assert {"sea", "boats, old", "hills", "no tags", "5 of 5", "not rated", "pictures", "texts", "May 1998"} <= labels
    assert {"ann", 'Bo "B" and C', "7", "07"} <= labels
    assert "of which only the year is known" in page.text
    inner = _links(reader.get(f"/collections/{shelf}?facets=1&filter=folder+~+%22box+1/%22"))
    assert {"roll/", "directly here"} <= inner.keys()
    assert not {"box 1/", "b/"} & inner.keys()


def test_a_column_in_the_filter_is_there_although_no_two_items_have_the_same(reader: Visitor, shelf: str) -> None:
    page = reader.get(f"/collections/{shelf}/facets?filter=has+column.Inventory", headers=SCRIPT)
    assert "Inventory" in [e.text for e in page.all("h3")]
    assert "more" in page.text


def test_the_facets_in_the_search_form_add_to_its_filter(reader: Visitor, shelf: str, served: Services) -> None:
    here = f"/search?collection={shelf}&k=7&filter=column.Photographer+%3D+Ann"
    (link,) = [e for e in reader.get(here).all("a") if e.text == "Count the items"]
    page = reader.get(str(link.attributes["href"]).partition("#")[0])
    assert "open" in page.one("details", class_="settings").attributes
    links = _links(page)
    count, address = links["07"]
    assert count == _matching(served, shelf, address) > 0
    asked = parse_qs(urlsplit(address).query)
    wanted = 'column.Photographer = Ann and column."Box no." = 07'
    assert asked == {"collection": [shelf], "k": ["7"], "facets": ["1"], "filter": [wanted]}
    assert reader.get(address.partition("#")[0]).one("input", id="filter").attributes["value"] == wanted
    # the last part is taken away in the same way
    (chosen,) = page.all("a", class_="facet", aria_current="true")
    left = parse_qs(urlsplit(str(chosen.attributes["href"])).query, keep_blank_values=True)
    assert left["filter"] == [""]


def test_a_script_loads_the_facets_of_the_search_form(reader: Visitor, shelf: str) -> None:
    address = f"/collections/{shelf}/facets?of=search&filter=column.Photographer+%3D+Ann"
    page = reader.get(address, headers=SCRIPT)
    assert not page.all("form")
    filters = {parse_qs(urlsplit(address).query)["filter"][0] for _, address in _links(page).values()}
    assert 'column.Photographer = Ann and column."Box no." = 07' in filters
    wrong = reader.get(f"/collections/{shelf}/facets?of=search&filter=ratin", headers=SCRIPT)
    assert "Nothing is counted until the filter is corrected: " in wrong.text


def test_the_filter_of_the_list_leads_to_a_search(reader: Visitor, shelf: str) -> None:
    page = reader.get(f"/collections/{shelf}?filter=column.Photographer+%3D+Ann&kind=image")
    (link,) = [e for e in page.all("a") if e.text == "Search with this filter"]
    form = reader.get(str(link.attributes["href"]))
    assert form.one("input", id="filter").attributes["value"] == "column.Photographer = Ann"


def test_a_part_of_the_filter_is_taken_away_by_its_own_link(reader: Visitor, shelf: str) -> None:
    page = reader.get(f"/collections/{shelf}?facets=1&filter=camera+%3D+X100+and+rating+%3D+4&sort=-name&size=l")
    (link,) = [e for e in page.all("a", class_="btn") if e.text.startswith("camera = X100")]
    left = parse_qs(urlsplit(str(link.attributes["href"])).query)
    assert left == {"filter": ["rating = 4"], "facets": ["1"], "sort": ["-name"], "size": ["l"]}
    camera, rating = page.all("a", class_="facet", aria_current="true")
    assert (camera.text.split()[0], rating.text[:6]) == ("x100", "4 of 5")
    others = [parse_qs(urlsplit(str(link.attributes["href"])).query)["filter"] for link in (camera, rating)]
    assert others == [["rating = 4"], ["camera = X100"]]


def test_two_fields_set_the_time_in_the_filter(reader: Visitor, shelf: str) -> None:
    here = f"/collections/{shelf}?facets=1&filter=camera+%3D+X100+and+taken+%3D+1999"
    page = reader.get(here)
    assert [page.one("input", id=name).attributes["value"] for name in ("taken_from", "taken_to")] == ["1999", "1999"]

    def asked(begin: str, end: str) -> str | None:
        page = reader.get(f"{here}&taken_from={begin}&taken_to={end}")
        return page.one("input", id="filter").attributes["value"]

    assert asked("1998-05", "1998-06-30") == "camera = X100 and taken >= 1998-05 and taken <= 1998-06-30"
    assert asked("", "1998") == "camera = X100 and taken <= 1998"
    assert asked("", "") == "camera = X100"
    page = reader.get(f"{here}&taken_from=May")
    assert "taken can't be compared with 'May'" in page.one("div", id="filter-problem").text


def test_only_the_first_of_too_many_items_are_counted(
    reader: Visitor, shelf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = _links(reader.get(f"/collections/{shelf}/facets", headers=SCRIPT))
    monkeypatch.setattr(item_lists, "MAX_COMPARED", 50)
    monkeypatch.setattr(item_facets, "_COUNTABLE", -1)
    page = reader.get(f"/collections/{shelf}/facets", headers=SCRIPT)
    assert "only the first 50 of the collection are looked at" in page.text
    counts = [_said(e) for e in page.all("a", class_="facet")]
    assert counts
    for label, count in counts:
        assert count.endswith("+")
        assert int(count.removesuffix("+")) <= exact[label][0]
    # those that are all there are counted as they are
    monkeypatch.setattr(item_lists, "MAX_COMPARED", ITEMS + 5)
    assert _links(reader.get(f"/collections/{shelf}/facets", headers=SCRIPT)) == exact


def test_nothing_is_counted_where_nothing_matches(reader: Visitor, shelf: str) -> None:
    assert "No items match this filter." in reader.get(f"/collections/{shelf}/facets?filter=rating+%3D+3").text
    wrong = reader.get(f"/collections/{shelf}/facets?filter=ratin")
    assert "Nothing is counted until the filter is corrected." in wrong.text
    assert not wrong.all("a")


def test_without_scripts_a_link_opens_the_facets(reader: Visitor, shelf: str) -> None:
    page = reader.get(f"/collections/{shelf}?size=s&q=box")
    assert not page.all("a", class_="facet")
    (link,) = [e for e in page.all("a") if e.text == "Count the items"]
    opened = reader.get(str(link.attributes["href"]).partition("#")[0])
    assert opened.all("a", class_="facet")
    assert "open" in opened.one("details", id="facets").attributes
    # and they stay open
    for one in opened.all("a", class_="page-link"):
        assert "facets=1" in str(one.attributes["href"])
