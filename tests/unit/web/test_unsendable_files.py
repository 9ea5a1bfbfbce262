"""`retllm upload` when files of a folder can't be sent, or not as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.unit.web.commands import Run, lines
from tests.unit.web.conftest import Caller

from retllm.cli import sending
from retllm.cli import upload as command
from retllm.errors import InvalidInput
from retllm.media import special_files
from retllm.media.local_files import OpenedFile
from retllm_web.http.services import Services

Upload = Callable[..., Result]


@pytest.fixture
def upload(run: Run, ada: Caller) -> Upload:
    """Runs `retllm upload` into an empty collection."""
    collection = ada.post("/collections", json={"name": "One door"}).json["id"]
    return lambda *arguments: run(command.upload, collection, "--no-index", *arguments)


def answer_of(done: Result) -> dict[str, tuple[str, str | None]]:
    """Return status and remark of each file in the output of `--json`."""
    (line,) = lines(done.stdout)
    return {file["name"]: (file["status"], file["remark"]) for file in json.loads(line)["files"]}


def test_without_a_file_there_is_nothing_to_upload_and_no_job(upload: Upload, empty: Path, ada: Caller) -> None:
    before = ada.get("/jobs").json
    with pytest.raises(InvalidInput, match=r"^There is nothing to upload\. folder: The folder contains no files\.$"):
        upload(empty)
    for number in range(5):
        (empty / f"~$a{number}.xlsx").touch()
    (empty / ".hidden").touch()
    with pytest.raises(
        InvalidInput, match=r"nothing to upload\. folder/\.hidden: Left out.*office program, 5 files\.$"
    ) as refused:
        upload(empty)
    assert [file["count"] for file in refused.value.detail["files"]] == [1, 5]
    assert ada.get("/jobs").json == before


def test_a_path_that_is_not_there_is_rejected_and_the_others_are_taken(upload: Upload, empty: Path) -> None:
    (empty / "a.txt").write_bytes(b"a robin")
    (empty / "gone").symlink_to(empty / "nothing")
    done = upload("--json", empty / "a.txt", empty / "nichtda", empty / "a.txt" / "x", empty / "gone")
    assert done.exit_code == 1
    (line,) = lines(done.stdout)
    found = {file["name"]: file["error"] and file["error"]["message"] for file in json.loads(line)["files"]}
    nothing = "There is no such file or folder: correct the name."
    assert found == {"a.txt": None, "nichtda": nothing, "x": nothing, "gone": special_files.LINK_TO_NOTHING}
    with pytest.raises(InvalidInput, match=rf"^There is nothing to upload\. nichtda: {nothing}$"):
        upload(empty / "nichtda")


def test_files_with_names_that_are_not_utf_8_go_in(upload: Upload, empty: Path) -> None:
    (empty / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"a robin")
    (empty / "b.txt").write_bytes(b"a wren")
    done = upload("--json", empty)
    assert done.exit_code == 0
    assert answer_of(done) == {"folder/b.txt": ("added", None), "folder/café.txt": ("added", None)}


@pytest.mark.parametrize("change", ["removed", "changed before", "changed while hashed", "changed while sent"])
def test_a_file_that_changes_during_the_upload_is_rejected_alone(
    upload: Upload, empty: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    for name in ("a", "b", "c"):
        (empty / f"{name}.txt").write_text(name * 1_000)
    walk, read = command.walk, OpenedFile.read
    reads = 0

    def walked(paths: list[Path]) -> Iterator[Any]:
        found = list(walk(paths))
        if change == "removed":
            (empty / "b.txt").unlink()
        elif change == "changed before":
            (empty / "b.txt").write_text("")
        yield from found

    def reading(file: OpenedFile, count: int = -1) -> bytes:
        nonlocal reads
        reads += 1
        # two reads hash each of the three files
        if change == "changed while hashed" or (change == "changed while sent" and reads > 6):
            (empty / "b.txt").write_text("longer" * 1_000)
        return read(file, count)

    monkeypatch.setattr(command, "walk", walked)
    monkeypatch.setattr(OpenedFile, "read", reading)
    done = upload("--json", empty)
    assert done.exit_code == 1
    statuses = {name: status for name, (status, _) in answer_of(done).items()}
    assert statuses == {"folder/a.txt": "added", "folder/c.txt": "added", "folder/b.txt": "rejected"}


def test_a_file_that_the_server_finds_too_large_is_rejected_alone(
    upload: Upload, empty: Path, served: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_LEAST_BYTES", 1000)
    monkeypatch.setattr(sending, "_MOST_BYTES", 1000)
    monkeypatch.setattr(served.settings, "max_request_bytes", 2000)
    (empty / "a.txt").write_text("a" * 2001)
    (empty / "b.txt").write_text("a wren")
    done = upload("--json", empty)
    assert done.exit_code == 1
    statuses = {name: status for name, (status, _) in answer_of(done).items()}
    assert statuses == {"folder/a.txt": "rejected", "folder/b.txt": "added"}


def test_rows_without_a_picture_are_texts_if_asked_for(upload: Upload, empty: Path) -> None:
    (empty / "captions.csv").write_text("file,caption\n,a robin\n")
    assert answer_of(upload("--json", empty))["folder/captions.csv, row 2"] == ("rejected", None)
    assert answer_of(upload("--json", "--texts", empty))["folder/captions.csv, row 2"] == ("added", None)
