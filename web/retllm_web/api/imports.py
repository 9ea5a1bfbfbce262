"""Imports: files that lie where the platform reaches them need not be sent."""

from __future__ import annotations

from typing import Annotated

from flask import Response, request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retllm.history.job_views import JobView
from retllm.imports.submit import ImportRequest
from retllm_web.actions import imports
from retllm_web.api.blueprint import api, strictly
from retllm_web.api.collections import CollectionPath
from retllm_web.api.jobs import IdempotencyHeader, accepted
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor

TAGS = tags("uploads")
MAX_ADDRESS = 4096


class NewImport(BaseModel):
    """What to import."""

    model_config = ConfigDict(extra="forbid")

    address: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ADDRESS)] = Field(
        description="a folder of the machines on which workers run, or `s3://BUCKET/PREFIX/`, in a place of "
        "RETLLM_IMPORT_ROOTS"
    )
    reference: bool = Field(
        default=False, description="leave the originals where they lie, and keep only what is made of them"
    )
    index: bool = Field(default=True, description="also index what arrives")
    texts: bool = Field(default=False, description="add the rows of a sheet that name no picture as texts")
    retry_rejected: bool = Field(
        default=False, description="also take files that were rejected before and have not changed"
    )


@api.post("/collections/<uuid:collection_id>/imports", tags=TAGS, responses={202: JobView, 409: ErrorBody})
def import_files(path: CollectionPath, header: IdempotencyHeader, body: NewImport) -> Response:
    """Import a folder or a prefix of a bucket, with all in it, or what is new in it since. For administrators.

    The job is an upload, which lists what became of every file, at `/uploads/{id}/files`.
    """
    body = strictly(NewImport, request.get_data())
    asked = ImportRequest(**body.model_dump())
    return accepted(imports.begin(current_actor(), path.collection_id, asked, idempotency_key=header.idempotency_key))
