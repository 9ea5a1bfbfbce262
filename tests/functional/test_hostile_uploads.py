"""Malformed and hostile uploads to the real server: it responds to each, keeps no part of them, and still works.

Hundreds of them, and a thousand with ``make soak``.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import sqlalchemy as sa
from tests.functional.malformed import SHEET_FORMS, TOTAL, Case, cases, valid_picture
from tests.functional.malformed_pictures import FORMATS
from tests.functional.serving import Server, serving

from retllm.db.jobs import Job
from retllm.db.session import make_sessions
from retllm.db.tables import Collection, Item, Source
from retllm.db.uploads import UploadFile

SEED = 4712
MEBIBYTE = 1 << 20
LIMIT = 8 * MEBIBYTE
DECODER = 512 * MEBIBYTE
# how much the memory of the server may grow, without its decoders, which have their own limit
GROWTH = 200 * MEBIBYTE
# how many times the memory of processes is measured before new processes are looked for
_LOOKS_PER_SEARCH = 5
_MARKUP = (b"<script", b"<svg", b"<html", b"<!doctype", b"<?xml")


@pytest.fixture(scope="module")
def server(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits, so that small requests exceed them."""
    home = tmp_path_factory.mktemp("hostile")
    limits = {"max_request_bytes": LIMIT, "max_file_bytes": 4 * MEBIBYTE, "max_pixels": 20_000_000}
    with serving(database_url, redis_url, home, decode_memory=DECODER, **limits) as running:
        yield running


@dataclass
class Response:
    """A response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def send_request(server: Server, method: str, path: str, *pieces: bytes, **headers: str) -> Response:
    """Send a request on its own connection, and close the sending side after the pieces regardless of their length."""
    where = urlsplit(server.address)
    lines = [f"{method} /api/v1{path} HTTP/1.1", "Host: here", f"Authorization: Bearer {server.token}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()] + ["Connection: close"]
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=120) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin1"))
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it responded before it had read the whole body
        answer = http.client.HTTPResponse(connection, method=method)
        answer.begin()
        return Response(answer.status, answer.msg, answer.read())


def send(server: Server, collection: str, case: Case) -> Response:
    """Send a case unchanged."""
    length = len(case.body) if case.declared_length is None else case.declared_length
    path = f"/collections/{collection}/items?index=false"
    return send_request(server, "POST", path, case.body, Content_Type=case.content_type, Content_Length=str(length))


@dataclass
class Watch:
    """The processes of a server and their highest memory use."""

    before: int
    peak: int = 0
    decoders: int = 0
    looks: int = 0
    processes: list[psutil.Process] = field(default_factory=list)

    def look(self, server: Server) -> None:
        """Update the highest values once."""
        # to find them takes much longer than to measure them
        if self.looks % _LOOKS_PER_SEARCH == 0:
            self.processes = server.processes()
        self.looks += 1
        serving_, decoding = 0, 0
        for process in self.processes:
            try:
                size, line = process.memory_info().rss, process.cmdline()
            except psutil.Error:  # a decoder that ended
                continue
            if any(part.endswith("decoder.py") for part in line):
                decoding = max(decoding, size)
            else:
                serving_ += size
        self.peak, self.decoders = max(self.peak, serving_), max(self.decoders, decoding)


@contextmanager
def watched(server: Server) -> Iterator[Watch]:
    """Measure the server's memory many times a second inside the context."""
    watch, over = Watch(0), threading.Event()
    watch.look(server)
    watch.before = watch.peak

    def look() -> None:
        while not over.wait(0.05):
            watch.look(server)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def named_files(database_url: str, server: Server) -> set[str]:
    """Return the keys of the files of all items of this server, and of those that are kept of uploads."""
    sessions = make_sessions(database_url)
    with sessions() as session:
        own = sa.select(Collection.id).where(Collection.owner_id == server.user_id)
        columns = (Item.picture_key, Item.thumbnail_key, Item.copy_key, Source.file_key)
        queries = [sa.select(column).where(column.class_.collection_id.in_(own)) for column in columns]
        # the bytes of rejected files, which can be tried again
        uploads = sa.select(UploadFile.file_key).join(Job, Job.id == UploadFile.job_id)
        queries.append(uploads.where(Job.user_id == server.user_id))
        found = {key for query in queries for key in session.scalars(query) if key}
    sessions.kw["bind"].dispose()
    return found


