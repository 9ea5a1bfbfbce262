"""Where an item and its caption came from, on the page of the item."""

from __future__ import annotations

import io
import json
import re

import pytest
from tests.unit.media.samples import zipped
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pages.past_searches import items_of, store_search
from tests.unit.web.pictures import picture

from retllm_web.http.services import Services


def _upload(ada: Caller, collection: str, **files: bytes) -> str:
    parts = [(io.BytesIO(content), name.replace("__", ".")) for name, content in files.items()]
    answer = ada.post(f"/collections/{collection}/items", data={"file": parts}, content_type="multipart/form-data")
    return str(answer.json["job_id"])


def _facts(reader: Visitor, ada: Caller, collection: str) -> list[dict[str, str]]:
    """Return what the pages of the pictures say of where these and their captions came from."""
    items = ada.get(f"/collections/{collection}/items?limit=50").json["items"]
    found = []
    for item in items:
        if item["has_picture"]:
            page = reader.get(f"/items/{item['id']}")
            facts = page.one("dl", class_="item-facts").text
            said = dict(re.findall(r"(Added|Caption) (.*?)(?= (?:Caption|SHA-256|Added) )", facts))
            found.append({key: re.sub(r"^(just now|\d+ \w+ ago) ?", "", value) for key, value in said.items()})
    return found


def _archive(colour: str) -> bytes:
    return zipped({"a/1.png": picture(colour), "a/rows.csv": b"file,caption\n1.png,a wall\n"})


@pytest.fixture
def job(ada: Caller, texts: str) -> str:
    """The job of an upload of two archives with the same names in them, and of a picture beside its caption."""
    files = {"one__zip": _archive("red"), "two__zip": _archive("blue"), "1__png": picture("green"), "1__txt": b"a lawn"}
    return _upload(ada, texts, **files)


def test_an_item_names_its_archive_and_the_file_of_its_caption(
    reader: Visitor, ada: Caller, texts: str, job: str
) -> None:
    facts = _facts(reader, ada, texts)
    assert sorted(fact["Added"] for fact in facts) == [
        ", by this upload",
        ", in one.zip, by this upload",
        ", in two.zip, by this upload",
    ]
    assert sorted(fact["Caption"] for fact in facts) == [
        "from 1.txt",
        "from a file in one.zip",
        "from a file in two.zip",
    ]
    assert reader.page is not None
    assert {a.attributes["href"] for a in reader.page.all("a") if a.text == "this upload"} == {f"/jobs/{job}"}


def test_only_a_caption_in_the_place_of_another_one_is_a_change(
    reader: Visitor, ada: Caller, texts: str, job: str
) -> None:
    for number in range(2):
        _upload(ada, texts, **{"1__png": picture("green"), "1__txt": f"a meadow {number}".encode()})
    told = {fact["Caption"] for fact in _facts(reader, ada, texts) if fact["Caption"].startswith("from 1.txt")}
    assert told == {"from 1.txt ; changed 2 times"}


def test_a_text_names_the_archive_or_the_sheet_that_it_came_in(reader: Visitor, ada: Caller, texts: str) -> None:
    before = {item["id"] for item in ada.get(f"/collections/{texts}/items?limit=50").json["items"]}
    sheet = b"text,title\nA tower in the fog,tower\n"
    files = {
        "old__zip": zipped({"a/house.txt": b"A house by the sea", "rows.csv": b"text,title\nA mill,mill\n"}),
        "new__zip": zipped({"a/house.txt": b"A house by the lake"}),
        "barn__txt": b"A barn in the snow",
        "rows__csv": sheet,
    }
    job = _upload(ada, texts, **files)
    places = {}
    for item in ada.get(f"/collections/{texts}/items?limit=50").json["items"]:
        facts = reader.get(f"/items/{item['id']}").one("dl", class_="item-facts").text
        if item["id"] not in before:
            places[item["text"]] = re.sub(r"^.*?(just now|ago)\s*", "", facts.partition("SHA-256")[0].strip())
        else:
            assert "upload" not in facts
    assert places == {
        "A house by the sea": ", in old.zip, by this upload",
        "A mill": ", in old.zip, by this upload",
        "A house by the lake": ", in new.zip, by this upload",
        "A barn in the snow": ", by this upload",
        "A tower in the fog": ", in rows.csv, by this upload",
    }
    assert reader.page is not None
    assert {a.attributes["href"] for a in reader.page.all("a") if a.text == "this upload"} <= {f"/jobs/{job}"}


