"""Uploads by the script of the pages."""

from __future__ import annotations

import io

import pytest
import sqlalchemy as sa
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pages.upload_script import BLUE, BROKEN, RED, SCRIPT, Outcomes, Script, described
from tests.unit.web.pictures import picture

from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.media.names import coded
from retllm_web.http.services import Services


def test_an_upload_takes_files_in_several_requests_and_says_which_it_has(script: Script, outcomes: Outcomes) -> None:
    upload = script.open()
    assert script.send(upload, red=RED).status_code == 204
    red, blue = described("red.png", RED), described("blue.png", BLUE)
    assert script.known(upload, red, blue) == [True, False]
    assert script.send(upload, blue=BLUE).status_code == 204
    assert script.close(upload, red, blue) == [True, True]
    assert outcomes(upload) == [("red.png", "added"), ("blue.png", "added")]
    answer = script.send(upload, green=picture("green"))
    assert answer.status_code == 409
    assert "takes no more files" in answer.json["error"]["message"]


def test_a_request_whose_answer_got_lost_can_be_repeated(script: Script, outcomes: Outcomes) -> None:
    upload = script.open("a key of the script")
    assert script.open("a key of the script") == upload
    assert [script.send(upload, red=RED).status_code for _ in range(2)] == [204, 204]
    unsent = [
        {"name": "2023/Thumbs.db", "status": "ignored", "reason": "Left out: previews, 2 files."},
        {"name": "secret.png", "status": "rejected", "reason": "It can't be read."},
    ]
    assert [script.ask(upload, "unsent", *unsent).status_code for _ in range(2)] == [204, 204]
    assert outcomes(upload) == [("red.png", "added"), ("2023/Thumbs.db", "ignored"), ("secret.png", "rejected")]
    assert [script.close(upload) for _ in range(2)] == [[], []]
    assert script.ask(upload, "unsent", *unsent).status_code == 409


def test_files_of_unknown_content_are_told_apart_by_their_number(script: Script) -> None:
    upload = script.open()
    unknown = {"name": "red.png", "size": len(RED), "sha256": None}
    assert script.known(upload, unknown) == [False]
    script.send(upload, red=RED)
    assert script.known(upload, unknown, {**unknown, "earlier": 1}) == [True, False]


def test_what_the_collection_has_is_a_duplicate_without_being_sent(script: Script, outcomes: Outcomes) -> None:
    first = script.open()
    script.send(first, red=RED)
    script.ask(first, "close")
    second = script.open()
    assert script.known(second, described("again.png", RED), described("blue.png", BLUE)) == [True, False]
    assert outcomes(second) == [("again.png", "duplicate")]


def test_bytes_that_another_upload_has_not_processed_are_not_sent_again(
    script: Script, outcomes: Outcomes, notified: RecordingNotifier
) -> None:
    workers, notified.context = notified.context, None
    first = script.open()
    script.send(first, red=RED)
    second = script.open()
    notified.context = workers
    assert script.known(second, described("red.png", RED)) == [True]
    assert (outcomes(first), outcomes(second)) == ([("red.png", "waiting")], [("red.png", "added")])


def test_a_text_that_the_collection_has_may_be_a_caption_and_is_sent(script: Script) -> None:
    upload = script.open()
    assert script.known(upload, described("robin.txt", b"a robin")) == [False]


def test_malformed_offers_are_refused(script: Script) -> None:
    upload = script.open()
    for wrong in ({"name": "", "size": 1}, {"name": "a", "size": -1}, {"name": "a", "size": 1, "sha256": "x"}, {}):
        assert script.ask(upload, "known", wrong).status_code == 422
        assert script.ask(upload, "close", wrong).status_code == 422
    for wrong in ({"status": "added"}, {"reason": ""}, {"reason": "x" * 1001}):
        assert (
            script.ask(upload, "unsent", {"name": "a", "status": "ignored", "reason": "x", **wrong}).status_code == 422
        )
    assert script.send(upload).status_code == 422


def test_a_beacon_closes_an_upload_and_what_arrived_is_indexed(
    script: Script, served: Services, notified: RecordingNotifier
) -> None:
    upload = script.open()
    script.send(upload, red=RED)
    answer = script.reader.client.post(f"/uploads/{upload}/close", data={"csrf_token": script.token})
    assert answer.status_code == 200
    assert [unit.stage.value for unit in notified.units] == ["embed"]
    with transaction(served.sessions) as session:
        assert session.scalar(sa.select(sa.func.count()).where(Item.picture_key.is_not(None))) == 1


