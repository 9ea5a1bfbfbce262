"""Uploads that resume: open one, send files in several requests, close it, and read the outcome of each file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from flask import Response, request
from flask_openapi.models.data_type import DataType
from flask_openapi.models.media_type import MediaType
from flask_openapi.models.request_body import RequestBody
from flask_openapi.models.response import Response as DocumentedResponse
from flask_openapi.models.schema import Schema
from flask_openapi.utils import parse_body
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retllm.db.enums import FileStatus
from retllm.errors import InvalidInput, NotSent, Unsendable
from retllm.history.file_counts import OUTCOMES_COUNTED, PARTS_COUNTED
from retllm.history.job_views import RetriedJobView
from retllm.media.names import clean_name
from retllm.media.outcomes import FileOutcome, IncomingFile, ignored, not_sent, rejected
from retllm.uploads.offers import MAX_NAME, Offer
from retllm.uploads.receive import ReceivedFile
from retllm.uploads.views import FileView
from retllm_web.actions import upload_parts, uploads
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import PREFIX, api, refuse_other_parts, strictly
from retllm_web.api.collections import CollectionPath
from retllm_web.api.jobs import IdempotencyHeader, accepted
from retllm_web.api.spec import BINARY, ErrorBody, tags
from retllm_web.http import downloads
from retllm_web.http.auth import current_actor
from retllm_web.http.bodies import sent_files
from retllm_web.http.paging import PageQuery, cut

TAGS = tags("uploads")
MAX_ANNOUNCED = 1000
"""Files in one manifest."""
# more than there are statuses, since one may be repeated
_MAX_STATUSES = 20


class NewUpload(BaseModel):
    """An upload to open."""

    model_config = ConfigDict(extra="forbid")

    index: bool = Field(default=True, description="also index what arrives")
    texts: bool = Field(default=False, description="add the rows of a sheet that name no picture as texts")
    files: int = Field(default=0, ge=0, le=1 << 30, description="how many files are to come, if that is known")


class UploadPath(BaseModel):
    """The key of an upload, which is that of its job."""

    upload_id: UUID


class OpenUploadView(BaseModel):
    """An upload, and how far it is."""

    id: UUID = Field(description="also the key of its job")
    collection_id: UUID
    index: bool
    texts: bool
    closed_at: datetime | None = Field(description="when it stopped to take files; null while it is open")
    processed: bool = Field(description="whether every file has its outcome")
    arrived: int = Field(description="number of files that came, without clutter; not of their entries, pages and rows")
    counts: Mapping[FileStatus, int] = Field(description=OUTCOMES_COUNTED)
    parts: Mapping[FileStatus, Mapping[str, int]] = Field(description=PARTS_COUNTED)


class SendQuery(BaseModel):
    """How the names of files are written."""

    model_config = ConfigDict(extra="forbid")

    quoted: bool = Field(
        default=False,
        description="whether names are percent-encoded (UTF-8): in the headers of a form, `%22`, `%0D` and `%0A` "
        "are quotation marks and line breaks",
    )


class Receipt(BaseModel):
    """A file that arrived."""

    id: UUID
    name: str
    size: int = Field(description="in bytes")
    sha256: str | None = Field(description="null if the file was rejected or ignored without being stored")
    status: FileStatus
    error: str | None = Field(description="why it was rejected")
    remark: str | None = Field(description="why it was ignored")


class Receipts(BaseModel):
    """What arrived with one request."""

    files: list[Receipt]


class Manifest(BaseModel):
    """Files that may be sent."""

    model_config = ConfigDict(extra="forbid")

    files: list[Offer] = Field(min_length=1, max_length=MAX_ANNOUNCED)


class Need(StrEnum):
    """Whether a file must be sent."""

    KNOWN = "known"  # its bytes are here: in this upload or another one, or in the collection, unless as a text
    SEND = "send"  # its bytes are not here


class Needs(BaseModel):
    """What to send of a manifest."""

    needs: list[Need] = Field(description="for each file of the manifest, in its order")


class ExpectedFiles(BaseModel):
    """Names of files that are to come."""

    model_config = ConfigDict(extra="forbid")

    first: int = Field(ge=0, le=1 << 30, description="place of the first name among all names of the upload, from 0")
    names: list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]] = Field(
        min_length=1, max_length=MAX_ANNOUNCED
    )


Reason = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class Closing(BaseModel):
    """How an upload ends."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason | None = Field(
        default=None, description="why expected files that did not come are not sent, and what to do about it"
    )


