"""Clients of the REST API that log every accepted request and retry until they get a response."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from PIL import Image
from tests.chaos.client_log import Accepted, Cancelled, ClientLog, Ending, SentFiles
from tests.chaos.large import LIMIT
from tests.chaos.models import CRASH_COLOUR

_TIMEOUT_SECONDS = 120.0
_TUS = {"Tus-Resumable": "1.0.0"}
_PART = 50  # bytes, of which a random picture has several times as many


def picture(colour: tuple[int, int, int], size: int = 16) -> bytes:
    """Return a PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def random_picture() -> bytes:
    """Return a picture that is hardly ever made again."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (4, 4), random.randbytes(48)).save(buffer, "PNG")
    return buffer.getvalue()


def files_to_upload() -> list[dict[str, bytes]]:
    """Return the files of an upload, by request: pictures, an archive with a sidecar, and a sheet at the end."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("z0.png", random_picture())
        target.writestr("z0.txt", f"sidecar {uuid.uuid4().hex}")
    sheet = f"file,caption\na0.png,{uuid.uuid4().hex}\nz0.png,another\n"
    return [
        {"a0.png": random_picture(), "a1.png": random_picture(), "same.png": picture((1, 2, 3))},
        {"b0.png": random_picture(), "z.zip": archive.getvalue()},
        {"c.csv": sheet.encode(), "note.txt": uuid.uuid4().hex.encode()},
    ]


def crashing_picture() -> bytes:
    """Return a picture that crashes the worker that embeds it."""
    return picture(CRASH_COLOUR)


class NoAnswer(AssertionError):
    """The server did not respond, or a job did not end, for longer than any fault lasts."""