def test_an_upload_stores_nothing_of_files_that_are_refused(script: Script, served: Services) -> None:
    upload = script.open()
    script.ask(upload, "close")
    before = _stored(served)
    assert script.send(upload, red=RED).status_code == 409
    assert _stored(served) == before


def _stored(served: Services) -> list[str]:
    return sorted(str(path) for path in (served.settings.home).rglob("uploads/*/*"))


def test_the_collection_shows_the_last_upload_of_this_person_only(script: Script, ada: Caller, reader: Visitor) -> None:
    here = f"/collections/{script.collection}"
    assert "hidden" in reader.get(here).one("section", id="outcomes").attributes
    upload = script.open()
    script.send(upload, red=RED, broken=BROKEN)
    shown = reader.get(here).one("section", id="outcomes")
    assert "1 added, 1 rejected. The upload is open: more files can arrive." in shown.text
    assert shown.attributes["data-over"] == "false"
    script.ask(upload, "close")
    waiting = reader.get(here).one("section", id="outcomes")
    assert "Processed; new items are being indexed." in waiting.text
    assert waiting.attributes["data-over"] == "false"
    ada.post(f"/jobs/{upload}/cancel")
    page = reader.get(here)
    assert page.one("section", id="outcomes").attributes["data-over"] == "true"
    assert [row.attributes["data-status"] for row in page.all("tr") if "data-status" in row.attributes] == [
        "rejected",
        "added",
    ]
    assert page.all("a", href=f"/jobs/{upload}")


def test_rejections_of_the_uploads_before_the_last_one_stay_in_view(script: Script, reader: Visitor) -> None:
    """One upload may follow another by itself, such as that of a corrected sheet."""
    good, bad, last = script.open(), script.open(), script.open()
    address = f"/collections/{script.collection}/last-upload"
    tag = script.reader.client.get(address, headers=SCRIPT).headers["ETag"]
    script.send(good, red=RED)
    script.send(bad, blue=BLUE, broken=BROKEN)
    for upload in (good, bad):
        script.ask(upload, "close")
    changed = script.reader.client.get(address, headers={**SCRIPT, "If-None-Match": tag})
    assert changed.status_code == 200
    page = reader.get(f"/collections/{script.collection}")
    assert [one.attributes["data-before"] for one in page.all("p") if "data-before" in one.attributes] == [bad]
    assert page.one("p", data_before=bad).text.split()[-3:] == [":", "1", "rejected."]
    assert page.all("a", href=f"/jobs/{bad}")
    assert page.all("a", href=f"/jobs/{last}")


def test_the_last_upload_is_only_sent_again_after_a_change(script: Script) -> None:
    upload = script.open()
    address = f"/collections/{script.collection}/last-upload"
    first = script.reader.client.get(address, headers=SCRIPT)
    again = {**SCRIPT, "If-None-Match": first.headers["ETag"]}
    assert script.reader.client.get(address, headers=again).status_code == 304
    script.send(upload, red=RED)
    changed = script.reader.client.get(address, headers=again)
    assert changed.status_code == 200
    assert "1 added" in changed.get_data(as_text=True)


def test_a_form_leads_to_the_job_if_its_files_take_long(
    reader: Visitor, texts: str, notified: RecordingNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    notified.context = None
    monkeypatch.setattr("retllm_web.pages.uploads._WAIT_SECONDS", 0)
    reader.get(f"/collections/{texts}")
    page = reader.send(f"/collections/{texts}/upload", follow=False, file=[(io.BytesIO(RED), "red.png")])
    assert page.status == 303
    page = reader.get(page.headers["Location"])
    assert "1 waiting." in page.text
    assert "All files arrived; they are being processed." in page.text
    # cancel says what it does
    assert "Files that were added stay; the others are not processed." in page.text


def test_names_that_look_the_same_are_told_apart_and_the_others_stay_as_they_are(script: Script) -> None:
    names = ["x/caf\u00e9.png", "x/cafe\u0301.png", "x/a  b.txt"]
    headers = {**SCRIPT, "X-CSRFToken": script.token}
    told = script.reader.client.post("/uploads/names", json={"names": names}, headers=headers).json["names"]
    assert told == [names[0], "x/" + coded("cafe\u0301.png"), names[2]]
