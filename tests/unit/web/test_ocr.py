"""The API and the command let a job read the text in pictures, and lists, filters, searches and exports have it."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from uuid import UUID

import pytest
from tests.unit.ocr.readers import ColourReader
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller
from tests.unit.web.pages.past_searches import store_search
from tests.unit.web.pictures import picture
from tests.unit.web.test_item_changes import added

from retllm.cli.ocr import ocr as ocr_command
from retllm.db.enums import JobKind
from retllm.db.tables import Item
from retllm.ocr import reader as reading
from retllm.ocr import worker as ocr
from retllm_web.http.services import Services

TEXT = "colour 7 of a harbour"


@pytest.fixture(autouse=True)
def recognizer(monkeypatch: pytest.MonkeyPatch) -> ColourReader:
    made = ColourReader()
    monkeypatch.setattr(ocr, "reader_of", lambda _: made)
    return made


@pytest.fixture
def pictures(ada: Caller, birds: str) -> dict[str, str]:
    """One picture with text and one without."""
    colours = {"sign.png": "rgb(7,0,0)", "plain.png": "white"}
    return {name: added(ada, birds, (name, picture(colour))) for name, colour in colours.items()}


def test_the_state_says_what_is_read(ada: Caller, birds: str, pictures: dict[str, str]) -> None:
    path = f"/collections/{birds}/ocr"
    before = ada.get(path).json
    assert before == {"chosen_at": None, "job_id": None, "unread": 2, "unread_is_exact": True, "notice": None}
    answer = ada.post(path)
    assert (answer.status_code, answer.json["kind"]) == (202, JobKind.OCR)
    after = ada.get(path).json
    assert (after["job_id"], after["unread"], after["chosen_at"] is not None) == (answer.json["id"], 0, True)
    items = {one["name"]: one for one in ada.get(f"/collections/{birds}/items").json["items"]}
    assert (items["sign.png"]["text_in_picture"], items["sign.png"]["text_in_picture_confidence"]) == (TEXT, 0.75)
    assert (items["plain.png"]["text_in_picture"], items["plain.png"]["text_in_picture_confidence"]) == ("", None)


def test_a_server_without_the_packages_says_so(ada: Caller, birds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PACKAGES", ("a_package_that_is_not_there",))
    assert "pip install 'retllm-platform[ocr]'" in ada.get(f"/collections/{birds}/ocr").json["notice"]


def test_all_are_read_again_only_if_that_is_asked_for(
    ada: Caller, birds: str, pictures: dict[str, str], recognizer: ColourReader
) -> None:
    for query, read in (("", 2), ("", 2), ("?again=true", 4)):
        assert ada.post(f"/collections/{birds}/ocr{query}").status_code == 202
        assert len(recognizer.sizes) == read


def test_who_may_not_change_the_collection_reads_nothing(
    ada: Caller, bob: Caller, birds: str, pictures: dict[str, str]
) -> None:
    ada.put(f"/collections/{birds}/visibility", json={"visibility": "everyone"})
    assert bob.post(f"/collections/{birds}/ocr").status_code == 403
    assert bob.get(f"/collections/{birds}/ocr").json["chosen_at"] is None


def test_lists_and_filters_find_the_text(ada: Caller, birds: str, pictures: dict[str, str]) -> None:
    def matching(**query: str) -> list[str]:
        answer = ada.get(f"/collections/{birds}/items", query_string=query)
        assert answer.status_code == 200, answer.json
        return sorted(one["name"] for one in answer.json["items"])

    assert matching(filter="not has ocr") == sorted(pictures)
    ada.post(f"/collections/{birds}/ocr")
    assert matching(q="HARBOUR") == ["sign.png"]
    assert matching(filter="ocr ~ harbour") == ["sign.png"]
    assert matching(filter="has ocr") == ["sign.png"]
    assert matching(filter="not has ocr") == ["plain.png"]
    assert matching(filter="ocr ~ station") == []


def test_a_download_and_an_export_have_it_as_a_column(
    ada: Caller, birds: str, pictures: dict[str, str], served: Services
) -> None:
    ada.post(f"/collections/{birds}/ocr")
    archive = zipfile.ZipFile(io.BytesIO(ada.get(f"/collections/{birds}/archive").data))
    rows = csv.DictReader(io.StringIO(archive.read("items.csv").decode("utf-8-sig")))
    assert {row["file"]: row["text_in_picture"] for row in rows} == {"sign.png": TEXT, "plain.png": ""}
    order = [UUID(pictures["sign.png"]), UUID(pictures["plain.png"])]
    search = store_search(served, ada.user.id, birds, "a harbour", order)
    assert [row["text_in_picture"] for row in json.loads(ada.get("/jobs/export?rows=results").text)] == [TEXT, ""]
    assert ada.get(f"/searches/{search}").json["candidates"][0]["text_in_picture"] == TEXT
    ada.delete(f"/items/{pictures['sign.png']}")
    assert [row["text_in_picture"] for row in json.loads(ada.get("/jobs/export?rows=results").text)] == [None, ""]


def test_the_command_reads_and_tells_how_many(run: Run, ada: Caller, birds: str, pictures: dict[str, str]) -> None:
    done = run(ocr_command, "Birds")
    assert done.exit_code == 0
    assert lines(done.stdout)[-1] == f"2 pictures were read; see http://retllm.test/collections/{birds}/ocr"
    done = run(ocr_command, "Birds", "--json")
    (found,) = (json.loads(line) for line in lines(done.stdout))
    assert (found["job"]["state"], found["unread"]) == ("succeeded", 0)


def test_what_could_not_be_read_is_an_exit_status(
    run: Run, ada: Caller, birds: str, pictures: dict[str, str], served: Services
) -> None:
    with served.sessions() as session:
        file = session.get_one(Item, UUID(pictures["sign.png"])).picture_key
    assert file is not None
    served.storage.put(file, io.BytesIO(b"not a picture any more"))
    done = run(ocr_command, "Birds")
    assert done.exit_code == 1
    assert lines(done.stdout)[-1].startswith("1 picture was read, 1 not; see ")
