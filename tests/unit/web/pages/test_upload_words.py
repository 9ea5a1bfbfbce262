"""What the pages and the command line say of an upload is true at every moment."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.unit.web.commands import Run, lines
from tests.unit.web.commands import empty as empty
from tests.unit.web.commands import run as run
from tests.unit.web.conftest import Caller, RecordingNotifier
from tests.unit.web.pages.conftest import Visitor
from tests.unit.web.pages.upload_script import BLUE, BROKEN, RED, Script

from retllm.cli import collections, upload
from retllm.db.enums import FileStatus
from retllm.db.session import transaction
from retllm.db.uploads import UploadFile
from retllm_web.actions import page_uploads
from retllm_web.http.services import Services


def test_counts_and_rows_of_the_last_upload_are_of_one_moment(
    reader: Visitor,
    script: Script,
    served: Services,
    notified: RecordingNotifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notified.context = None
    job = script.open()
    script.send(job, red=RED)
    listed = page_uploads.files_with_problems_first

    def after_the_counts(session: Session, *arguments: Any, **options: Any) -> Any:
        # a worker commits between the queries of this request
        with transaction(served.sessions) as other:
            other.execute(sa.update(UploadFile).values(status=FileStatus.ADDED))
        return listed(session, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(page_uploads, "files_with_problems_first", after_the_counts)
        page = reader.get(f"/collections/{script.collection}/last-upload")
    assert "1 waiting." in page.text
    assert not [row for row in page.elements if "data-status" in row.attributes]
    page = reader.get(f"/collections/{script.collection}/last-upload")
    assert "1 added." in page.text
    assert [row.attributes["data-status"] for row in page.elements if "data-status" in row.attributes] == ["added"]


def test_a_collection_whose_first_upload_is_processed_does_not_ask_for_one(
    reader: Visitor, ada: Caller, notified: RecordingNotifier
) -> None:
    notified.context = None
    collection = ada.post("/collections", json={"name": "New"}).json["id"]
    assert "Upload pictures or texts; they are indexed automatically" in reader.get(f"/collections/{collection}").text
    script = Script(reader, collection)
    script.send(script.open(), red=RED)
    page = reader.get(f"/collections/{collection}")
    assert "The first items appear here when they are processed." in page.text
    assert "Upload pictures or texts; they are indexed automatically" not in page.text


def test_earlier_uploads_are_told_apart(reader: Visitor, script: Script) -> None:
    for name in ("alpha", "beta"):
        job = script.open()
        script.send(job, **{name: BROKEN})
        script.ask(job, "close")
    job = script.open()
    script.send(job, blue=BLUE)
    script.ask(job, "close")
    page = reader.get(f"/collections/{script.collection}")
    told = [" ".join(part.text.split()) for part in page.all("p") if "data-before" in part.attributes]
    assert [text.replace(" ,", ",") for text in told] == [
        "Upload of “beta.png”, just now : 1 rejected.",
        "Upload of “alpha.png”, just now : 1 rejected.",
    ]


def test_not_all_files_arrived_if_some_were_not_sent(
    reader: Visitor, script: Script, notified: RecordingNotifier
) -> None:
    notified.context = None
    job = script.open(files=2)
    script.ask(job, "unsent", {"name": "blue.png", "status": "not_sent", "reason": "Not sent: stopped."})
    script.send(job, red=RED)
    script.ask(job, "close")
    page = reader.get(f"/jobs/{job}")
    assert "What arrived is being processed." in page.text
    assert "All files arrived" not in page.text


def test_an_upload_of_a_sheet_alone_was_processed(reader: Visitor, ada: Caller, script: Script) -> None:
    sheet = {"file": (io.BytesIO(b"file,caption\nred.png,red\n"), "list.csv")}
    ada.post(f"/collections/{script.collection}/items", data=sheet, content_type="multipart/form-data")
    job = ada.get(f"/jobs?collection={script.collection}&kind=upload").json["jobs"][0]["id"]
    text = reader.get(f"/jobs/{job}").text
    assert "No file" not in text
    assert "1 done" in text


def test_an_upload_of_which_nothing_came_says_so(reader: Visitor, script: Script) -> None:
    job = script.open(files=1)
    script.ask(job, "close")
    assert "No file arrived that had to be processed." in reader.get(f"/jobs/{job}").text


def test_the_command_line_says_the_language_of_a_collection_that_it_creates(run: Run, empty: Path) -> None:
    (empty / "a.txt").write_text("a robin")
    done = run(upload.upload, "Neu", "--no-index", empty)
    assert "Created the collection Neu. Texts and captions are searched as english; `retllm collections" in done.stderr
    assert "Created the collection" not in run(upload.upload, "Neu", "--no-index", empty).stderr
    (line,) = lines(run(collections.collections, "create", "Anders", "--language", "german").stdout)
    assert line.endswith(", language german.")
