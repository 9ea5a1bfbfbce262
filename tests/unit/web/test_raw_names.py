"""However a sidecar comes, it captions the picture of its very name, and none whose name only looks the same."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.unit.media.samples import zipped
from tests.unit.web.commands import Run
from tests.unit.web.conftest import Caller
from tests.unit.web.test_large_files import announce, patch
from tests.unit.web.uploads import BLUE, RED, begin, sha256

from retllm.cli import sending, upload

# the blue one gets a code
NAMES = {"café": RED, unicodedata.normalize("NFD", "café"): BLUE}
NAME, CONTENT = f"{[*NAMES][1]}.txt", b"by a file"


@pytest.fixture
def collection(ada: Caller) -> str:
    """A collection with two pictures whose names look the same."""
    key = str(ada.post("/collections", json={"name": "Names"}).json["id"])
    job = begin(ada, key)
    send(ada, job, "a.zip", zipped({f"{name}.png": content for name, content in NAMES.items()}))
    ada.post(f"/uploads/{job}/close")
    return key


def send(caller: Caller, job: str, name: str, content: bytes, *, quoted: bool = False) -> None:
    form = {"file": [(io.BytesIO(content), quote(name) if quoted else name)]}
    query = "?quoted=true" if quoted else ""
    sent = caller.post(f"/uploads/{job}/files{query}", data=form, content_type="multipart/form-data")
    assert sent.status_code == 202


def as_form(caller: Caller, job: str) -> None:
    send(caller, job, NAME, CONTENT)


def as_quoted_form(caller: Caller, job: str) -> None:
    send(caller, job, NAME, CONTENT, quoted=True)


def in_parts(caller: Caller, job: str) -> None:
    patch(caller, announce(caller, job, NAME, CONTENT), 0, CONTENT)


def captions(caller: Caller, collection: str) -> dict[str, str | None]:
    items = caller.get(f"/collections/{collection}/items").json["items"]
    return {item["name"].partition("~")[1]: item["text"] for item in items}


@pytest.mark.parametrize("sent", [as_form, as_quoted_form, in_parts])
def test_a_sidecar_of_the_api_captions_the_picture_of_its_very_name(ada: Caller, collection: str, sent: Any) -> None:
    job = begin(ada, collection)
    sent(ada, job)
    ada.post(f"/uploads/{job}/close")
    assert captions(ada, collection) == {"": None, "~": CONTENT.decode()}


def test_a_sidecar_whose_bytes_are_kept_captions_the_picture_of_its_very_name(ada: Caller, collection: str) -> None:
    first = begin(ada, collection)
    send(ada, first, "other.caption", CONTENT)
    ada.post(f"/uploads/{first}/close")
    job = begin(ada, collection)
    manifest = [{"name": NAME, "size": len(CONTENT), "sha256": sha256(CONTENT)}]
    assert ada.post(f"/uploads/{job}/known", json={"files": manifest}).json["needs"] == ["known"]
    ada.post(f"/uploads/{job}/close")
    assert captions(ada, collection) == {"": None, "~": CONTENT.decode()}


@pytest.mark.parametrize("large", [False, True])
def test_a_sidecar_of_the_command_line_captions_the_picture_of_its_very_name(
    run: Run, ada: Caller, collection: str, tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(sending, "_LEAST_BYTES", 1)
    (tmp_path / NAME).write_bytes(CONTENT)
    assert run(upload.upload, collection, str(tmp_path / NAME), "--no-index").exit_code == 0
    assert captions(ada, collection) == {"": None, "~": CONTENT.decode()}
