"""The text in the pictures of a collection: let a job read it, and tell how far it is."""

from __future__ import annotations

from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from retllm.db.session import transaction
from retllm.history.job_views import JobView
from retllm.identity.access import collection_for
from retllm.ocr.views import state_of
from retllm_web.actions import ocr
from retllm_web.actions.ocr import OcrView
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import api
from retllm_web.api.collections import CollectionPath
from retllm_web.api.jobs import IdempotencyHeader, accepted
from retllm_web.api.spec import ErrorBody, tags
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services

TAGS = tags("items")


class OcrQuery(BaseModel):
    """Which pictures are read."""

    model_config = ConfigDict(extra="forbid")

    again: bool = Field(default=False, description="read all pictures, and not only those that nobody has read")


@api.post("/collections/<uuid:collection_id>/ocr", tags=TAGS, responses={202: JobView, 409: ErrorBody})
def read_text(path: CollectionPath, query: OcrQuery, header: IdempotencyHeader) -> Response:
    """Read the text in the pictures of a collection; searches for words find it, see `text_in_picture` of an item."""
    key = header.idempotency_key
    return accepted(ocr.read(current_actor(), path.collection_id, again=query.again, idempotency_key=key))


@api.get("/collections/<uuid:collection_id>/ocr", tags=TAGS, responses={200: OcrView})
def get_ocr(path: CollectionPath) -> Response:
    """Return how far the text in the pictures of a collection is read."""
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), path.collection_id)
        return answer(ocr.ocr_view(state_of(session, collection)))