@dataclass
class Client:
    """A client of one user; any number of threads may use it."""

    url: str
    token: str
    log: ClientLog = field(default_factory=ClientLog)
    unexpected: list[str] = field(default_factory=list)
    repeats: int = 0

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60)

    def try_request(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Send a request once; return None after a lost connection or a server error."""
        try:
            answer = self.http.request(method, path, **options)
        except httpx.TransportError:
            return None
        if answer.status_code < 500:
            return answer
        self.unexpected.append(f"{method} {path.rsplit('/', 1)[-1]}: {answer.status_code}")
        return None

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request and return the response; repeat it after a lost connection or a server error."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            answer = self.try_request(method, path, **options)
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                raise NoAnswer(f"{method} {path} got no response for {_TIMEOUT_SECONDS:g} seconds")
            self.repeats += 1
            time.sleep(0.1)

    def submit(self, path: str, status: int = 202, **options: Any) -> UUID:
        """Submit a job and log its ID and idempotency key; the same key is sent until there is a response."""
        key = uuid.uuid4().hex
        answer = self.request("POST", path, headers={"Idempotency-Key": key}, **options)
        assert answer.status_code == status, answer.text
        job_id = UUID(answer.json()["id"])
        self.log.accepted.append(Accepted(job_id, key))
        if random.random() < 0.2:  # as after a lost response
            again = self.request("POST", path, headers={"Idempotency-Key": key}, **options)
            assert again.status_code == status, again.text
            self.log.accepted.append(Accepted(UUID(again.json()["id"]), key))
        return job_id

    def cancel(self, job_id: UUID) -> bool:
        """Cancel a job; return False if it was already over, or deleted."""
        answer = self.request("POST", f"/jobs/{job_id}/cancel")
        if job_id in self.log.deleted:
            return False
        if answer.status_code == 200:
            self.log.cancelled.append(Cancelled(job_id, datetime.now(UTC)))
            return True
        assert answer.status_code == 409, answer.text
        return False

    def collection(self) -> str:
        """Create a collection and return its ID."""
        while True:
            answer = self.request("POST", "/collections", json={"name": f"c-{uuid.uuid4().hex[:12]}"})
            if answer.status_code == 201:
                return str(answer.json()["id"])

    def upload_texts(self, collection: str, count: int) -> None:
        """Upload ``count`` new texts without indexing them."""
        items = [{"text": f"text {uuid.uuid4().hex}", "name": f"t{n}"} for n in range(count)]
        answer = self.request("POST", f"/collections/{collection}/items?index=false", json={"items": items})
        assert answer.status_code == 200, answer.text

    def upload_pictures(self, collection: str, *pictures: bytes) -> httpx.Response:
        """Upload pictures without indexing them, and wait for their outcomes."""
        files = [("file", (f"p{n}.png", one, "image/png")) for n, one in enumerate(pictures)]
        return self.request("POST", f"/collections/{collection}/items?index=false&wait=60", files=files)

    def open_upload(self, collection: str) -> UUID:
        """Open an upload, whose files are indexed; a text that has no picture is one, whatever other uploads bring."""
        return self.submit(f"/collections/{collection}/uploads", 201, json={"texts": True})

    def upload(self, upload_id: UUID, requests: Sequence[Mapping[str, bytes]]) -> None:
        """Send files in several requests and one more in parts, then close the upload.

        After a lost answer the server is asked which files of the request, or how much of the file, it has; the rest is
        sent again.
        """
        receipts: dict[str, UUID] = {}
        for files in requests:
            self._send(upload_id, files, receipts)
        receipts["large.png"] = self._send_in_parts(upload_id, "large.png", random_picture())
        answer = self.request("POST", f"/uploads/{upload_id}/close")
        assert answer.status_code == 200, answer.text
        names = (*(name for files in requests for name in files), "large.png")
        self.log.sent.append(SentFiles(upload_id, names, receipts))

    def _send(self, upload_id: UUID, files: Mapping[str, bytes], receipts: dict[str, UUID]) -> None:
        left = dict(files)
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while left:
            parts = [("file", (name, content, "application/octet-stream")) for name, content in left.items()]
            answer = self.try_request("POST", f"/uploads/{upload_id}/files", files=parts)
            if answer is not None:
                assert answer.status_code == 202, answer.text
                receipts |= {one["name"]: UUID(one["id"]) for one in answer.json()["files"]}
                return
            if time.monotonic() > deadline:
                raise NoAnswer(f"files could not be sent for {_TIMEOUT_SECONDS:g} seconds")
            self.repeats += 1
            time.sleep(0.1)
            manifest = [
                {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in left.items()
            ]
            answer = self.request("POST", f"/uploads/{upload_id}/known", json={"files": manifest})
            assert answer.status_code == 200, answer.text
            needs = answer.json()["needs"]
            left = {name: left[name] for name, need in zip(tuple(left), needs, strict=True) if need == "send"}

    def _send_in_parts(self, upload_id: UUID, name: str, content: bytes) -> UUID:
        """Send a file in parts (tus) and return the key of its receipt."""
        about = {"filename": name.encode(), "sha256": hashlib.sha256(content).hexdigest().encode()}
        metadata = ",".join(f"{key} {base64.b64encode(value).decode()}" for key, value in about.items())
        announced = {**_TUS, "Upload-Length": str(len(content)), "Upload-Metadata": metadata}
        answer = self.request("POST", f"/uploads/{upload_id}/tus", headers=announced)
        assert answer.status_code == 201, answer.text
        path = f"/uploads/{upload_id}/tus/{answer.json()['id']}"
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            arrived = self.request("GET", path, headers=_TUS).json()
            if arrived["file_id"] is not None:
                return UUID(arrived["file_id"])
            if time.monotonic() > deadline:
                raise NoAnswer(f"a file could not be sent in parts for {_TIMEOUT_SECONDS:g} seconds")
            at = arrived["offset"]
            part = {"headers": {**_TUS, "Upload-Offset": str(at), "Content-Type": "application/offset+octet-stream"}}
            sent = self.try_request("PATCH", path, content=content[at : at + _PART], **part)
            if sent is None:
                self.repeats += 1
                time.sleep(0.1)
            else:
                # another offset is the next one if an attempt without an answer went on
                assert sent.status_code in (204, 409), sent.text

    def index(self, collection: str) -> UUID:
        """Submit an index job."""
        return self.submit(f"/collections/{collection}/index")

    def index_many(self) -> tuple[str, UUID]:
        """Index a new collection that is large enough for a vector index; return its ID and that of the job."""
        collection = self.collection()
        self.upload_texts(collection, LIMIT + 4)
        return collection, self.index(collection)

    def delete(self, collection: str, *jobs: UUID) -> None:
        """Delete a collection with its jobs, which must be all that were submitted to it."""
        self.log.deleted.update(jobs)
        answer = self.request("DELETE", f"/collections/{collection}")
        # a request without an answer may have deleted it
        assert answer.status_code in (204, 404), answer.text

    def search(self, collection: str, k: int = 8, **more: Any) -> UUID:
        """Submit a search with a text that was not used before."""
        body = {"text": uuid.uuid4().hex, "k": k, **more}
        return self.submit(f"/collections/{collection}/searches", json=body)

    def search_picture(self, collection: str, colour: tuple[int, int, int]) -> UUID:
        """Submit a search with a picture."""
        files = {"picture": ("q.png", picture(colour), "image/png"), "query": (None, '{"k": 4}', "application/json")}
        return self.submit(f"/collections/{collection}/searches", files=files)

    def job(self, job_id: UUID) -> dict[str, Any]:
        """Return a job from the API and log its end; one that the client deleted is over."""
        answer = self.request("GET", f"/jobs/{job_id}")
        if answer.status_code == 404 and job_id in self.log.deleted:
            return {"state": "deleted", "finished_at": "when it was deleted"}
        found: dict[str, Any] = answer.json()
        if found["finished_at"] is not None:
            ending = Ending(job_id, datetime.fromisoformat(found["finished_at"]))
            if ending not in self.log.endings:
                self.log.endings.append(ending)
        return found

    def wait(self, job_id: UUID, seconds: float = 120) -> dict[str, Any]:
        """Wait until a job is over and return it."""
        deadline = time.monotonic() + seconds
        pause = 0.03
        while (found := self.job(job_id))["finished_at"] is None:
            if time.monotonic() > deadline:
                raise NoAnswer(f"job {job_id} was not over after {seconds:g} seconds")
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
        return found


class Load:
    """Threads that submit jobs of all kinds inside the context."""

    def __init__(
        self, client: Client, library: str, seed: int, threads: int = 3, most_open: int = 24, pace: float = 0.0
    ) -> None:
        self._client = client
        self._library = library
        self._seed = seed
        self._stop = threading.Event()
        self._most_open = most_open
        self._pace = pace
        self._open: list[UUID] = []
        self._lock = threading.Lock()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors and kind is None:
            raise self._errors[0]

    def _run(self, number: int) -> None:
        chance = random.Random(self._seed * 100 + number)
        try:
            while not self._stop.is_set():
                self._step(chance)
        except BaseException as error:
            self._errors.append(error)

    def _step(self, chance: random.Random) -> None:
        with self._lock:
            # not more often, since requests to the web server slow the workers down
            if len(self._open) >= self._most_open:
                self._open = [job for job in self._open if self._client.job(job)["finished_at"] is None]
            full = len(self._open) >= self._most_open
        if full:
            self._stop.wait(0.5)
            return
        submissions = [self._index, self._upload, self._search, self._adaptive_search, self._picture]
        submissions += [self._index_many, self._delete]
        submit: Callable[[], UUID] = chance.choices(submissions, [1, 2, 2, 1, 1, 1, 1])[0]
        job = submit()
        with self._lock:
            self._open.append(job)
        if chance.random() < 0.1:
            self._stop.wait(chance.random())
            self._client.cancel(job)
        self._stop.wait(chance.random() * self._pace)

    def _index(self) -> UUID:
        """Index a collection twice at the same time."""
        collection = self._client.collection()
        self._client.upload_texts(collection, 12)
        other = self._client.index(collection)
        with self._lock:
            self._open.append(other)
        return self._client.index(collection)

    def _index_many(self) -> UUID:
        return self._client.index_many()[1]

    def _delete(self) -> UUID:
        """Delete a collection while its files are unpacked, its items embedded, or its index built."""
        if random.random() < 0.5:
            collection, job = self._client.index_many()
        else:
            collection = self._client.collection()
            job = self._client.open_upload(collection)
            self._client.upload(job, files_to_upload())
        self._stop.wait(random.random())
        self._client.delete(collection, job)
        return job

    def _upload(self) -> UUID:
        upload = self._client.open_upload(self._client.collection())
        self._client.upload(upload, files_to_upload())
        return upload

    def _search(self) -> UUID:
        return self._client.search(self._library)

    def _picture(self) -> UUID:
        red, green, blue = random.randbytes(3)
        return self._client.search_picture(self._library, (red, green, blue))

    def _adaptive_search(self) -> UUID:
        return self._client.search(self._library, adaptive={"first": 3, "step": 3})