def remaining_temporary_files(server: Server) -> list[str]:
    """Wait until the temporary files are deleted, and return those that remain."""
    deadline = time.monotonic() + 120
    while (left := server.temporary_files()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def upload(name: str, content: bytes) -> Case:
    """Return a form with one file."""
    head = f'--good\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    return Case(name, head + content + b"\r\n--good--\r\n", "multipart/form-data; boundary=good")


@pytest.mark.timeout(1800)
def test_malformed_uploads_are_answered_and_leave_no_orphaned_files(server: Server, database_url: str) -> None:
    key = server.collection("Hostile")
    assert send(server, key, upload("first.png", valid_picture()[:60])).json()["rejected"] == 1
    problems: list[str] = []
    statuses: Counter[int] = Counter()
    outcomes: Counter[str] = Counter()
    taken: list[tuple[str, str]] = []
    every = list(cases(SEED))
    # several of each format and of each form of a sheet
    assert all(sum(case.name.endswith(f" {form}") for case in every) >= 4 for form in FORMATS)
    assert all(any(case.name.endswith(f" {form}") for case in every) for form in SHEET_FORMS)

    def one(case: Case) -> tuple[Case, Response | Exception]:
        try:
            return case, send(server, key, case)
        except (OSError, http.client.HTTPException) as error:
            return case, error

    mains = {process.pid for process in processes(server)}
    with watched(server) as watch, ThreadPoolExecutor(4) as pool:
        for case, answer in pool.map(one, every):
            if isinstance(answer, Exception):
                problems.append(f"{case.name}: {answer!r}")
                continue
            statuses[answer.status] += 1
            if answer.headers["Content-Type"] != "application/json":
                # gunicorn itself responds to requests that it can't parse, with plain text
                assert answer.headers["Content-Type"].startswith("text/plain"), case.name
                assert 400 <= answer.status < 500, case.name
                continue
            body = answer.json()
            if answer.status >= 500:
                problems.append(f"{case.name}: {answer.status} {body}")
            elif answer.status >= 400:
                assert set(body["error"]) == {"code", "message", "detail"}, case.name
            else:
                outcomes.update(one["status"] for one in body["outcomes"])
                taken += [
                    (case.name, one["item_id"]) for one in body["outcomes"] if one["kind"] in ("image", "image+text")
                ]
    assert not problems, "\n".join(problems)
    assert len(every) == statuses.total() == TOTAL
    # most of them are rejected; some damaged files are still harmless pictures
    assert outcomes["rejected"] + sum(statuses[status] for status in statuses if status >= 400) > 0.7 * TOTAL
    # no process was restarted, and none grew much
    assert server.process.poll() is None
    assert server.media.poll() is None
    assert mains == {process.pid for process in processes(server)}
    assert watch.peak - watch.before < GROWTH
    assert watch.decoders < DECODER
    # no orphaned, incomplete or temporary file is left
    assert remaining_temporary_files(server) == []
    assert server.stored_files() == named_files(database_url, server)
    for case_name, item in dict(reversed(taken)).items():
        check_harmless(server, item, case_name)
    # the server still works
    assert send(server, key, upload("good.png", valid_picture())).json()["added"] == 1


def processes(server: Server) -> list[psutil.Process]:
    """Return the processes of server and worker that are not decoders."""
    return [one for one in server.processes() if not any(part.endswith("decoder.py") for part in one.cmdline())]


def check_harmless(server: Server, item: str, case: str) -> None:
    """Check that an accepted picture is shown only re-encoded, and that its original is sent only as a download."""
    shown = send_request(server, "GET", f"/items/{item}/rendition")
    assert shown.status == 200, case
    # a working copy is shown as it is
    kind, start = shown.headers["Content-Type"], (shown.body[8:12], shown.body[:2])
    assert (kind == "image/webp" and start[0] == b"WEBP") or (kind == "image/jpeg" and start[1] == b"\xff\xd8"), case
    assert not any(markup in shown.body.lower() for markup in _MARKUP), case
    original = send_request(server, "GET", f"/items/{item}/picture")
    assert original.headers["Content-Type"].startswith("image/"), case
    assert "svg" not in original.headers["Content-Type"], case
    assert original.headers["Content-Disposition"].startswith("attachment; "), case
    for answer in (shown, original):
        assert answer.headers["X-Content-Type-Options"] == "nosniff", case
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox", case


# chunked bodies without a declared length


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


_HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
_FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        (_FORM, _HEAD),
        (_FORM, b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'),
        (_FORM, b"no part at all"),
        ("application/json", b'{"items": [{"text": "'),
        # truncated at the limit, this would be valid
        ("application/json", b'{"items": [{"text": "a robin"}]}' + b" " * LIMIT),
        ("text/plain", b""),
        ("application/x-www-form-urlencoded", b"a="),
        ("", b""),
    ],
)
@pytest.mark.parametrize("path", ["/collections/{}/items", "/collections/{}/searches"])
def test_a_chunked_body_has_a_size_limit(server: Server, database_url: str, kind: str, head: bytes, path: str) -> None:
    key = server.collection(f"Chunks {os.urandom(4).hex()}")
    before = server.stored_files()
    filler = _chunk(b"x" * MEBIBYTE)
    with watched(server) as watch:
        answer = send_request(
            server,
            "POST",
            path.format(key),
            *([_chunk(head)] if head else []),
            *[filler] * (5 * LIMIT // MEBIBYTE),
            b"0\r\n\r\n",
            Transfer_Encoding="chunked",
            **({"Content_Type": kind} if kind else {}),
        )
    assert answer.status in ((413,) if kind == _FORM or "json" in kind else (413, 415)), answer.body
    assert set(answer.json()["error"]) == {"code", "message", "detail"}
    assert watch.peak - watch.before < 100 * MEBIBYTE
    assert remaining_temporary_files(server) == []
    assert server.stored_files() == before == named_files(database_url, server)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"zz\r\nxx\r\n0\r\n\r\n",),
        (b"-5\r\nxx\r\n0\r\n\r\n",),
        (b"FFFFFFFFFFFFFFFFFF\r\nxx",),
        (b"5\r\nxxxxxxxxxxxx",),
        (b"5\r\nxx",),
        (b"5;" + b"y" * 100_000,),
        (_chunk(_HEAD + b"x"),),
        (b"0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",),
        (b"",),
    ],
    ids=range(9),
)
def test_malformed_chunks_are_rejected(server: Server, pieces: tuple[bytes, ...]) -> None:
    key = server.collection(f"Broken chunks {os.urandom(4).hex()}")
    for kind in (_FORM, "application/json"):
        answer = send_request(
            server, "POST", f"/collections/{key}/items", *pieces, Transfer_Encoding="chunked", Content_Type=kind
        )
        assert 400 <= answer.status < 500, (kind, answer.body)
    assert remaining_temporary_files(server) == []


