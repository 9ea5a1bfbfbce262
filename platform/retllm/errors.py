"""The exceptions of the platform.

The docstring of a class is its default message. Each class has the HTTP status of the API's answer, a stable code for
programs, and whether a retry can help. Messages and details are redacted (:mod:`retllm.redaction`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from retllm.redaction import redact, redact_within


class RetllmError(Exception):
    """Something went wrong inside the platform."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, **detail: Any) -> None:
        self.message = redact(message or (type(self).__doc__ or "").strip().splitlines()[0])
        self.detail: Mapping[str, Any] = redact_within(detail)
        super().__init__(self.message)

    def as_json(self) -> dict[str, Any]:
        """Return the error as the API sends it: ``{"error": {"code", "message", "detail"}}`` (design: API)."""
        return {"error": {"code": self.code, "message": self.message, "detail": dict(self.detail)}}


class InvalidInput(RetllmError):
    """The request has a field that can't be accepted."""

    code = "invalid_input"
    http_status = 422


class Unauthorized(RetllmError):
    """Log in, or send a valid token as "Authorization: Bearer ...", to do this."""

    code = "unauthorized"
    http_status = 401


class TooManyTries(RetllmError):
    """There were too many failed attempts: wait a while, then try again."""

    code = "too_many_tries"
    http_status = 429
    retryable = True


class Forbidden(RetllmError):
    """This account may not do that."""

    code = "forbidden"
    http_status = 403


class NotFound(RetllmError):
    """The requested object does not exist."""

    code = "not_found"
    http_status = 404


class OriginalLost(NotFound):
    """The original lies outside of the storage, and is missing there, changed, or may not be read any more."""

    code = "original_lost"


class Conflict(RetllmError):
    """The current state does not allow that."""

    code = "conflict"
    http_status = 409


class Obsolete(Conflict):
    """This job can't be completed any more, by no retry: begin it again."""

    code = "obsolete"


class TooLarge(RetllmError):
    """The upload exceeds the maximum size of this server."""

    code = "too_large"
    http_status = 413


class MediaRejected(InvalidInput):
    """The file can't be accepted."""

    code = "media_rejected"


class NoText(MediaRejected):
    """The text is empty."""


class Incomplete(MediaRejected):
    """Only a part of the file arrived."""

    code = "incomplete"


class NotSent(MediaRejected):
    """The file was never sent."""

    code = "not_sent"


class PictureNotSent(MediaRejected):
    """The file came, but the picture that it is for was never sent."""

    code = "picture_not_sent"


class Unsendable(MediaRejected):
    """The file could not be sent: its sender can't read it, or it is larger than the server takes."""

    code = "unsendable"


class BenchmarkUnreadable(InvalidInput):
    """A benchmark file is missing or differs from what its authors publish."""

    code = "benchmark_unreadable"


class StackError(RetllmError):
    """A server that the platform needs can't be used; the message says what to do."""

    code = "stack"
    http_status = 503


class DatabaseBusy(RetllmError):
    """Concurrent changes conflicted and nothing was changed: try again."""

    code = "database_busy"
    http_status = 503
    retryable = True


class Busy(RetllmError):
    """The server has too much to do at the moment: try again in a few seconds."""

    code = "busy"
    http_status = 503
    retryable = True


class StorageUnavailable(RetllmError):
    """A stored picture can't be read at the moment."""

    code = "storage_unavailable"
    http_status = 503
    retryable = True


class StorageFull(RetllmError):
    """The storage is full: ask the administrator to free space, then try again."""

    code = "storage_full"
    http_status = 507
    retryable = True


class ModelUnavailable(RetllmError):
    """A model can't be loaded here."""

    code = "model_unavailable"
    http_status = 409
    retryable = True


class ModelUnsuited(ModelUnavailable):
    """The model loads but can't be used for this task."""

    code = "model_unsuited"
    retryable = False


class ServerAway(RetllmError):
    """A server that a worker needs does not answer now; the unit waits for it, for ``seconds`` at least.

    ``remedy`` is what an administrator does about it, if that is known.
    """

    code = "server_away"
    http_status = 503
    retryable = True

    def __init__(self, message: str | None = None, seconds: float = 0, remedy: str = "", **detail: Any) -> None:
        super().__init__(message, **detail)
        self.seconds = seconds
        self.remedy = remedy


class ServerBusy(ServerAway):
    """A server that a worker needs takes no more requests for now."""

    code = "server_busy"


class ServerFailed(RetllmError):
    """A server that a worker needs answered with an error, or with something that is no answer."""

    code = "server_failed"
    http_status = 502
    retryable = True


class TooLargeForDevice(RetllmError):
    """A single pair does not fit in the memory of the device."""

    code = "too_large_for_device"


class ScoreUnreadable(RetllmError):
    """The model's answer contains no score."""

    code = "score_unreadable"


class StaleClaim(RetllmError):
    """Another worker may hold the unit now; this worker's results were discarded."""

    code = "stale_claim"
    http_status = 409


class UnitPostponed(RetllmError):
    """The work of the unit is being done for another job; the unit is claimed again after ``seconds``."""

    code = "unit_postponed"
    http_status = 409

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class JobCancelled(RetllmError):
    """The job was cancelled."""

    code = "job_cancelled"
    http_status = 409
