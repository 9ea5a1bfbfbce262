"""People at work, for Locust: they log in, browse, upload, search, wait for their results, and compare them.

``LOAD_SCENE`` is a JSON file that :mod:`tests.load.run` writes. This runs in Locust's own environment, so it imports
nothing of the platform.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import struct
import time
import zlib
from pathlib import Path
from typing import Any

from locust import HttpUser, between, events, task

SCENE = json.loads(Path(os.environ["LOAD_SCENE"]).read_text("utf-8"))
# 1: as people do
PACE = float(os.environ.get("LOAD_PACE", "1"))
_NUMBERS = itertools.count()
_TOKEN = re.compile(r'name="csrf_token"[^>]*value="([^"]+)"')
_WORDS = ("red", "blue", "green", "circle", "square", "small", "large", "above", "below", "dog", "house", "moon")


def picture(side: int = 160) -> bytes:
    """Return a new PNG of noise."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + random.randbytes(3 * side) for _ in range(side))
    head = struct.pack("!IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


@events.user_error.add_listener
def report(user_instance: HttpUser, exception: Exception, **_: Any) -> None:
    """Count an error of a person's own code as a failed request: a person who does less than is said is no load."""
    user_instance.environment.events.request.fire(
        request_type="-", name="error of a person", response_time=0, response_length=0, exception=exception, context={}
    )


class Person(HttpUser):
    """One person with an account, a browser and a collection."""

    wait_time = between(4 * PACE, 16 * PACE)

    def on_start(self) -> None:
        """Log in; a program of the same person has a token."""
        self.account: dict[str, str] = SCENE["accounts"][next(_NUMBERS) % len(SCENE["accounts"])]
        self.api = {"Authorization": f"Bearer {self.account['token']}"}
        self.jobs: list[str] = []
        while not self._log_in():
            self._pause()

    def _log_in(self) -> bool:
        found = _TOKEN.search(self.client.get("/login", name="page /login").text)
        fields = {"name": self.account["name"], "password": self.account["password"]}
        fields["csrf_token"] = found[1] if found else ""
        return self._asked("POST", "/login", "log in", data=fields).status_code == 200

    @task(10)
    def browse(self) -> None:
        """Look at some pages."""
        collection = self.account["collection"]
        pages = {"/": "/", "/collections": "/collections", f"/collections/{collection}": "/collections/ID"}
        pages |= {"/jobs": "/jobs", "/search": "/search"}
        for path in random.sample(list(pages), 2):
            self._open(path, pages[path])

    @task(4)
    def search(self) -> None:
        """Search, and look at the page of the result until it is there."""
        query = {"text": " ".join(random.sample(_WORDS, 3)), "k": 5}
        answer = self._api("POST", f"/collections/{self.account['collection']}/searches", "search", json=query)
        if answer.status_code == 202:
            self._watch(answer.json()["id"])

    @task(2)
    def upload(self) -> None:
        """Upload a picture, and have it indexed."""
        name = f"{random.getrandbits(64):x}.png"
        files = {"file": (name, io.BytesIO(picture()), "image/png")}
        self._api("POST", f"/collections/{self.account['collection']}/items", "upload", files=files)

    @task(1)
    def compare(self) -> None:
        """Compare the results of two searches."""
        if len(self.jobs) >= 2:
            first, second = random.sample(self.jobs, 2)
            self._open("/compare", params={"of": [first, second]})

    def _watch(self, job: str) -> None:
        self._open(f"/jobs/{job}", "/jobs/ID")
        for _ in range(20):
            self._pause()
            answer = self._api("GET", f"/jobs/{job}", "poll")
            if answer.status_code != 200 or answer.json()["state"] in ("succeeded", "failed", "partial", "cancelled"):
                break
        self._open(f"/jobs/{job}", "/jobs/ID")
        self.jobs = [*self.jobs[-9:], job]

    def _open(self, path: str, name: str = "", **options: Any) -> None:
        """Get a page that only people who are logged in see."""
        with self.client.get(path, name=f"page {name or path}", catch_response=True, **options) as answer:
            if answer.status_code == 200 and answer.url.partition("?")[0].endswith("/login"):
                answer.failure("was not logged in")

    def _pause(self) -> None:
        # Locust lets others go on meanwhile
        time.sleep(PACE * random.uniform(0.7, 3))

    def _api(self, method: str, path: str, name: str, **options: Any) -> Any:
        return self._asked(method, f"/api/v1{path}", name, headers=self.api, **options)

    def _asked(self, method: str, path: str, name: str, **options: Any) -> Any:
        # an answer that asks to come again later is no failure: the person does. Locust's `ok` is true of it then
        with self.client.request(method, path, name=name, catch_response=True, **options) as answer:
            if answer.status_code in (429, 503) and "Retry-After" in answer.headers:
                answer.request_meta["name"] = f"{name}: asked to wait"
                answer.success()
            return answer