# markup


@pytest.mark.parametrize("suffix", ["svg", "html", "xhtml", "xml", "png", "jpg", "txt", "csv", "json", "js", "zip", ""])
@pytest.mark.parametrize(
    "content",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        b"<!doctype html><script>alert(1)</script>",
        b"\xef\xbb\xbf\n <HTML><script>alert(1)</script>",
        b"<script>alert(1)</script>",
        b"GIF89a/*<svg/onload=alert(1)>*/=1;alert(1)",
        b"text\n<img src=x onerror=alert(1)>",
    ],
    ids=["svg", "html", "html behind a mark", "script", "gif", "text"],
)
def test_markup_is_rejected_or_stored_as_text_and_never_served_as_markup(
    server: Server, suffix: str, content: bytes
) -> None:
    key = server.collection(f"Markup {os.urandom(4).hex()}")
    answer = send(server, key, upload(f"a.{suffix}", content + os.urandom(4).hex().encode()))
    answers = [answer, send_request(server, "GET", f"/collections/{key}/items")]
    for outcome in answer.json()["outcomes"]:
        assert outcome["kind"] in (None, "text")
        if outcome["item_id"]:
            answers += [
                send_request(server, "GET", f"/items/{outcome['item_id']}{which}")
                for which in ("", "/picture", "/rendition", "/thumbnail")
            ]
    for one in answers:
        assert one.headers["Content-Type"] == "application/json"
        assert one.headers["X-Content-Type-Options"] == "nosniff"
