"""A downloaded archive has every chosen item with all that is known of it, and an upload of it gives them again."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask_openapi import OpenAPI
from tests.databases import EmptiedDatabase
from tests.unit.media.films import film
from tests.unit.media.test_parts import pages, plain
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller, RecordingNotifier, SharedApp, make_caller, start_session
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pages.past_searches import store_search
from tests.unit.web.pictures import located, picture, place_in
from tests.unit.web.test_item_changes import added

from retllm.cli import download
from retllm.cli.client import RequestRejected
from retllm.db.enums import Role
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.settings import Settings
from retllm_web.actions import item_archive
from retllm_web.actions.zip_pieces import ZipPieces
from retllm_web.http.services import Services

# what belongs to the item in its collection, and not to what was uploaded
_OWN = ("id", "collection_id", "created_at", "version", "archive", "source", "original", "media_type")
FACTS = {
    "title": "A tern",
    "tags": ["sea; bird", "=SUM(1)", "plain"],
    "rating": 4,
    "taken": "2003-07-02T14:30:05+02:00",
    "camera": "X100",
    "lens": "50mm",
    "position": {"latitude": 48.125, "longitude": -11.5},
    "columns": {"Photographer": "Ann", "a, b": '"quoted"\nline'},
}
# captions that a sheet of captions, or a spreadsheet, would take for something else
CAPTIONS = ["=1+2", "null", "'null", "'=x", '["a", "b"]', "two\nlines; -1", "'", "- a dash", 'a, "b"', "N/A"]


def upload(caller: Caller, collection: str, *files: tuple[str, bytes]) -> dict[str, Any]:
    form = {"file": [(io.BytesIO(data), name) for name, data in files]}
    answer = caller.post(f"/collections/{collection}/items?index=false", data=form, content_type="multipart/form-data")
    assert answer.status_code == 200, answer.json
    return dict(answer.json)


def archive_of(caller: Caller, path: str, **query: Any) -> zipfile.ZipFile:
    answer = caller.get(path, query_string=query)
    assert (answer.status_code, answer.mimetype) == (200, "application/zip"), answer.get_data(as_text=True)[:300]
    found = zipfile.ZipFile(io.BytesIO(answer.data))
    assert found.testzip() is None
    names = found.namelist()
    assert len(set(map(str.lower, names))) == len(names)
    return found


def rows(archive: zipfile.ZipFile, name: str = "items.csv") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(archive.read(name).decode("utf-8-sig"))))


def listed(caller: Caller, collection: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = caller.get(f"/collections/{collection}/items?limit=200").json["items"]
    return found


def again(caller: Caller, archive: zipfile.ZipFile) -> list[dict[str, Any]]:
    """Upload an archive into a new collection; return its items."""
    key = str(caller.post("/collections", json={"name": f"Again {id(archive)}"}).json["id"])
    assert isinstance(archive.fp, io.BytesIO)
    outcome = upload(caller, key, ("download.zip", archive.fp.getvalue()))
    assert outcome["rejected"] == 0, [one for one in outcome["outcomes"] if one["status"] == "rejected"]
    return listed(caller, key)


def same(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """All that is known of items, by their content."""
    return {item["content_sha256"]: {name: value for name, value in item.items() if name not in _OWN} for item in items}


@dataclass(frozen=True)
class Kept:
    """An editor with a collection, and the folder of the files and the key of its installation."""

    ada: Caller
    collection: str
    home: Path


@pytest.fixture(scope="module")
def kept(
    emptied_database: EmptiedDatabase, redis_url: str, shared_app: SharedApp, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kept]:
    """The collection with everything, which takes seconds; each test begins with its rows and a copy of its files."""
    home = tmp_path_factory.mktemp("kept") / "home"
    emptied_database.reset()
    settings = Settings(home=home, database_url=emptied_database.url, redis_url=redis_url)
    ada = make_caller(shared_app.renew(settings, emptied_database.sessions(), RecordingNotifier()), "ada", Role.EDITOR)
    collection = mixed_collection(ada)
    with emptied_database.kept():
        yield Kept(ada, collection, home)


@pytest.fixture
def settings(kept: Kept, fresh_database: str, redis_url: str, tmp_path: Path) -> Settings:
    home = shutil.copytree(kept.home, tmp_path / "home")
    return Settings(home=home, database_url=fresh_database, redis_url=redis_url)


@pytest.fixture
def ada(kept: Kept, app: OpenAPI) -> Caller:
    return Caller(app.test_client(), kept.ada.user, kept.ada.token)


@pytest.fixture
def mixed(kept: Kept) -> str:
    """A collection with pictures, texts and pages, with and without captions and facts."""
    return kept.collection


@pytest.fixture
def birds(ada: Caller) -> str:
    """An empty collection."""
    return str(ada.post("/collections", json={"name": "Others"}).json["id"])


def mixed_collection(ada: Caller) -> str:
    """Create a collection with pictures, texts and pages, with and without captions and facts."""
    birds = str(ada.post("/collections", json={"name": "Birds"}).json["id"])
    first = added(ada, birds, ("a/tern.jpg", located(48, 11)))
    assert ada.patch(f"/items/{first}", json={"text": "a tern", **FACTS}).status_code == 200
    # what the file says was taken away
    second = added(ada, birds, ("b/tern.jpg", located(47, 12, "navy")))
    assert ada.patch(f"/items/{second}", json={"position": None, "camera": None}).status_code == 200
    note = added(ada, birds, ("note.txt", b"a note"))
    assert ada.patch(f"/items/{note}", json={"tags": ["text"], "rating": 2}).status_code == 200
    upload(ada, birds, ("scan.pdf", pages(2, "PDF")), ("film.mp4", film(plain(2))))
    for number, item in enumerate(one for one in listed(ada, birds) if one["source"]):
        ada.patch(f"/items/{item['id']}", json={"text": f"part {number}", "tags": [f"p{number}"]})
    upload(ada, birds, *((f"c/{number}.png", picture(f"rgb({number * 20},9,9)")) for number in range(len(CAPTIONS))))
    keys = {item["name"]: item["id"] for item in listed(ada, birds)}
    for number, caption in enumerate(CAPTIONS):
        assert ada.patch(f"/items/{keys[f'c/{number}.png']}", json={"text": caption}).status_code == 200
    return birds


def test_an_upload_of_the_archive_gives_the_same_items(
    ada: Caller, mixed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_archive, "BATCH", 4)
    before = listed(ada, mixed)
    archive = archive_of(ada, f"/collections/{mixed}/archive")
    found = same(again(ada, archive))
    expected = same(before)
    assert found.keys() == expected.keys()
    for content, item in expected.items():
        assert found[content] == item, item["name"]


def test_originals_are_in_it_as_they_are_and_each_whole_file_once(ada: Caller, mixed: str) -> None:
    archive = archive_of(ada, f"/collections/{mixed}/archive")
    assert archive.read("a/tern.jpg") == located(48, 11)
    wholes = [name for name in archive.namelist() if name.endswith((".pdf", ".mp4"))]
    assert len(wholes) == 2
    assert archive.namelist()[-1] == "items.csv"
    assert "note" in [row["caption"].split()[-1] for row in rows(archive) if not row["file"]]


def test_no_cell_is_evaluated_by_a_spreadsheet(ada: Caller, mixed: str) -> None:
    cells = [cell for row in rows(archive_of(ada, f"/collections/{mixed}/archive")) for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "- "))]


def test_names_are_safe_and_different(ada: Caller, birds: str) -> None:
    names = ["a/x.png", "a/x.png", "A/X.png", "con.png", "q?.png", "q*.png", ".hidden.png", "dot./y.png", "plain"]
    for number, name in enumerate(names):
        key = added(ada, birds, (f"{number}.png", picture(f"rgb({number},0,0)")))
        assert ada.patch(f"/items/{key}", json={"name": name}).status_code == 200
    archive = archive_of(ada, f"/collections/{birds}/archive")
    files = [row["file"] for row in rows(archive)]
    assert sorted(files) == sorted(set(archive.namelist()) - {"items.csv"})
    for file in files:
        assert not set(file) & set('\\:*?"<>|')
        for part in file.split("/"):
            assert part == part.strip(" .")
            assert not part.startswith(".")
    assert files[0] == "a/x.png"
    assert [item["name"] for item in again(ada, archive)] == names


def test_only_what_matches_is_in_it(ada: Caller, mixed: str) -> None:
    archive = archive_of(ada, f"/collections/{mixed}/archive", filter="rating = 4")
    assert archive.namelist() == ["a/tern.jpg", "items.csv"]
    assert archive_of(ada, f"/collections/{mixed}/archive", filter="rating = 1").namelist() == []
    answer = ada.get(f"/collections/{mixed}/archive", query_string={"filter": "no such"})
    assert answer.status_code == 422


def test_named_items_are_in_it_in_their_order(ada: Caller, bob: Caller, mixed: str) -> None:
    keys = {item["name"]: item["id"] for item in listed(ada, mixed)}
    path = f"/collections/{mixed}/items/download"
    named = [keys[name] for name in ("c/3.png", "a/tern.jpg", "c/3.png")]
    found = zipfile.ZipFile(io.BytesIO(ada.post(path, json={"items": named}).data))
    assert found.namelist() == ["c/3.png", "a/tern.jpg", "items.csv"]
    matching = zipfile.ZipFile(io.BytesIO(ada.post(path, json={"filter": "rating = 4"}).data))
    assert matching.namelist() == ["a/tern.jpg", "items.csv"]
    assert bob.post(path, json={"items": named}).status_code == 404


def test_nothing_is_sent_if_a_named_item_is_not_there(ada: Caller, mixed: str) -> None:
    first, second, third, *_ = [item["id"] for item in listed(ada, mixed)]
    other = str(ada.post("/collections", json={"name": "Other"}).json["id"])
    elsewhere = added(ada, other, ("note.txt", b"another note"))
    ada.delete(f"/items/{second}")
    answer = ada.post(f"/collections/{mixed}/items/download", json={"items": [first, second, elsewhere]})
    assert answer.status_code == 404
    assert answer.json["error"]["detail"]["items"] == sorted([second, elsewhere])
    assert third not in answer.json["error"]["message"]
    for body in ({}, {"items": [first], "filter": ""}, {"items": []}, {"items": [first], "after": first}):
        assert ada.post(f"/collections/{mixed}/items/download", json=body).status_code == 422, body


def test_results_and_marked_items_of_a_search(ada: Caller, mixed: str, served: Services) -> None:
    keys = [UUID(item["id"]) for item in listed(ada, mixed) if item["name"].startswith("c/")]
    search = store_search(served, ada.user.id, mixed, "a bird", [keys[3], keys[1]])
    archive = archive_of(ada, f"/searches/{search}/archive")
    assert archive.namelist() == ["c/3.png", "c/1.png", "items.csv"]
    assert ada.get(f"/searches/{search}/archive?marked=true").status_code == 409
    ada.put(f"/searches/{search}/judgments/{keys[5]}", json={"relevant": True})
    ada.put(f"/searches/{search}/judgments/{keys[1]}", json={"relevant": False})
    assert archive_of(ada, f"/searches/{search}/archive", marked="true").namelist() == ["c/5.png", "items.csv"]


def test_chosen_items_are_downloaded_from_the_page(app: OpenAPI, ada: Caller, mixed: str) -> None:
    visitor = Visitor(app.test_client())
    start_session(app, visitor.client, ada.user)
    page = visitor.get(f"/collections/{mixed}")
    path = f"/collections/{mixed}/items/download"
    assert path in {button.attributes.get("formaction") for button in page.all("button")}
    keys = [item["id"] for item in listed(ada, mixed)]
    for fields, count in (
        ({"item": keys[:2]}, 2),
        ({"all": "1"}, len(keys)),
        ({"all": "1", "filter": "rating = 4"}, 1),
    ):
        answer = visitor.client.post(path, data={"csrf_token": visitor.token(), **fields})
        assert answer.headers["Content-Disposition"] == 'attachment; filename="Birds.zip"'
        assert len(rows(zipfile.ZipFile(io.BytesIO(answer.data)))) == count
    assert "Select items first" in str(
        visitor.client.post(path, data={"csrf_token": visitor.token()}, follow_redirects=True).data
    )


def test_who_may_not_see_positions_gets_copies_without_them(ada: Caller, bob: Caller, mixed: str) -> None:
    ada.put(f"/collections/{mixed}/visibility", json={"visibility": "everyone"})
    ada.patch(f"/collections/{mixed}", json={"positions": "editors"})
    archive = archive_of(bob, f"/collections/{mixed}/archive")
    assert not {"latitude", "longitude"} & rows(archive)[0].keys()
    files = [name for name in archive.namelist() if not name.endswith(".csv")]
    assert len(files) == len([item for item in listed(ada, mixed) if item["has_picture"]])
    for name in files:
        assert name.endswith((".jpg", ".webp")), name
        assert not place_in(archive.read(name))
        assert b"Maker" not in archive.read(name)
    refused = bob.get(f"/collections/{mixed}/archive", query_string={"filter": "has position"})
    assert refused.status_code == 422
    found = {item["name"]: item for item in again(bob, archive)}
    expected = ("text", "title", "tags", "rating", "taken", "camera", "lens", "columns")
    for item in listed(ada, mixed):
        assert {name: found[item["name"]][name] for name in expected} == {name: item[name] for name in expected}
        assert found[item["name"]]["position"] is None
    assert {"latitude", "longitude"} <= rows(archive_of(ada, f"/collections/{mixed}/archive"))[0].keys()


def test_a_collection_that_is_shared_no_more_ends_the_answer(
    ada: Caller, bob: Caller, mixed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_archive, "BATCH", 2)
    assert bob.get(f"/collections/{mixed}/archive").status_code == 404
    ada.put(f"/collections/{mixed}/visibility", json={"visibility": "everyone"})
    answer = bob.get(f"/collections/{mixed}/archive", buffered=False)
    pieces = iter(answer.response)
    next(pieces)
    ada.put(f"/collections/{mixed}/visibility", json={"visibility": "private"})
    with pytest.raises(Exception, match="There is no collection"):
        list(pieces)
    answer.close()


def test_an_item_whose_file_is_gone_is_left_out(ada: Caller, mixed: str, served: Services) -> None:
    with transaction(served.sessions) as session:
        key = session.scalar(sa.select(Item.picture_key).where(Item.name == "c/2.png"))
    served.storage.delete(str(key))
    archive = archive_of(ada, f"/collections/{mixed}/archive")
    assert "c/2.png" not in archive.namelist()
    assert "c/2.png" not in [row["file"] for row in rows(archive)]


def test_an_old_archive_takes_nothing_away(ada: Caller, birds: str) -> None:
    """Empty cells remove what files say themselves, of items that come with them, and no more."""
    key = added(ada, birds, ("robin.png", picture("red")))
    answer = ada.get(f"/collections/{birds}/archive").data
    ada.patch(f"/items/{key}", json={"text": "a robin", "tags": ["bird"], "rating": 5})
    before = ada.get(f"/items/{key}").json
    upload(ada, birds, ("download.zip", answer))
    after = ada.get(f"/items/{key}").json
    assert after == before


def test_what_cells_say_is_set_and_a_wrong_cell_refuses_its_row(ada: Caller, birds: str) -> None:
    header = "file,name,caption,title,tags,rating,taken,camera,lens,latitude,longitude,columns\n"
    names = [f"{number}.png" for number in range(6)]
    good = "0.png,,,,a\tb,5.0,1998-05,,,48.5,11,\n"
    wrong = [
        "1.png,,,,,6,,,,,,",
        "2.png,,,,,,in winter,,,,,",
        "3.png,,,,,,,,,91,0,",
        "4.png,,,,,,,,,1,,",
        '5.png,,,,,,,,,,,"[1]"',
    ]
    sheet = (header + good + "\n".join(wrong)).encode()
    files = [(name, picture(f"rgb({number},7,7)")) for number, name in enumerate(names)]
    outcome = upload(ada, birds, *files, ("items.csv", sheet))
    assert (outcome["added"], outcome["rejected"]) == (6, 5)
    reasons = [one["error"]["message"] for one in outcome["outcomes"] if one["status"] == "rejected"]
    for reason, words in zip(reasons, ("no rating", "no time", "no position", "no position", "JSON"), strict=True):
        assert words in reason
    item = next(one for one in listed(ada, birds) if one["name"] == "0.png")
    assert (item["rating"], item["taken"], item["tags"]) == (5, "1998-05", ["a b"])
    assert item["position"] == {"latitude": 48.5, "longitude": 11}


def test_a_collection_that_keeps_no_positions_takes_none_from_a_sheet(ada: Caller, mixed: str) -> None:
    archive = archive_of(ada, f"/collections/{mixed}/archive")
    key = str(ada.post("/collections", json={"name": "None"}).json["id"])
    ada.patch(f"/collections/{key}", json={"positions": "nobody"})
    assert isinstance(archive.fp, io.BytesIO)
    upload(ada, key, ("download.zip", archive.fp.getvalue()))
    ada.patch(f"/collections/{key}", json={"positions": "everyone"})
    assert {str(item["position"]) for item in listed(ada, key)} == {"None"}


def test_a_long_sheet_is_several(ada: Caller, mixed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_archive, "_SHEET_BYTES", 150)
    archive = archive_of(ada, f"/collections/{mixed}/archive")
    sheets = [name for name in archive.namelist() if name.endswith(".csv")]
    assert len(sheets) > 2
    assert sheets[:2] == ["items.csv", "items-2.csv"]
    assert same(again(ada, archive)) == same(listed(ada, mixed))


def test_an_archive_of_more_files_than_fit_into_an_old_zip_is_whole() -> None:
    made = ZipPieces()
    data = io.BytesIO()
    count = 65_600
    for number in range(count):
        for piece in made.file(f"{number}.txt", [b"x"], 1):
            data.write(piece)
    for piece in made.end():
        data.write(piece)
    with zipfile.ZipFile(data) as archive:
        assert len(archive.namelist()) == count
        assert archive.read(f"{count - 1}.txt") == b"x"


def test_the_command_writes_a_new_file(run: Run, ada: Caller, mixed: str, tmp_path: Path) -> None:
    target = tmp_path / "birds.zip"
    told = run(download.download, "Birds", target, "--where", "rating = 4", "--json")
    assert json.loads(lines(told.stdout)[-1]) == {"file": str(target), "bytes": target.stat().st_size}
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["a/tern.jpg", "items.csv"]
    keys = {item["name"]: item["id"] for item in listed(ada, mixed)}
    named = tmp_path / "named.zip"
    run(download.download, "Birds", named, "--item", keys["c/2.png"], "--item", keys["c/1.png"])
    with zipfile.ZipFile(named) as archive:
        assert archive.namelist() == ["c/2.png", "c/1.png", "items.csv"]
    named.unlink()
    assert "leave out --where" in str(
        run(download.download, "Birds", named, "--item", keys["c/2.png"], "--where", "rating = 4").output
    )
    assert "not a valid UUID" in str(run(download.download, "Birds", named, "--item", "c/2.png").output)
    kept = target.read_bytes()
    assert "exists already" in str(run(download.download, "Birds", target).output)
    assert target.read_bytes() == kept
    with pytest.raises(RequestRejected):
        run(download.download, "Birds", tmp_path / "other.zip", "--where", "no such")
    assert [path.name for path in tmp_path.glob("*.zip*")] == ["birds.zip"]
