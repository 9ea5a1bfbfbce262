"""Clients of the REST API that write down every promise they get, and never give up asking until they have one."""

from __future__ import annotations

import io
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from PIL import Image
from tests.chaos.client_log import Accepted, Cancelled, ClientLog, Ending
from tests.chaos.models import DEADLY

_PATIENCE = 120.0


def picture(colour: tuple[int, int, int], size: int = 16) -> bytes:
    """A PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def deadly() -> bytes:
    """A picture that ends the worker that embeds it."""
    return picture(DEADLY)


class GaveUp(AssertionError):
    """The server did not answer for longer than any fault lasts."""


@dataclass
class Client:
    """One user; any number of threads may use it."""

    url: str
    token: str
    log: ClientLog = field(default_factory=ClientLog)
    unexpected: list[str] = field(default_factory=list)
    repeats: int = 0

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60)

    def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """The answer, once there is one: what failed on the way or on the server's side is asked again."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                answer = self.http.request(method, path, **how)
                if answer.status_code < 500:
                    return answer
                self.unexpected.append(f"{method} {path.rsplit('/', 1)[-1]}: {answer.status_code}")
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise GaveUp(f"{method} {path} had no answer for {_PATIENCE:g} seconds")
            self.repeats += 1
            time.sleep(0.1)

    def submit(self, path: str, **how: Any) -> UUID:
        """Submit a job and write down its key; the same key is sent until there is an answer."""
        key = uuid.uuid4().hex
        answer = self.ask("POST", path, headers={"Idempotency-Key": key}, **how)
        assert answer.status_code == 202, answer.text
        job_id = UUID(answer.json()["id"])
        self.log.accepted.append(Accepted(job_id, key))
        if random.random() < 0.2:  # as a client does that lost the answer
            again = self.ask("POST", path, headers={"Idempotency-Key": key}, **how)
            assert again.status_code == 202, again.text
            self.log.accepted.append(Accepted(UUID(again.json()["id"]), key))
        return job_id

    def cancel(self, job_id: UUID) -> bool:
        """Cancel a job; false if it was over before."""
        answer = self.ask("POST", f"/jobs/{job_id}/cancel")
        if answer.status_code == 200:
            self.log.cancelled.append(Cancelled(job_id, datetime.now(UTC)))
            return True
        assert answer.status_code == 409, answer.text
        return False

    def collection(self) -> str:
        """A new collection."""
        while True:
            answer = self.ask("POST", "/collections", json={"name": f"c-{uuid.uuid4().hex[:12]}"})
            if answer.status_code == 201:
                return str(answer.json()["id"])

    def upload_texts(self, collection: str, count: int) -> None:
        """So many new texts; not indexed."""
        items = [{"text": f"text {uuid.uuid4().hex}", "name": f"t{n}"} for n in range(count)]
        answer = self.ask("POST", f"/collections/{collection}/items?index=false", json={"items": items})
        assert answer.status_code == 200, answer.text

    def upload_pictures(self, collection: str, *pictures: bytes) -> httpx.Response:
        """These pictures; not indexed."""
        files = [("file", (f"p{n}.png", one, "image/png")) for n, one in enumerate(pictures)]
        return self.ask("POST", f"/collections/{collection}/items?index=false", files=files)

    def index(self, collection: str) -> UUID:
        """Submit an index job."""
        return self.submit(f"/collections/{collection}/index")

    def search(self, collection: str, k: int = 8, **more: Any) -> UUID:
        """Submit a search of a text that nobody asked before."""
        body = {"text": uuid.uuid4().hex, "k": k, **more}
        return self.submit(f"/collections/{collection}/searches", json=body)

    def search_picture(self, collection: str, colour: tuple[int, int, int]) -> UUID:
        """Submit a search of a picture."""
        files = {"picture": ("q.png", picture(colour), "image/png"), "query": (None, '{"k": 4}', "application/json")}
        return self.submit(f"/collections/{collection}/searches", files=files)

    def job(self, job_id: UUID) -> dict[str, Any]:
        """A job as the API shows it; its end is written down."""
        found: dict[str, Any] = self.ask("GET", f"/jobs/{job_id}").json()
        if found["finished_at"] is not None:
            ending = Ending(job_id, datetime.fromisoformat(found["finished_at"]))
            if ending not in self.log.endings:
                self.log.endings.append(ending)
        return found

    def wait(self, job_id: UUID, seconds: float = 120) -> dict[str, Any]:
        """The job once it is over."""
        deadline = time.monotonic() + seconds
        while (found := self.job(job_id))["finished_at"] is None:
            if time.monotonic() > deadline:
                raise GaveUp(f"job {job_id} was not over after {seconds:g} seconds")
            time.sleep(0.25)
        return found


class Load:
    """Threads that submit jobs of all kinds until they are told to stop."""

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
            # only then, since the web server's time is the workers' too
            if len(self._open) >= self._most_open:
                self._open = [job for job in self._open if self._client.job(job)["finished_at"] is None]
            full = len(self._open) >= self._most_open
        if full:
            self._stop.wait(0.5)
            return
        deeds = [self._index, self._search, self._waves, self._picture]
        deed: Callable[[], UUID] = chance.choices(deeds, [2, 2, 1, 1])[0]
        job = deed()
        with self._lock:
            self._open.append(job)
        if chance.random() < 0.1:
            self._stop.wait(chance.random())
            self._client.cancel(job)
        self._stop.wait(chance.random() * self._pace)

    def _index(self) -> UUID:
        collection = self._client.collection()
        self._client.upload_texts(collection, 12)
        return self._client.index(collection)

    def _search(self) -> UUID:
        return self._client.search(self._library)

    def _picture(self) -> UUID:
        red, green, blue = random.randbytes(3)
        return self._client.search_picture(self._library, (red, green, blue))

    def _waves(self) -> UUID:
        return self._client.search(self._library, adaptive={"first": 3, "step": 3})
