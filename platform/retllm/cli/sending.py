"""Sends files to an upload: only what the server does not have, and on from where a lost network ended it."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from retllm.cli.client import Json, RequestRejected, Unreachable
from retllm.cli.folders import Found, OpenedFile, Unreadable
from retllm.cli.patience import PatientApi
from retllm.errors import RetllmError, TooLarge
from retllm.media.outcomes import FileOutcome, rejected
from retllm.media.streams import LARGE

# limits of one request, so that an interrupted upload loses little
_REQUEST_FILES = 32
_REQUEST_BYTES = 64 << 20
# limits of what is announced at once; the next lot is hashed while one is sent
_LOT_FILES = 256
_LOT_BYTES = 256 << 20
_NOTED = 1000
# when it is stopped, to say what was not sent, and then to close the upload
_LEAVING_SECONDS = 20.0
_CLOSING_SECONDS = 5.0
_TUS = {"Tus-Resumable": "1.0.0"}
_PART = {**_TUS, "Content-Type": "application/offset+octet-stream"}


@dataclass(frozen=True, slots=True)
class _Hashed:
    file: Found
    sha256: str


@dataclass
class Sender:
    """Sends files to one upload.

    Attributes:
        progress: called with the number of files that need not be sent any more.
        arrived: number of files that the server has for certain; of the last request the answer may have been lost.
        left: the other ones that are to be sent.
        unsent: outcomes of files that are not sent, of which the server does not know yet.
    """

    api: PatientApi
    upload_id: str
    progress: Callable[[int], None]
    arrived: int = 0
    left: dict[Found, None] = field(default_factory=dict)
    unsent: list[FileOutcome] = field(default_factory=list)

    def send(self, files: Sequence[Found]) -> None:
        """Send the files that the server does not have, in their order, and tell it of those that are not sent.

        It knows all names before the first bytes, so that it can list what is missing whenever this ends.

        Raises:
            GaveUp: the server was away for too long.
            RequestRejected: the server takes no more files, for example because its storage is full.
        """
        self.left = dict.fromkeys(files)
        lots = list(_cut(files, _LOT_FILES, _LOT_BYTES))
        stop = threading.Event()
        pool = ThreadPoolExecutor(1, "hash")
        for first in range(0, len(files), _NOTED):
            names = [file.name for file in files[first : first + _NOTED]]
            self.api.call("POST", f"/uploads/{self.upload_id}/expected", json={"first": first, "names": names})
        self._note_unsent()
        try:
            hashing = [pool.submit(self._hashed, lot, stop) for lot in lots[:1]]
            for number in range(len(lots)):
                hashed = hashing.pop().result()
                hashing += [pool.submit(self._hashed, lot, stop) for lot in lots[number + 1 : number + 2]]
                self._send_lot(hashed)
                self._note_unsent()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def leave(self, reason: str) -> int | None:
        """Close the upload in a bounded time, and say why the files that are left are not sent.

        Returns:
            How many files arrived, as the server says; None if it did not answer in time.
        """
        end = time.monotonic() + _LEAVING_SECONDS
        with suppress(RetllmError):
            self._note_unsent(lambda *request, **options: self._before(end, *request, **options))
        with suppress(RetllmError):
            end = time.monotonic() + _CLOSING_SECONDS
            closed = self._before(end, "POST", f"/uploads/{self.upload_id}/close", json={"reason": reason})
            return int(closed["arrived"])
        return None

    def _before(self, end: float, method: str, path: str, **options: Any) -> Json:
        """Send a request once, with an answer before ``end``."""
        seconds = end - time.monotonic()
        if seconds <= 0:
            raise Unreachable("The time is over.")
        return self.api.once(method, path, timeout=seconds, **options)

    def _hashed(self, files: Sequence[Found], stop: threading.Event) -> list[_Hashed]:
        hashed = []
        for file in files:
            sha = hashlib.sha256()
            try:
                with file.open() as stream:
                    while not stop.is_set() and (data := stream.read(1 << 20)):
                        sha.update(data)
            except Unreadable as error:
                self._leave_out(file, error)
            else:
                hashed.append(_Hashed(file, sha.hexdigest()))
        return hashed

    def _leave_out(self, file: Found, error: Unreadable) -> None:
        self.left.pop(file, None)
        self.unsent.append(rejected(file.name, error))
        self.progress(1)

    def _note_unsent(self, call: Callable[..., Json] | None = None) -> None:
        call = call or self.api.call
        while some := self.unsent[:_NOTED]:
            files = [
                {"name": outcome.name, "status": outcome.status, "reason": _reason(outcome), "count": outcome.count}
                for outcome in some
            ]
            call("POST", f"/uploads/{self.upload_id}/unsent", json={"files": files})
            del self.unsent[: len(some)]

    def _send_lot(self, files: Sequence[_Hashed]) -> None:
        unknown = self._unknown(files)
        small = [one for one in unknown if one.file.size <= LARGE]
        for batch in _batches(small):
            self._send_batch(batch)
        for one in unknown:
            if one.file.size > LARGE:
                self._send_large(one)

    def _unknown(self, files: Sequence[_Hashed]) -> list[_Hashed]:
        """Announce files; return those that the server does not have."""
        if not files:
            return []
        manifest = [{"name": one.file.name, "size": one.file.size, "sha256": one.sha256} for one in files]
        needs = self.api.call("POST", f"/uploads/{self.upload_id}/known", json={"files": manifest})["needs"]
        unknown = [one for one, need in zip(files, needs, strict=True) if need == "send"]
        self._arrive([one for one, need in zip(files, needs, strict=True) if need != "send"])
        return unknown

    def _arrive(self, files: Collection[_Hashed]) -> None:
        for one in files:
            self.left.pop(one.file, None)
        self.arrived += len(files)
        self.progress(len(files))

    def _send_batch(self, batch: Sequence[_Hashed]) -> None:
        left = list(batch)
        tried = False

        def attempt() -> None:
            nonlocal left, tried
            if tried:
                # the request may have arrived, and only its answer was lost
                left = self._unknown(left)
            tried = True
            while left and not self._post(left):
                pass

        self.api.patience.keep(attempt)

    def _post(self, batch: list[_Hashed]) -> bool:
        """Send files in one request; those that can't be read are removed from ``batch``. Return whether it arrived."""
        with ExitStack() as stack:
            opened: dict[_Hashed, OpenedFile] = {}
            for one in list(batch):
                try:
                    opened[one] = stack.enter_context(one.file.open())
                except Unreadable as error:
                    batch.remove(one)
                    self._leave_out(one.file, error)
            if not opened:
                return True
            parts = [("file", (quote(one.file.name), stream)) for one, stream in opened.items()]
            try:
                self.api.once("POST", f"/uploads/{self.upload_id}/files", files=parts, params={"quoted": "true"})
            except Unreadable as error:
                (wrong,) = (one for one, stream in opened.items() if stream.problem is error)
                batch.remove(wrong)
                self._leave_out(wrong.file, error)
                return False
        self._arrive(opened)
        return True

    def _send_large(self, one: _Hashed) -> None:
        metadata = ",".join(
            f"{name} {base64.b64encode(value.encode()).decode()}"
            for name, value in (("filename", one.file.name), ("sha256", one.sha256))
        )
        headers = {**_TUS, "Upload-Length": str(one.file.size), "Upload-Metadata": metadata}
        try:
            large = self.api.call("POST", f"/uploads/{self.upload_id}/tus", headers=headers)
        except RequestRejected as error:
            if error.body["error"].get("code") != TooLarge.code:
                raise
            self._leave_out(one.file, Unreadable(error.message))
            return
        address = f"/uploads/{self.upload_id}/tus/{large['id']}"
        try:
            with one.file.open() as stream:
                while not self.api.patience.keep(lambda: self._send_part(address, stream)):
                    pass
        except Unreadable as error:
            self.api.call("DELETE", address, headers=_TUS)
            self._leave_out(one.file, error)
        else:
            self._arrive([one])

    def _send_part(self, address: str, stream: OpenedFile) -> bool:
        """Send the next part, from where the server says; return whether the file is whole."""
        large = self.api.once("GET", address, headers=_TUS)
        if large["offset"] == large["size"]:
            return True
        stream.seek(large["offset"])
        part = stream.read(LARGE)
        try:
            self.api.once("PATCH", address, content=part, headers={**_PART, "Upload-Offset": str(large["offset"])})
        except RequestRejected as error:
            # what arrived of a part before the connection broke may be recorded only now
            if "offset" not in error.detail:
                raise
        return False


def _reason(outcome: FileOutcome) -> str | None:
    return outcome.remark if outcome.error is None else outcome.error.message


def _batches(files: Sequence[_Hashed]) -> Iterator[list[_Hashed]]:
    hashed = {one.file: one for one in files}
    for batch in _cut(list(hashed), _REQUEST_FILES, _REQUEST_BYTES):
        yield [hashed[file] for file in batch]


def _cut(files: Sequence[Found], most: int, max_bytes: int) -> Iterator[list[Found]]:
    """Yield the files in lists of at most ``most`` files and ``max_bytes`` bytes, if one file is not larger."""
    batch: list[Found] = []
    size = 0
    for file in files:
        if batch and (len(batch) >= most or size + file.size > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch
