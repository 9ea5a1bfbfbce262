"""Uploads over a network that breaks: the command line and an independent tus client, against the real server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tests.chaos.proxy import Proxy
from tests.functional.serving import Server, serving
from tests.unit.web.pictures import picture
from tusclient.client import TusClient

from retllm.cli import patience, sending, show
from retllm.cli import upload as command
from retllm.cli.client import open_api

PART = 1 << 18
_follow, _send_part, _once = command._follow, sending.Sender._send_part, patience.PatientApi.once


class CuttingProxy(Proxy):
    """A proxy that counts what goes to the server, and resets all connections when ``cut_after`` bytes have passed."""

    sent = 0
    sent_before_following = 0
    """What had passed when the command began to ask for the outcomes, which takes as many requests as it lasts."""
    cut_after: int | None = None
    away_after: int | None = None
    """After so many bytes no connection gets through."""
    away = False

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        if sink in self._client_writers:
            await super()._pass(source, sink)
            return
        while chunk := await source.read(1 << 14):
            self.sent += len(chunk)
            if self.away_after is not None and self.sent >= self.away_after:
                self.away, self.away_after = True, None
            if self.away or (self.cut_after is not None and self.sent >= self.cut_after):
                self.cut_after = None
                await self._reset()
                return
            sink.write(chunk)
            await sink.drain()
        sink.close()


@pytest.fixture(scope="module")
def server(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with its media worker."""
    with serving(database_url, redis_url, tmp_path_factory.mktemp("resumed")) as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[CuttingProxy]:
    """The network between the command line and the server."""
    made = CuttingProxy.to_port(int(server.address.rpartition(":")[2]))
    assert isinstance(made, CuttingProxy)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a large picture, eight small ones and a sheet."""
    made = tmp_path / "folder"
    made.mkdir()
    noise = Image.effect_noise((1100, 1000), 90)
    noise.save(made / "large.png")
    assert (made / "large.png").stat().st_size > 3 * PART
    for number in range(8):
        (made / f"{number}.png").write_bytes(picture(f"rgb({number * 20}, 9, 9)"))
    (made / "captions.csv").write_text("file,caption\nlarge.png,noise\n0.png,dark\n")
    return made


def upload(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, collection: str, *arguments: object
) -> Result:
    """Run `retllm upload` through the proxy."""
    monkeypatch.setattr(command, "connect", lambda: open_api(f"http://127.0.0.1:{proxy.port}", server.token))
    monkeypatch.setattr(sending, "_LEAST_BYTES", PART)
    monkeypatch.setattr(sending, "_MOST_BYTES", PART)
    monkeypatch.setattr(patience, "_FIRST_WAIT", 0.05)

    def follow(*arguments: Any) -> Any:
        proxy.sent_before_following = proxy.sent
        return _follow(*arguments)

    monkeypatch.setattr(command, "_follow", follow)
    options = [collection, "--no-index", "--json", *map(str, arguments)]
    return CliRunner().invoke(command.upload, options, catch_exceptions=False)


def before_part(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[sending.Sender], None]) -> list[int]:
    """Do something before the command sends a part of this number; return the list of the offsets of all parts."""
    offsets: list[int] = []

    def send_part(sender: sending.Sender, address: str, stream: Any) -> bool:
        if len(offsets) + 1 == number:
            do(sender)
        return _send_part(sender, address, stream)

    def once(api: patience.PatientApi, method: str, path: str, **options: Any) -> Any:
        if method == "PATCH":
            offsets.append(int(options["headers"]["Upload-Offset"]))
        return _once(api, method, path, **options)

    monkeypatch.setattr(sending.Sender, "_send_part", send_part)
    monkeypatch.setattr(patience.PatientApi, "once", once)
    return offsets


def close(server: Server, upload_id: str) -> None:
    """Close an upload, as the dispatcher does with an idle one."""
    with server.client() as client:
        assert client.post(f"/uploads/{upload_id}/close").status_code == 200


def statuses(done: Result) -> dict[str, str]:
    return {file["name"]: file["status"] for file in json.loads(done.stdout)["files"]}


EXPECTED = {
    **{f"folder/{number}.png": "added" for number in range(8)},
    "folder/large.png": "added",
    "folder/captions.csv": "read",
    "folder/captions.csv, row 2": "updated",
    "folder/captions.csv, row 3": "updated",
}


def test_a_network_that_breaks_in_mid_file_costs_at_most_that_part(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, folder: Path
) -> None:
    key = server.collection("Broken")
    size = sum(file.stat().st_size for file in folder.iterdir())
    # in the third part of the large file, which comes last
    proxy.cut_after = size - (folder / "large.png").stat().st_size + 5 * PART // 2
    offsets = before_part(monkeypatch, 0, lambda _: None)
    done = upload(monkeypatch, server, proxy, key, folder)
    assert proxy.cut_after is None
    assert (done.exit_code, statuses(done)) == (0, EXPECTED)
    assert "Waiting for the server" in done.stderr
    assert "The server answers again." in done.stderr
    # how soon the server records what arrived of the third part decides from where it goes on
    assert offsets[:3] == [0, PART, 2 * PART]
    assert 2 * PART <= offsets[3] < 3 * PART
    assert offsets == sorted(offsets)


def test_files_of_a_request_that_broke_are_sent_once_more_and_taken_once(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, folder: Path
) -> None:
    key = server.collection("Broken request")
    (folder / "large.png").unlink()
    (folder / "captions.csv").unlink()
    proxy.cut_after = 3000
    done = upload(monkeypatch, server, proxy, key, folder)
    assert proxy.cut_after is None
    assert statuses(done) == {f"folder/{number}.png": "added" for number in range(8)}


def test_the_same_command_again_sends_no_bytes_of_what_arrived(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, folder: Path
) -> None:
    key = server.collection("Twice")
    (folder / "captions.csv").unlink()
    assert upload(monkeypatch, server, proxy, key, folder).exit_code == 0
    proxy.sent = 0
    again = upload(monkeypatch, server, proxy, key, folder)
    assert set(statuses(again).values()) == {"duplicate"}
    assert proxy.sent_before_following < 16 << 10


def test_a_server_that_stays_away_ends_the_command_and_the_next_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, folder: Path
) -> None:
    key = server.collection("Away")
    with monkeypatch.context() as patch:
        before_part(patch, 3, lambda _: setattr(proxy, "away", True))
        with pytest.raises(patience.GaveUp, match=r"9 of 10 files arrived.*Run the same command again"):
            upload(patch, server, proxy, key, "--patience", "0", folder)
    proxy.away = False
    with server.client() as client:
        (job,) = client.get("/jobs", params={"collection": key}).json()["jobs"]
    close(server, job["id"])
    proxy.sent = 0
    again = upload(monkeypatch, server, proxy, key, folder)
    assert statuses(again)["folder/large.png"] == "added"
    assert again.exit_code == 0
    assert proxy.sent_before_following < (folder / "large.png").stat().st_size - 2 * PART + (64 << 10)


@pytest.mark.parametrize(("first", "status"), [("succeeded", 0), ("partial", 1)])
def test_an_upload_that_was_closed_meanwhile_goes_on_as_another_one_and_both_count(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, folder: Path, first: str, status: int
) -> None:
    key = server.collection(f"Closed, {first}")
    (folder / ".nomedia").touch()
    closed: list[str] = []

    def close_it(sender: sending.Sender) -> None:
        closed.append(sender.upload_id)
        close(server, sender.upload_id)

    before_part(monkeypatch, 2, close_it)
    watch = show.watch

    def watched(api: Any, job_id: str, *arguments: Any) -> Any:
        return watch(api, job_id, *arguments) | ({"state": first} if job_id in closed else {})

    monkeypatch.setattr(show, "watch", watched)
    done = upload(monkeypatch, server, proxy, key, folder)
    assert (done.exit_code, statuses(done)) == (status, EXPECTED | {"folder/.nomedia": "ignored"})
    answer = json.loads(done.stdout)
    assert [job["state"] for job in answer["jobs"]] == [first, "succeeded"]
    assert answer["job"] == answer["jobs"][1]
    with server.client() as client:
        # each upload has the fate of all its files, and what the second one brought is not missing in the first one
        paths = [f"/uploads/{job['id']}/files?status=ignored" for job in answer["jobs"]]
        ignored = [{file["name"] for file in client.get(path).json()["files"]} for path in paths]
    assert ignored == [
        {"folder/.nomedia", "folder/large.png", "folder/captions.csv, row 2"},
        {"folder/.nomedia"},
    ]


def test_an_upload_whose_job_is_cancelled_ends_and_its_job_lists_the_rest(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, folder: Path
) -> None:
    key = server.collection("Cancelled")

    def cancel(sender: sending.Sender) -> None:
        with server.client() as client:
            assert client.post(f"/jobs/{sender.upload_id}/cancel").status_code == 200

    before_part(monkeypatch, 2, cancel)
    with pytest.raises(command.Unfinished, match=r"was cancelled: 9 of 10 files had arrived\. .* to send the rest\."):
        upload(monkeypatch, server, proxy, key, folder)
    with server.client() as client:
        (job,) = client.get("/jobs", params={"collection": key}).json()["jobs"]
        files = client.get(f"/uploads/{job['id']}/files").json()["files"]
    assert job["state"] in ("running", "cancelled")
    assert {file["name"] for file in files if file["within"] is None} == {
        *EXPECTED.keys() - {"folder/captions.csv, row 2", "folder/captions.csv, row 3"}
    }
    (large,) = (file for file in files if file["name"] == "folder/large.png")
    assert large["status"] == "not_sent"


def test_stopping_says_what_arrived_and_indexes_it(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, folder: Path
) -> None:
    key = server.collection("Stopped")

    def stopped(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(sending.Sender, "_send_part", stopped)
    done = upload(monkeypatch, server, proxy, key, folder)
    assert done.exit_code == 130
    assert "Stopped: 9 of 10 files arrived" in done.stderr
    with server.client() as client:
        (job,) = client.get("/jobs", params={"collection": key}).json()["jobs"]
        assert client.get(f"/uploads/{job['id']}").json()["closed_at"] is not None
        # the command does not wait for the rows of the sheet
        deadline = time.monotonic() + 60
        while not client.get(f"/uploads/{job['id']}").json()["processed"] and time.monotonic() < deadline:
            time.sleep(0.05)
        missing = client.get(f"/uploads/{job['id']}/files", params={"status": "not_sent"}).json()["files"]
    # one entry for the large file, of which nothing came, and one for its caption
    assert {(file["name"], file["error"]["code"]) for file in missing} == {
        ("folder/large.png", "not_sent"),
        ("folder/captions.csv, row 2", "not_sent"),
    }


def test_what_a_killed_command_did_not_send_is_listed_when_its_upload_is_closed(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, folder: Path
) -> None:
    key = server.collection("Killed")

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(sending.Sender, "_send_batch", die)
    with pytest.raises(Killed):
        upload(monkeypatch, server, proxy, key, folder)
    with server.client() as client:
        (job,) = client.get("/jobs", params={"collection": key}).json()["jobs"]
        close(server, job["id"])
        missing = client.get(f"/uploads/{job['id']}/files", params={"status": "not_sent"}).json()["files"]
    assert {file["name"] for file in missing} == {name for name in EXPECTED if ", row" not in name}


def test_the_next_run_goes_on_with_a_large_file_after_the_command_was_killed(
    server: Server, proxy: CuttingProxy, tmp_path: Path
) -> None:
    key = server.collection("Killed with SIGKILL")
    large = tmp_path / "large.png"
    Image.effect_noise((4000, 3000), 90).save(large, compress_level=0)
    size = large.stat().st_size
    environment = os.environ | {
        "RETLLM_HOME": str(tmp_path / "home"),
        "RETLLM_URL": f"http://127.0.0.1:{proxy.port}",
        "RETLLM_TOKEN": server.token,
    }
    command_line = [sys.executable, "-m", "retllm.cli.main", "upload", key, "--no-index", "--json", str(large)]
    # the first part is whole then
    proxy.away_after = 6 << 20
    with server.client() as client, subprocess.Popen(command_line, env=environment, stderr=subprocess.PIPE) as killed:
        while not proxy.away:
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
        proxy.away = False
        (first,) = client.get("/jobs", params={"collection": key}).json()["jobs"]
        assert client.get(f"/uploads/{first['id']}").json()["closed_at"] is None
    proxy.sent = 0
    again = subprocess.run(command_line, env=environment, capture_output=True, text=True, check=True)
    assert f"Closed upload {first['id']}, which an earlier command left open." in again.stderr
    (file,) = json.loads(again.stdout)["files"]
    assert (file["name"], file["status"]) == ("large.png", "added")
    assert proxy.sent < size - (3 << 20)


def test_names_arrive_as_they_are(
    monkeypatch: pytest.MonkeyPatch, server: Server, proxy: CuttingProxy, tmp_path: Path
) -> None:
    names = ['5" disk.png', "5%22 disk.png", "50%.png", "a #1.png", "größe.png"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(f"rgb(9, {number * 20}, 9)"))
    key = server.collection("Names")
    for status in ("added", "duplicate"):
        assert statuses(upload(monkeypatch, server, proxy, key, tmp_path)) == {
            f"{tmp_path.name}/{name}": status for name in names
        }


def test_an_independent_client_of_the_protocol_sends_a_file(server: Server, folder: Path) -> None:
    key = server.collection("tus")
    content = (folder / "large.png").read_bytes()
    with server.client() as client:
        opened = client.post(f"/collections/{key}/uploads", json={"index": False}).json()["id"]
        tus = TusClient(
            f"{server.address}/api/v1/uploads/{opened}/tus", headers={"Authorization": f"Bearer {server.token}"}
        )
        first = tus.uploader(file_stream=io.BytesIO(content), chunk_size=PART, metadata={"filename": "tus/größe.png"})
        first.upload_chunk()
        assert first.offset == PART
        # another client goes on at the same address
        tus.uploader(file_stream=io.BytesIO(content), chunk_size=PART, url=first.url).upload()
        (file,) = client.get(f"/uploads/{opened}/files").json()["files"]
        assert file["name"] == "tus/größe.png"
        client.post(f"/uploads/{opened}/close")
