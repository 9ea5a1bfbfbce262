"""The requests of the script that uploads files from the pages."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.unit.web.pictures import picture

if TYPE_CHECKING:
    from tests.unit.web.pages.conftest import Visitor

SCRIPT = {"X-Requested-With": "fetch", "Accept": "application/json"}
Outcomes = Callable[[str], list[tuple[str, str]]]
"""Returns name and status of each file of an upload."""
RED, BLUE, BROKEN = picture("red"), picture("blue"), b"no picture"


def described(name: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **more}


class Script:
    """Sends the requests of the script that uploads files into one collection."""

    def __init__(self, reader: Visitor, collection: str) -> None:
        reader.get(f"/collections/{collection}")
        self.reader, self.collection, self.token = reader, collection, reader.token()
        self._addresses: dict[str, dict[str, str]] = {}

    def open(self, key: str | None = None, files: int = 0) -> str:
        """Open an upload that expects so many files, and return its key."""
        headers = {**SCRIPT, **({"Idempotency-Key": key} if key else {})}
        address = f"/collections/{self.collection}/uploads"
        answer = self.reader.client.post(address, data={"csrf_token": self.token, "files": files}, headers=headers)
        assert answer.status_code == 201
        upload = str(answer.json["files"]).split("/")[2]
        self._addresses[upload] = answer.json
        return upload

    def addresses(self, upload: str) -> dict[str, str]:
        """Return where the requests of an upload go."""
        return self._addresses[upload]

    def send(self, upload: str, **files: bytes) -> Any:
        parts = [(io.BytesIO(content), f"{name}.png") for name, content in files.items()]
        data = {"csrf_token": self.token, "file": parts}
        return self.reader.client.post(f"/uploads/{upload}/files", data=data, headers=SCRIPT)

    def ask(self, upload: str, what: str, *files: dict[str, Any]) -> Any:
        headers = {**SCRIPT, "X-CSRFToken": self.token}
        return self.reader.client.post(self.addresses(upload)[what], json={"files": list(files)}, headers=headers)

    def known(self, upload: str, *files: dict[str, Any]) -> list[bool]:
        answer = self.ask(upload, "known", *files)
        assert answer.status_code == 200
        return [need == "known" for need in answer.json["needs"]]

    def close(self, upload: str, *files: dict[str, Any]) -> list[bool]:
        answer = self.ask(upload, "close", *files)
        assert answer.status_code == 200
        return list(answer.json["known"])
