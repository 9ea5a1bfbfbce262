"""The next command closes the uploads of commands that were killed, and no others."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import httpx
import pytest

from retllm.cli import left_uploads
from retllm.cli.client import Api


class _Server:
    def __init__(self, home: Path, address: str = "http://one.test/api/v1") -> None:
        self.open = {"a", "b"}
        self.closed: dict[str, str] = {}
        transport = httpx.MockTransport(self._answer)
        self.api = Api(httpx.Client(transport=transport, base_url=address), home=home)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        _, _, _, _, upload, *close = request.url.path.split("/")
        if upload not in self.open | self.closed.keys():
            return httpx.Response(404, json={"error": {"code": "not_found", "message": "There is no such job."}})
        if close:
            self.closed[upload] = json.loads(request.content)["reason"]
            self.open.remove(upload)
            return httpx.Response(200, json={"arrived": 1})
        return httpx.Response(200, json={"closed_at": None if upload in self.open else "2026-01-01T00:00:00Z"})


def _kill(api: Api, upload: str) -> None:
    class Killed(BaseException):
        pass

    with pytest.raises(Killed), left_uploads.noted(api, upload):
        raise Killed


def test_an_upload_is_closed_once_after_its_command_was_killed(tmp_path: Path) -> None:
    server = _Server(tmp_path)
    _kill(server.api, "a")
    assert left_uploads.close_left(server.api) == ["a"]
    assert server.closed == {
        "a": "Not sent: the command that sent the upload ended before; run it again to send the rest."
    }
    assert left_uploads.close_left(server.api) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_two_commands_that_run_leave_each_others_uploads_alone(tmp_path: Path) -> None:
    server = _Server(tmp_path)
    with left_uploads.noted(server.api, "a"):
        with left_uploads.noted(server.api, "b"):
            assert left_uploads.close_left(server.api) == []
        assert left_uploads.close_left(server.api) == []
    assert server.open == {"a", "b"}


def test_an_upload_that_ended_or_is_gone_is_not_closed(tmp_path: Path) -> None:
    server = _Server(tmp_path)
    with left_uploads.noted(server.api, "a"):
        pass
    server.closed["b"] = ""
    server.open.remove("b")
    for upload in ("b", "gone"):
        _kill(server.api, upload)
    assert left_uploads.close_left(server.api) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_uploads_to_another_server_wait_for_a_command_to_that_one(tmp_path: Path) -> None:
    one, other = _Server(tmp_path), _Server(tmp_path, "http://other.test/api/v1")
    _kill(one.api, "a")
    assert left_uploads.close_left(other.api) == []
    assert left_uploads.close_left(one.api) == ["a"]


def test_names_of_this_machine_mean_one_server(tmp_path: Path) -> None:
    _kill(_Server(tmp_path, "http://localhost:8080/api/v1").api, "a")
    assert left_uploads.close_left(_Server(tmp_path, "http://localhost:8081/api/v1").api) == []
    assert left_uploads.close_left(_Server(tmp_path, "http://127.0.0.1:8080/api/v1").api) == ["a"]


def test_a_note_that_was_not_written_whole_stops_nobody(tmp_path: Path) -> None:
    server = _Server(tmp_path)
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "b").write_bytes(b"")
    (folder / "c").write_bytes(b"\xff\xfe")
    _kill(server.api, "a")
    assert left_uploads.close_left(server.api) == ["a"]
    assert [path.name for path in folder.iterdir()] == ["c"]


def test_the_folder_of_notes_is_for_its_account_only(tmp_path: Path) -> None:
    server = _Server(tmp_path / "home")
    with left_uploads.noted(server.api, "a"):
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert found == {"home": 0o700, "uploads": 0o700, "a": 0o600}


@pytest.mark.parametrize("upload", ["../client.json", "..", "", "new/../../client.json"])
def test_a_strange_key_reaches_no_other_file(tmp_path: Path, upload: str) -> None:
    (tmp_path / "client.json").write_text("{}")
    with left_uploads.noted(_Server(tmp_path).api, upload):
        pass
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["client.json"]


def test_a_folder_that_can_not_be_written_costs_only_the_note(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("a file in the place of the folder")
    server = _Server(tmp_path)
    with left_uploads.noted(server.api, "a"):
        assert left_uploads.close_left(server.api) == []
    assert server.open == {"a", "b"}
