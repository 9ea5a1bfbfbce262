"""The one exception tree of the platform.

The docstring of a class is its default message. Each class knows the HTTP status that the API answers with,
a stable code for programs, and whether trying the same thing again can help. No error tells a secret
(:mod:`retllm.redaction`).
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
        """The one error shape: ``{"error": {"code", "message", "detail"}}`` (design, API)."""
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
    """There were too many wrong tries: wait a while, then try again."""

    code = "too_many_tries"
    http_status = 429
    retryable = True


class Forbidden(RetllmError):
    """This account may not do that."""

    code = "forbidden"
    http_status = 403


class NotFound(RetllmError):
    """There is no such thing here."""

    code = "not_found"
    http_status = 404


class Conflict(RetllmError):
    """The present state does not allow that."""

    code = "conflict"
    http_status = 409


class TooLarge(RetllmError):
    """The upload is larger than this server takes."""

    code = "too_large"
    http_status = 413


class MediaRejected(InvalidInput):
    """The file can't be taken."""

    code = "media_rejected"


class BenchmarkUnreadable(InvalidInput):
    """A benchmark's file is missing, or is not as its authors publish it."""

    code = "benchmark_unreadable"


class StackError(RetllmError):
    """A server that the platform needs can't be used; the message says what to do."""

    code = "stack"
    http_status = 503


class DatabaseBusy(RetllmError):
    """Others changed the same things at the same time, and nothing was done: try again."""

    code = "database_busy"
    http_status = 503
    retryable = True


class StorageUnavailable(RetllmError):
    """A stored picture can't be read at the moment."""

    code = "storage_unavailable"
    http_status = 503
    retryable = True


class StorageFull(RetllmError):
    """There is no room left to store this: ask the administrator to make some, then try again."""

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


class TooLargeForDevice(RetllmError):
    """One pair alone does not fit the memory of the device."""

    code = "too_large_for_device"


class ScoreUnreadable(RetllmError):
    """The model's answer holds no score."""

    code = "score_unreadable"


class StaleClaim(RetllmError):
    """The unit belongs to another worker by now; this worker's results were dropped."""

    code = "stale_claim"
    http_status = 409


class JobCancelled(RetllmError):
    """The job was cancelled."""

    code = "job_cancelled"
    http_status = 409
