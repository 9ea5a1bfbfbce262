"""Large files of an upload in parts: the protocol tus 1.0.0, core with creation and termination (https://tus.io)."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, BinaryIO, cast
from uuid import UUID

from flask import Response, request
from flask_openapi.models.media_type import MediaType
from flask_openapi.models.request_body import RequestBody
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from werkzeug.exceptions import PreconditionFailed, UnsupportedMediaType

from retllm.errors import InvalidInput
from retllm.media.name_encodings import decoded
from retllm.uploads.large_files import Announced, Arrived
from retllm_web.actions import upload_parts
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import PREFIX, STREAM, api
from retllm_web.api.spec import BINARY, ErrorBody
from retllm_web.api.uploads import TAGS, UploadPath
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import optional
from retllm_web.http.services import services

VERSION = "1.0.0"
EXTENSIONS = "creation,termination"
_ENDPOINTS = ("api.create_large_file", "api.get_large_file", "api.append_part", "api.abandon_large_file")
_SHA256 = re.compile("[0-9a-f]{64}")
_LARGEST = 1 << 50
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_PAIR = f"[A-Za-z0-9_-]+(?: {_BASE64})?"
_METADATA = f"^{_PAIR}(?:, ?{_PAIR})*$"


class TusHeader(BaseModel):
    """The version of the protocol."""

    # what is hidden gives 404 also without the header
    model_config = ConfigDict(populate_by_name=True, json_schema_extra=lambda schema: _require(schema, "Tus-Resumable"))

    tus_resumable: str | None = Field(
        default=None,
        alias="Tus-Resumable",
        description="the version of the protocol",
        json_schema_extra=lambda schema: _only(schema, {"type": "string", "enum": [VERSION]}),
    )


def _only(schema: dict[str, Any], kept: dict[str, Any]) -> None:
    schema.pop("anyOf", None)
    schema.pop("default", None)
    schema.update(kept)


def _require(schema: dict[str, Any], name: str) -> None:
    schema["required"] = [*schema.get("required", []), name]


class NewLargeFile(TusHeader):
    """A large file to send."""

    upload_length: int = Field(ge=0, le=_LARGEST, alias="Upload-Length", description="size of the file in bytes")
    upload_metadata: Annotated[str, StringConstraints(max_length=8192, pattern=_METADATA)] | None = optional(
        "`filename` and, to go on with what arrived before, `sha256` or `slices` (in hex), each with its value in "
        "base64; `slices` is the SHA-256 of the SHA-256 digests (32 bytes each) of the file's slices of 4 MiB, one "
        "after the other",
        alias="Upload-Metadata",
    )


class PartHeader(TusHeader):
    """Where a part begins."""

    upload_offset: int = Field(ge=0, le=_LARGEST, alias="Upload-Offset", description="where the part begins, in bytes")


class LargeFilePath(UploadPath):
    """The keys of an upload and of a large file in it."""

    large_file_id: UUID


class LargeFileView(BaseModel):
    """A large file, and how much of it arrived."""

    id: UUID
    name: str
    size: int = Field(description="of the whole file, in bytes")
    offset: int = Field(description="where the next part begins, in bytes")
    file_id: UUID | None = Field(description="the file of the upload that it became; null until it is whole")


_PART = RequestBody(description="The bytes of the part.", content={STREAM: MediaType(schema=BINARY)}, required=True)
_ERRORS: dict[Any, Any] = {409: ErrorBody, 412: ErrorBody, 507: ErrorBody}


@api.after_request
def _name_protocol(response: Response) -> Response:
    if request.endpoint in _ENDPOINTS:
        response.headers["Tus-Resumable"] = VERSION
        response.headers["Tus-Version"] = VERSION
        if request.method == "OPTIONS":
            response.headers["Tus-Extension"] = EXTENSIONS
            response.headers["Tus-Max-Size"] = str(services().settings.max_request_bytes)
    return response


@api.post("/uploads/<uuid:upload_id>/tus", tags=TAGS, responses={201: LargeFileView, **_ERRORS})
def create_large_file(path: UploadPath, header: NewLargeFile) -> Response:
    """Announce a large file (tus: creation); its parts then go to the address in the header Location.

    With `sha256` or `slices`, the parts of the same file are used that came to this collection before.
    """
    _check(path, header)
    metadata = _metadata(header.upload_metadata or "")
    (name,) = decoded([metadata.get("filename", b"")])
    file = Announced(name, header.upload_length, _hash(metadata, "sha256"), _hash(metadata, "slices"))
    return _answer(upload_parts.begin_large(current_actor(), path.upload_id, file), path.upload_id, 201)


def _check(path: UploadPath, header: TusHeader) -> None:
    # what is hidden gives 404, whatever else is wrong
    upload_parts.require_change(current_actor(), path.upload_id)
    if header.tus_resumable is None:
        raise InvalidInput(f"Send the header Tus-Resumable: {VERSION}.", field="Tus-Resumable")
    if header.tus_resumable != VERSION:
        raise PreconditionFailed(f"Send the header Tus-Resumable: {VERSION}.")


def _metadata(text: str) -> dict[str, bytes]:
    pairs = (pair.strip().partition(" ") for pair in text.split(",") if pair.strip())
    return {name: base64.b64decode(value) for name, _, value in pairs}


def _hash(metadata: dict[str, bytes], name: str) -> str | None:
    value = metadata.get(name, b"").decode("ascii", "replace")
    if value and not _SHA256.fullmatch(value):
        raise InvalidInput(
            f"The {name} in Upload-Metadata must have 64 hexadecimal digits in lower case.", field="Upload-Metadata"
        )
    return value or None


def _answer(arrived: Arrived, upload_id: UUID, status: int) -> Response:
    view = LargeFileView(
        id=arrived.id, name=arrived.name, size=arrived.size, offset=arrived.offset, file_id=arrived.file_id
    )
    location = f"{PREFIX}/uploads/{upload_id}/tus/{arrived.id}"
    response = answer(view, status, location=location if status == 201 else None)
    response.headers["Upload-Offset"] = str(arrived.offset)
    response.headers["Upload-Length"] = str(arrived.size)
    return response


@api.get(
    "/uploads/<uuid:upload_id>/tus/<uuid:large_file_id>", tags=TAGS, responses={200: LargeFileView, 412: ErrorBody}
)
def get_large_file(path: LargeFilePath, header: TusHeader) -> Response:
    """Return how much of a large file arrived; HEAD gives the same in headers (Upload-Offset, Upload-Length)."""
    _check(path, header)
    return _answer(upload_parts.large_file(current_actor(), path.upload_id, path.large_file_id), path.upload_id, 200)


@api.patch(
    "/uploads/<uuid:upload_id>/tus/<uuid:large_file_id>",
    tags=TAGS,
    request_body=_PART,
    responses={204: None, **_ERRORS},
)
def append_part(path: LargeFilePath, header: PartHeader) -> Response:
    """Send the next part of a large file. If the connection breaks, what arrived stays: ask for the offset."""
    _check(path, header)
    if request.mimetype != STREAM:
        raise UnsupportedMediaType(f"Send the part as {STREAM}.")
    offset = upload_parts.append(
        current_actor(),
        path.upload_id,
        path.large_file_id,
        header.upload_offset,
        cast("BinaryIO", request.stream),
        request.content_length,
    )
    response = nothing()
    response.headers["Upload-Offset"] = str(offset)
    return response


@api.delete("/uploads/<uuid:upload_id>/tus/<uuid:large_file_id>", tags=TAGS, responses={204: None, 412: ErrorBody})
def abandon_large_file(path: LargeFilePath, header: TusHeader) -> Response:
    """Forget a large file, and delete what arrived of it (tus: termination)."""
    _check(path, header)
    upload_parts.abandon(current_actor(), path.upload_id, path.large_file_id)
    return nothing()
