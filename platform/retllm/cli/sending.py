"""Sends files to an upload: only what the server does not have, and on from where a lost network ended it."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from retllm.cli.client import Json, RequestRejected, Unreachable
from retllm.cli.folders import Found
from retllm.cli.patience import PatientApi
from retllm.errors import RetllmError, TooLarge, Unsendable
from retllm.media.batches import in_batches
from retllm.media.fingerprints import Fingerprint
from retllm.media.local_files import OpenedFile, Unreadable
from retllm.media.outcomes import FileOutcome, rejected

# limits of one request; within them it has what the line takes in a second, so that an upload that is interrupted loses
# little and soon sees that it was cancelled
_REQUEST_FILES = 32
_LEAST_BYTES = 4 << 20
_MOST_BYTES = 32 << 20
_REQUEST_SECONDS = 1.0
# limits of what is announced at once; the next lot is hashed while one is sent
_LOT_FILES = 256
_LOT_BYTES = 256 << 20
_NOTED = 1000
# of larger files browsers have no other hash: either goes on with what the other sent
_FINGERPRINTED = 64 << 20
# when it is stopped, to say what was not sent, and then to close the upload
_LEAVING_SECONDS = 20.0
_CLOSING_SECONDS = 5.0
_TUS = {"Tus-Resumable": "1.0.0"}
_PART = {**_TUS, "Content-Type": "application/offset+octet-stream"}


@dataclass(frozen=True, slots=True)
class _Hashed:
    file: Found
    sha256: str
    fingerprint: str | None


@dataclass(slots=True)
class Sent:
    """How far an upload is.

    Attributes:
        files: how many files need not be sent any more, ``of_files`` in all.
        bytes: of the files that arrived, without those that the server had, ``of_bytes`` in all.
        under_way: how many bytes of the next files went out; they may be lost.
    """

    of_files: int = 0
    of_bytes: int = 0
    files: int = 0
    bytes: int = 0
    under_way: int = 0


class _Part(io.BytesIO):
    """The bytes of a part of a file, which tells how many were read."""

    def __init__(self, content: bytes, note: Callable[[int], None]) -> None:
        super().__init__(content)
        self._note = note

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._note(len(data))
        return data


@dataclass
class Sender:
    """Sends files to one upload.

    Attributes:
        progress: called when something was sent.
        arrived: number of files that the server has for certain; of the last request the answer may have been lost.
        left: the other ones that are to be sent.
        unsent: outcomes of files that are not sent, of which the server does not know yet.
    """

    api: PatientApi
    upload_id: str
    progress: Callable[[Sent], None]
    arrived: int = 0
    left: dict[Found, None] = field(default_factory=dict)
    unsent: list[FileOutcome] = field(default_factory=list)
    _sent: Sent = field(default_factory=Sent)
    _request_bytes: int = field(default_factory=lambda: _LEAST_BYTES)

    def send(self, files: Sequence[Found]) -> None:
        """Send the files that the server does not have, in their order, and tell it of those that are not sent.

        It knows all names before the first bytes, so that it can list what is missing whenever this ends.

        Raises:
            GaveUp: the server was away for too long.
            RequestRejected: the server takes no more files, for example because its storage is full.
        """
        self.left = dict.fromkeys(files)
        self._sent = Sent(of_files=len(files), of_bytes=sum(file.size for file in files))
        lots = list(in_batches(files, attrgetter("size"), _LOT_BYTES, _LOT_FILES))
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
            fingerprint = Fingerprint() if file.size > _FINGERPRINTED else None
            try:
                with file.open() as stream:
                    while not stop.is_set() and (data := stream.read(1 << 20)):
                        sha.update(data)
                        if fingerprint:
                            fingerprint.update(data)
            except Unreadable as error:
                self._leave_out(file, error)
            else:
                hashed.append(_Hashed(file, sha.hexdigest(), fingerprint.hexdigest() if fingerprint else None))
        return hashed

    def _leave_out(self, file: Found, error: Unsendable) -> None:
        self.left.pop(file, None)
        self.unsent.append(rejected(file.name, error))
        self._done([file], sent=False)

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
        while unknown:
            if unknown[0].file.size > self._request_bytes:
                self._send_large(unknown.pop(0))
            else:
                batch = self._fitting(unknown)
                self._send_batch(batch)
                del unknown[: len(batch)]

    def _fitting(self, files: Sequence[_Hashed]) -> list[_Hashed]:
        """Return as many of the first files as one request may have."""
        return next(in_batches(files, attrgetter("file.size"), self._request_bytes, _REQUEST_FILES))

    def _unknown(self, files: Sequence[_Hashed]) -> list[_Hashed]:
        """Announce files; return those that the server does not have."""
        if not files:
            return []
        manifest = [{"name": one.file.sent_name, "size": one.file.size, "sha256": one.sha256} for one in files]
        needs = self.api.call("POST", f"/uploads/{self.upload_id}/known", json={"files": manifest})["needs"]
        unknown = [one for one, need in zip(files, needs, strict=True) if need == "send"]
        self._arrive([one for one, need in zip(files, needs, strict=True) if need != "send"], sent=False)
        return unknown

    def _arrive(self, files: Collection[_Hashed], *, sent: bool = True) -> None:
        for one in files:
            self.left.pop(one.file, None)
        self.arrived += len(files)
        self._done([one.file for one in files], sent=sent)

    def _done(self, files: Sequence[Found], *, sent: bool) -> None:
        """Note files that need not be sent any more; the bytes of those that were not are no part of the work."""
        count = sum(file.size for file in files)
        self._sent.files += len(files)
        self._sent.under_way = 0
        if sent:
            self._sent.bytes += count
        else:
            self._sent.of_bytes -= count
        self.progress(self._sent)

    def _pass(self, count: int) -> None:
        self._sent.under_way += count
        self.progress(self._sent)

    @contextmanager
    def _request(self, count: int) -> Iterator[None]:
        """Send a request of so many bytes here; the next ones get the size that the line takes in their time."""
        began = time.monotonic()
        try:
            yield
        except Unreachable:
            self._request_bytes = _LEAST_BYTES
            raise
        seconds = max(time.monotonic() - began, 1e-3)
        # a small request says little of the line, unless it took long
        if count >= _LEAST_BYTES // 2 or seconds > _REQUEST_SECONDS:
            fitting = int(count / seconds * _REQUEST_SECONDS)
            self._request_bytes = min(max(fitting, _LEAST_BYTES), _MOST_BYTES)

    def _send_batch(self, batch: Sequence[_Hashed]) -> None:
        left = list(batch)
        tried = False

        def attempt() -> None:
            nonlocal left, tried
            if tried:
                # the request may have arrived, and only its answer was lost
                left = self._unknown([one for one in left if one.file in self.left])
            tried = True
            while left:
                # fewer than before if the line broke
                some = self._fitting(left)
                del left[: len(some)]
                try:
                    while some and not self._post(some):
                        pass
                except Unreachable:
                    left = some + left
                    raise

        self.api.patience.keep(attempt)

    def _post(self, batch: list[_Hashed]) -> bool:
        """Send files in one request; those that can't be read are removed from ``batch``. Return whether it arrived."""
        self._sent.under_way = 0
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
            for stream in opened.values():
                stream.note = self._pass
            parts = [("file", (quote(one.file.sent_name), stream)) for one, stream in opened.items()]
            try:
                with self._request(sum(one.file.size for one in opened)):
                    self.api.once("POST", f"/uploads/{self.upload_id}/files", files=parts, params={"quoted": "true"})
            except Unreadable as error:
                (wrong,) = (one for one, stream in opened.items() if stream.problem is error)
                batch.remove(wrong)
                self._leave_out(wrong.file, error)
                return False
        self._arrive(opened)
        return True

    def _send_large(self, one: _Hashed) -> None:
        values = {"filename": one.file.sent_name, "sha256": one.sha256}
        if one.fingerprint:
            values["slices"] = one.fingerprint
        metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items())
        headers = {**_TUS, "Upload-Length": str(one.file.size), "Upload-Metadata": metadata}
        try:
            large = self.api.call("POST", f"/uploads/{self.upload_id}/tus", headers=headers)
        except RequestRejected as error:
            if error.body["error"].get("code") != TooLarge.code:
                raise
            self._leave_out(one.file, Unsendable(error.message))
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
        self._sent.under_way = large["offset"]
        if large["offset"] == large["size"]:
            return True
        stream.seek(large["offset"])
        part = stream.read(self._request_bytes)
        headers = {**_PART, "Upload-Offset": str(large["offset"])}
        try:
            with self._request(len(part)):
                self.api.once("PATCH", address, content=_Part(part, self._pass), headers=headers)
        except RequestRejected as error:
            # what arrived of a part before the connection broke may be recorded only now
            if "offset" not in error.detail:
                raise
        return False


def _reason(outcome: FileOutcome) -> str | None:
    return outcome.remark if outcome.error is None else outcome.error.message
