"""Uploads through the API, as its clients make them."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from tests.unit.web.conftest import Caller
from tests.unit.web.pictures import picture

STREAM = "application/offset+octet-stream"
TUS = {"Tus-Resumable": "1.0.0"}
RED, BLUE = picture("red"), picture("blue")


class Body(io.RawIOBase):
    """A body of which only the beginning can be read."""

    def __init__(self, content: bytes, length: int, then: Exception) -> None:
        super().__init__()
        self._left, self._length, self._then = content, length, then
        self._at = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        # asked for its length only
        self._at = self._length if whence == io.SEEK_END else offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            raise self._then
        data, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def sha256(content: bytes) -> str:
    """Return the hash that an upload announces."""
    return hashlib.sha256(content).hexdigest()


def begin(caller: Caller, collection: str, **asked: Any) -> str:
    """Open an upload and return its ID."""
    answer = caller.post(f"/collections/{collection}/uploads", json={"index": False, **asked})
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v1/uploads/{answer.json['id']}"
    return str(answer.json["id"])


def send(caller: Caller, upload: str, **files: bytes) -> Any:
    """Send files in one request; ``_`` in a keyword is the dot of the name."""
    parts = [(io.BytesIO(content), name.replace("_", ".")) for name, content in files.items()]
    return caller.post(f"/uploads/{upload}/files", data={"file": parts}, content_type="multipart/form-data")


def outcomes(caller: Caller, upload: str, query: str = "") -> dict[str, str]:
    """Return the status of each file by its name."""
    return {file["name"]: file["status"] for file in caller.get(f"/uploads/{upload}/files{query}").json["files"]}


def needs(caller: Caller, upload: str, **files: bytes) -> list[str]:
    """Return what the server says of each file that is announced."""
    manifest = [
        {"name": name.replace("_", "."), "size": len(content), "sha256": sha256(content)}
        for name, content in files.items()
    ]
    return list(caller.post(f"/uploads/{upload}/known", json={"files": manifest}).json["needs"])