def test_items_of_one_name_are_listed_with_their_archives(
    reader: Visitor, ada: Caller, texts: str, served: Services
) -> None:
    def archive(name: str, colour: str) -> bytes:
        own = picture(f"dark{colour}")
        return zipped({"a/1.png": picture(colour), f"a/{name}.png": own, "t.txt": f"a {colour} wall".encode()})

    _upload(ada, texts, one__zip=archive("one", "red"), two__zip=archive("two", "blue"))
    tiles = [" ".join(tile.text.split()) for tile in reader.get(f"/collections/{texts}").all("li", class_="tile")]
    told = sorted(tile[tile.index(".") - 1 :] for tile in tiles if ".zip" in tile)
    assert [line.split(" in ")[0] for line in told] == ["1.png", "1.png", "t.txt", "t.txt"]
    assert [line.split(" in ")[1].split()[0] for line in told] == ["one.zip", "two.zip"] * 2
    assert len([tile for tile in tiles if "one.png" in tile or "two.png" in tile]) == 2
    job = store_search(served, ada.user.id, texts, "a wall", items_of(served, texts))
    results = [" ".join(row.text.split()) for row in reader.get(f"/jobs/{job}").all("li", class_="result")]
    found = [re.findall(r"(\S+) in (one|two)\.zip", row) for row in results]
    assert sorted(place for places in found for place in places) == [
        ("1.png", "one"),
        ("1.png", "two"),
        ("t.txt", "one"),
        ("t.txt", "two"),
    ]
    items = ada.get(f"/collections/{texts}/items?limit=50").json["items"]
    came = sorted((item["name"], item["archive"]) for item in items if item["archive"])
    assert came == [
        ("a/1.png", "one.zip"),
        ("a/1.png", "two.zip"),
        ("a/one.png", "one.zip"),
        ("a/two.png", "two.zip"),
        ("t.txt", "one.zip"),
        ("t.txt", "two.zip"),
    ]
    of_search = ada.get(f"/searches/{job}").json["candidates"]
    assert sorted((row["name"], row["archive"]) for row in of_search if row["archive"]) == came
    assert {row["archive"] for row in of_search} == {"one.zip", "two.zip", None}
    exported = json.loads(ada.get("/jobs/export?rows=results").text)
    assert [(row["item"], row["archive"]) for row in exported] == [(row["name"], row["archive"]) for row in of_search]


def test_without_its_upload_an_item_says_nothing_of_it(reader: Visitor, ada: Caller, texts: str, job: str) -> None:
    ada.post(f"/jobs/{job}/cancel")
    reader.get(f"/jobs/{job}")
    reader.send(f"/jobs/{job}/delete")
    facts = _facts(reader, ada, texts)
    assert [fact.get("Added", "") for fact in facts] == ["", "", ""]
    assert [fact.get("Caption", "") for fact in facts] == ["", "", ""]


def test_an_outcome_names_the_archive_of_the_item_that_it_is_about(reader: Visitor, job: str) -> None:
    rows = [row.text for row in reader.get(f"/jobs/{job}?status=updated").all("tr") if "data-status" in row.attributes]
    assert sorted(row.partition(" updated ")[2] for row in rows) == [
        "captioned picture 1.png",
        "captioned picture a/ 1.png in one.zip",
        "captioned picture a/ 1.png in two.zip",
    ]
