"""Administrators import where files lie, and items say where an original is, to those who may change the collection."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask_openapi import OpenAPI
from tests.unit.media.test_parts import pages as document
from tests.unit.web.conftest import Caller, RecordingNotifier, start_session
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pictures import picture
from tests.unit.web.vectors import embed_items

from retllm.db.session import transaction
from retllm.db.tables import User
from retllm.media.originals import CHANGED, MISSING
from retllm.media.references import NOT_ALLOWED
from retllm.media.storage import Storage
from retllm.queue.audit import violations
from retllm.settings import public_name
from retllm_web.http.services import Services


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    path = tmp_path / "drive" / "2019"
    path.mkdir(parents=True)
    (path / "a.png").write_bytes(picture("red"))
    (path / "b.png").write_bytes(picture("blue"))
    return path


@pytest.fixture
def importing(app: OpenAPI, notified: RecordingNotifier, drive: Path) -> Services:
    """The services of an app that may import from ``drive``."""
    return allow(app, notified, str(drive.parent))


def allow(app: OpenAPI, notified: RecordingNotifier, *roots: str) -> Services:
    served: Services = app.extensions["retllm"]
    settings = served.settings.model_copy(update={"import_roots": roots})
    storage = Storage(settings.media_url, roots)
    assert notified.context is not None
    notified.context = replace(notified.context, settings=settings, storage=storage)
    app.extensions["retllm"] = found = replace(served, settings=settings, storage=storage)
    return found


def imported(root: Caller, collection: str, drive: Path, **options: Any) -> Any:
    asked = {"address": str(drive), "reference": True, "index": False, **options}
    answer = root.post(f"/collections/{collection}/imports", json=asked)
    assert answer.status_code == 202, answer.json
    return root.get(f"/jobs/{answer.json['id']}").json


def items(caller: Caller, collection: str) -> dict[str, Any]:
    return {item["name"]: item for item in caller.get(f"/collections/{collection}/items").json["items"]}


@pytest.fixture
def browser(app: OpenAPI, root: Caller, importing: Services) -> Visitor:
    """The browser of the administrator."""
    visitor = Visitor(app.test_client())
    with transaction(importing.sessions) as session:
        start_session(app, visitor.client, session.get_one(User, root.user.id))
    return visitor


@pytest.mark.usefixtures("importing")
def test_an_administrator_imports_a_folder_into_the_collection_of_others(
    root: Caller, ada: Caller, birds: str, drive: Path
) -> None:
    job = imported(root, birds, drive, reference=False)
    assert (job["kind"], job["state"]) == ("upload", "succeeded")
    assert job["files"]["counts"] == {"added": 2}
    assert sorted(items(ada, birds)) == ["2019/a.png", "2019/b.png"]
    assert all(item["reference"] is None for item in items(ada, birds).values())
    # all who see the collection see its jobs
    assert str(drive.parent) not in ada.get(f"/jobs/{job['id']}").text


@pytest.mark.usefixtures("importing")
@pytest.mark.parametrize("address", ["/", "/etc", "s3://bucket/a/", "{drive}/../..", "{drive}/2020"])
def test_any_other_place_is_refused(root: Caller, birds: str, drive: Path, address: str) -> None:
    answer = root.post(f"/collections/{birds}/imports", json={"address": address.format(drive=drive)})
    assert answer.status_code in (403, 422)
    assert answer.json["error"]["code"] in ("forbidden", "invalid_input")


@pytest.mark.usefixtures("importing")
def test_an_editor_may_not_import(ada: Caller, birds: str, drive: Path) -> None:
    answer = ada.post(f"/collections/{birds}/imports", json={"address": str(drive)})
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "forbidden")
    assert ada.get("/jobs").json["jobs"] == []


@pytest.mark.usefixtures("importing")
def test_where_an_original_lies_is_told_to_those_who_may_change_the_collection(
    root: Caller, ada: Caller, bob: Caller, birds: str, drive: Path
) -> None:
    imported(root, birds, drive)
    ada.put(f"/collections/{birds}/visibility", json={"visibility": "everyone"})
    key = items(ada, birds)["2019/a.png"]["id"]
    lies = {"root": str(drive.parent.resolve()), "path": "2019/a.png", "problem": None}
    assert ada.get(f"/items/{key}").json["reference"] == lies
    assert items(ada, birds)["2019/a.png"]["reference"] == lies
    assert bob.get(f"/items/{key}").json["reference"] == {"root": None, "path": None, "problem": None}
    assert str(drive.parent) not in bob.get(f"/items/{key}").text


@pytest.mark.usefixtures("importing")
def test_a_copy_tells_where_an_original_lies_only_if_who_made_it_might_know(
    root: Caller, ada: Caller, bob: Caller, birds: str, drive: Path
) -> None:
    (drive / "book.pdf").write_bytes(document(1, "PDF"))
    imported(root, birds, drive)
    ada.put(f"/collections/{birds}/visibility", json={"visibility": "everyone"})
    for caller, told in ((ada, "2019/a.png"), (bob, None)):
        copies = caller.post("/collections", json={"name": "Copies"}).json["id"]
        keys = [item["id"] for item in items(ada, birds).values()]
        assert caller.post(f"/collections/{birds}/items/copy", json={"items": keys, "to": copies}).status_code == 200
        found = items(caller, copies)
        assert found["2019/a.png"]["reference"]["path"] == told
        assert len(found) == 3
        assert all(item["reference"] is not None for item in found.values())
        assert (str(drive.parent) in caller.get(f"/collections/{copies}/items").text) == (told is not None)
        key = found["2019/a.png"]["id"]
        assert caller.get(f"/items/{key}/picture").data == (drive / "a.png").read_bytes()


@pytest.mark.usefixtures("importing")
def test_the_original_is_downloaded_from_where_it_lies(root: Caller, ada: Caller, birds: str, drive: Path) -> None:
    (drive / "book.pdf").write_bytes(document(2, "PDF"))
    imported(root, birds, drive)
    found = items(ada, birds)
    assert ada.get(f"/items/{found['2019/a.png']['id']}/picture").data == (drive / "a.png").read_bytes()
    page = found["2019/book.pdf, page 1"]
    assert page["reference"]["path"] == "2019/book.pdf"
    assert ada.get(f"/items/{page['id']}/source").data == (drive / "book.pdf").read_bytes()
    archive = zipfile.ZipFile(io.BytesIO(ada.get(f"/collections/{birds}/archive").data))
    originals = {name: archive.read(name) for name in archive.namelist() if not name.endswith(".csv")}
    assert sorted(originals.values()) == sorted(path.read_bytes() for path in drive.iterdir())


def test_an_original_that_is_lost_is_told_and_nothing_is_given_in_its_place(
    app: OpenAPI, notified: RecordingNotifier, importing: Services, root: Caller, ada: Caller, birds: str, drive: Path
) -> None:
    imported(root, birds, drive)
    keys = {name: item["id"] for name, item in items(ada, birds).items()}
    (drive / "a.png").unlink()
    (drive / "b.png").write_bytes(picture("green"))
    for name, problem in (("2019/a.png", MISSING), ("2019/b.png", CHANGED)):
        assert ada.get(f"/items/{keys[name]}").json["reference"]["problem"] == problem
        for what in ("picture", "rendition"):
            answer = ada.get(f"/items/{keys[name]}/{what}")
            assert (answer.status_code, answer.json["error"]["code"]) == (404, "original_lost")
            assert answer.json["error"]["message"] == problem
        assert ada.get(f"/items/{keys[name]}/thumbnail").status_code == 200
    archive = zipfile.ZipFile(io.BytesIO(ada.get(f"/collections/{birds}/archive").data))
    assert [name for name in archive.namelist() if name.endswith(".png")] == []
    assert len(violations(importing.sessions, importing.storage)) == 2
    (drive / "a.png").write_bytes(picture("red"))
    assert ada.get(f"/items/{keys['2019/a.png']}").json["reference"]["problem"] is None
    allow(app, notified)
    assert ada.get(f"/items/{keys['2019/a.png']}").json["reference"]["problem"] == NOT_ALLOWED
    assert ada.get(f"/items/{keys['2019/a.png']}/picture").status_code == 404


def test_a_search_keeps_a_picture_of_its_own(
    importing: Services, root: Caller, ada: Caller, birds: str, drive: Path
) -> None:
    imported(root, birds, drive)
    embed_items(importing, importing.settings, birds, public_name(importing.settings.embedder_name))
    key = items(ada, birds)["2019/a.png"]["id"]
    search = ada.post(f"/collections/{birds}/searches", json={"like": {"item": key}})
    assert search.status_code == 202, search.json
    (drive / "a.png").unlink()
    assert ada.get(f"/searches/{search.json['id']}/picture").status_code == 200
    (wrong,) = violations(importing.sessions, importing.storage)
    assert wrong.subject == f"item {key}"
    answer = ada.post(f"/collections/{birds}/searches", json={"like": {"item": key}})
    assert (answer.status_code, answer.json["error"]["code"]) == (404, "original_lost")


@pytest.mark.usefixtures("without_trash")
def test_deleting_an_item_leaves_its_original(
    app: OpenAPI, notified: RecordingNotifier, root: Caller, ada: Caller, birds: str, drive: Path
) -> None:
    importing = allow(app, notified, str(drive.parent))
    imported(root, birds, drive)
    for item in items(ada, birds).values():
        assert ada.delete(f"/items/{item['id']}").status_code == 204
    assert sorted(path.name for path in drive.iterdir()) == ["a.png", "b.png"]
    assert violations(importing.sessions, importing.storage) == []


def test_the_page_imports_and_shows_the_job(browser: Visitor, root: Caller, birds: str, drive: Path) -> None:
    page = browser.get(f"/collections/{birds}")
    assert "Import from the server" in page.text
    assert str(drive.parent) in page.text
    page = browser.send(f"/collections/{birds}/imports", address=f" {drive} ", reference="true")
    assert (page.status, page.path.startswith("/jobs/")) == (200, True)
    key = items(root, birds)["2019/a.png"]["id"]
    assert "2019/a.png" in [code.text for code in browser.get(f"/items/{key}").all("code")]
    (drive / "a.png").unlink()
    assert MISSING in browser.get(f"/items/{key}").text


def test_a_refused_form_is_shown_again_with_the_reason(browser: Visitor, birds: str) -> None:
    browser.get(f"/collections/{birds}")
    page = browser.send(f"/collections/{birds}/imports", address="/etc", reference="true")
    assert page.status == 403
    assert "/etc may not be imported" in page.text
    field = page.one("input", name="address").attributes
    assert (field["value"], field["aria-invalid"]) == ("/etc", "true")
    assert "checked" in page.one("input", name="reference").attributes


@pytest.mark.usefixtures("importing")
def test_who_may_not_import_is_not_asked_to(app: OpenAPI, served: Services, ada: Caller, birds: str) -> None:
    client = app.test_client()
    with transaction(served.sessions) as session:
        start_session(app, client, session.get_one(User, ada.user.id))
    assert "Import from the server" not in client.get(f"/collections/{birds}").text