class UnsentFile(BaseModel):
    """A file that the sender leaves out, or files that it leaves out together."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]
    status: Literal["ignored", "rejected", "not_sent"] = Field(
        description="whether nobody misses it, it could not be read, or it was left out for another reason"
    )
    reason: Reason = Field(description="why, and what to do about it")
    count: int = Field(default=1, ge=1, le=1 << 30, description="how many files, if they are left out together")

    def outcome(self) -> FileOutcome:
        """Return its outcome."""
        name = clean_name(self.name)
        if self.status == "ignored":
            return ignored(name, self.reason, self.count)
        if self.status == "rejected":
            return rejected(name, Unsendable(self.reason), self.count)
        return not_sent(name, NotSent(self.reason), self.count)


class UnsentFiles(BaseModel):
    """Files that are never sent."""

    model_config = ConfigDict(extra="forbid")

    files: list[UnsentFile] = Field(min_length=1, max_length=MAX_ANNOUNCED)


class FileFilterQuery(BaseModel):
    """Which files to list."""

    model_config = ConfigDict(extra="forbid")

    status: list[FileStatus] = Field(
        default=[], max_length=_MAX_STATUSES, description="only files with this status; several may be given"
    )


class FileQuery(FileFilterQuery, PageQuery):
    """Which files to list, and the page."""


class FileList(BaseModel):
    """A page of the files of an upload, in the order in which they came."""

    files: list[FileView] = Field(description="files, entries of archives and rows of sheets")
    next: UUID | None = Field(description="pass as `after` to get the next page; null on the last page")


_FORM = RequestBody(
    description="A form with files.",
    content={
        "multipart/form-data": MediaType(
            schema=Schema(
                type=DataType.OBJECT,
                properties={"file": Schema(type=DataType.ARRAY, items=BINARY, minItems=1)},
                required=["file"],
                additionalProperties=False,
            )
        )
    },
)
_CSV = DocumentedResponse(
    description="One row for each file.", content={"text/csv": MediaType(schema=Schema(type=DataType.STRING))}
)


def form_files(*, quoted: bool = False) -> list[IncomingFile]:
    """Return the files of the form of this request; ``quoted`` like :func:`sent_files`.

    Raises:
        InvalidInput: there is none, or another part.
    """
    refuse_other_parts(form=set(), files={"file"})
    files = sent_files(quoted=quoted)
    if not files:
        raise InvalidInput("The form contains no file.", fields=[{"field": "file", "message": "missing"}])
    return files


@api.post("/collections/<uuid:collection_id>/uploads", tags=TAGS, responses={201: OpenUploadView, 409: ErrorBody})
def open_upload(path: CollectionPath, header: IdempotencyHeader, body: NewUpload) -> Response:
    """Open an upload: it is a job, and takes files in any number of requests until it is closed.

    What arrives is processed at once. An upload that gets nothing for a while is closed.
    """
    body = strictly(NewUpload, request.get_data())
    job = uploads.begin(
        current_actor(),
        path.collection_id,
        index=body.index,
        texts=body.texts,
        expected=body.files,
        idempotency_key=header.idempotency_key,
    )
    return answer(_view(job.id), 201, location=f"{PREFIX}/uploads/{job.id}")


def _view(upload_id: UUID) -> OpenUploadView:
    job, state, arrived = upload_parts.state(current_actor(), upload_id)
    return OpenUploadView(
        id=job.id,
        collection_id=job.one_collection,
        index=job.params["index"],
        texts=job.params["texts"],
        closed_at=state.closed_at,
        processed=state.processed,
        arrived=arrived,
        counts=state.counts,
        parts=state.parts,
    )


@api.get("/uploads/<uuid:upload_id>", tags=TAGS, responses={200: OpenUploadView})
def get_upload(path: UploadPath) -> Response:
    """Return an upload: whether it is open, and how many files have which status."""
    return answer(_view(path.upload_id))


_CLOSING, _CLOSING_SCHEMAS = parse_body(Closing)
api.components_schemas.update(_CLOSING_SCHEMAS)


@api.post(
    "/uploads/<uuid:upload_id>/close",
    tags=TAGS,
    request_body=RequestBody(description="May be left out.", content=_CLOSING, required=False),
    responses={200: OpenUploadView},
)
def close_upload(path: UploadPath) -> Response:
    """Take no more files; then captions are applied and, if asked for, what arrived is indexed.

    Expected files that did not come are listed as not sent.
    """
    closing = strictly(Closing, request.get_data() or "{}")
    uploads.close(current_actor(), path.upload_id, reason=closing.reason)
    return answer(_view(path.upload_id))


@api.post("/uploads/<uuid:upload_id>/expected", tags=TAGS, responses={204: None, 409: ErrorBody})
def expect_files(path: UploadPath, body: ExpectedFiles) -> Response:
    """Say which files are to come, with the first request or soon: those that never come are listed as not sent.

    That holds whoever ends the upload: a client that says why, or the server when the client is gone.
    """
    body = strictly(ExpectedFiles, request.get_data())
    upload_parts.expect(current_actor(), path.upload_id, body.first, body.names)
    return nothing()


@api.post("/uploads/<uuid:upload_id>/known", tags=TAGS, responses={200: Needs, 409: ErrorBody})
def announce_files(path: UploadPath, body: Manifest) -> Response:
    """Say which files need not be sent: those that this or another upload has, and what the collection has.

    That is pictures, documents and films, which become duplicates of the upload without its bytes; captions of the
    upload find them.
    """
    body = strictly(Manifest, request.get_data())
    found = upload_parts.known(current_actor(), path.upload_id, body.files)
    return answer(Needs(needs=[Need.KNOWN if known else Need.SEND for known in found]))


@api.post("/uploads/<uuid:upload_id>/unsent", tags=TAGS, responses={204: None, 409: ErrorBody})
def note_unsent_files(path: UploadPath, body: UnsentFiles) -> Response:
    """Note files that are never sent, and why, each name once: so the upload lists what became of every file.

    A file that arrives after all, for example with a request that was given up, takes the place of its note.
    """
    body = strictly(UnsentFiles, request.get_data())
    upload_parts.note_unsent(current_actor(), path.upload_id, [file.outcome() for file in body.files])
    return nothing()


@api.post("/uploads/<uuid:upload_id>/files", tags=TAGS, request_body=_FORM, responses={202: Receipts, 409: ErrorBody})
def send_files(path: UploadPath, query: SendQuery) -> Response:
    """Send files to an open upload; the answer has a receipt for each. Those that arrive before an error stay."""
    actor = current_actor()
    # check before reading gigabytes
    upload_parts.require_change(actor, path.upload_id)
    received = uploads.add(actor, path.upload_id, form_files(quoted=query.quoted))
    return answer(Receipts(files=[receipt(file) for file in received]), 202)


def receipt(file: ReceivedFile) -> Receipt:
    """Return the receipt for a file."""
    columns = file.columns()
    return Receipt(
        id=file.id,
        name=file.name,
        size=file.size,
        sha256=file.sha256,
        status=columns["status"],
        error=columns.get("error"),
        remark=columns.get("remark"),
    )


@api.get("/uploads/<uuid:upload_id>/files", tags=TAGS, responses={200: FileList})
def list_upload_files(path: UploadPath, query: FileQuery) -> Response:
    """List what became of the files of an upload, in the order in which they came, with entries and rows."""
    rows = upload_parts.files(current_actor(), path.upload_id, query.status, after=query.after, limit=query.limit + 1)
    page, following = cut(rows, query.limit)
    return answer(FileList(files=page, next=following))


@api.get("/uploads/<uuid:upload_id>/files.csv", tags=TAGS, responses={200: _CSV})
def export_upload_files(path: UploadPath, query: FileFilterQuery) -> Response:
    """Export what became of the files of an upload as CSV."""
    return downloads.outcomes(path.upload_id, upload_parts.every_file(current_actor(), path.upload_id, query.status))


@api.post("/uploads/<uuid:upload_id>/retry", tags=TAGS, responses={202: RetriedJobView, 409: ErrorBody})
def retry_upload(path: UploadPath) -> Response:
    """Try rejected files again whose bytes are kept, for example after a limit was raised."""
    return accepted(upload_parts.retry_rejected(current_actor(), path.upload_id))
