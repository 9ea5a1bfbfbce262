"""Searches: submit, read the result, get the query picture."""

from __future__ import annotations

from typing import Any, BinaryIO, TypeVar, cast
from uuid import UUID

import sqlalchemy as sa
from flask import Request, Response, request
from flask_openapi.models.data_type import DataType
from flask_openapi.models.encoding import Encoding
from flask_openapi.models.media_type import MediaType
from flask_openapi.models.reference import Reference
from flask_openapi.models.request_body import RequestBody
from flask_openapi.models.schema import Schema
from flask_openapi.utils import parse_body
from pydantic import BaseModel, RootModel

from retllm.db.searches import Search
from retllm.db.session import transaction
from retllm.errors import InvalidInput, NotFound
from retllm.history.job_views import JobView
from retllm.identity.access import gets_originals, job_for
from retllm.media import copies
from retllm.search import coarse
from retllm.search.request import SearchRequest, SeveralRequest
from retllm.search.results import SearchView
from retllm.search.views import search_view, trace_of
from retllm_web.actions import likeness, submissions
from retllm_web.actions.submissions import QueryPicture
from retllm_web.api.answers import answer
from retllm_web.api.blueprint import api, refuse_other_parts, strictly
from retllm_web.api.collections import CollectionPath
from retllm_web.api.jobs import IdempotencyHeader, accepted
from retllm_web.api.spec import PICTURE, RENDITION, ErrorBody, tags
from retllm_web.http import pictures
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services

TAGS = tags("searches")

Query = TypeVar("Query", bound=SearchRequest)


def _body(model: type[SearchRequest], *, required: bool) -> RequestBody:
    """Return the description of the body of a search: JSON, or a form with a picture and that JSON."""
    json, schemas = parse_body(model)
    api.components_schemas.update(schemas)
    optional = "" if required else "optional "
    return RequestBody(
        description=f"The query as JSON; with a picture, a form whose {optional}part `query` contains that JSON.",
        content={
            **json,
            "multipart/form-data": MediaType(
                schema=Schema(
                    type=DataType.OBJECT,
                    properties={
                        "picture": Schema(type=DataType.STRING, format="binary", description="the query picture"),
                        "query": Reference(**{"$ref": f"#/components/schemas/{model.__name__}"}),
                    },
                    required=["query"] if required else None,
                    additionalProperties=False,
                ),
                encoding={"query": Encoding(contentType="application/json")},
            ),
        },
    )


class SearchPath(BaseModel):
    """The key of a search, which is also the key of its job."""

    search_id: UUID


class CandidatePath(SearchPath):
    """A candidate of a search, by the key of its item."""

    item_id: UUID


class TraceView(RootModel[dict[str, Any]]):
    """What the model computed at each layer when it scored one candidate."""


@api.post(
    "/collections/<uuid:collection_id>/searches",
    tags=TAGS,
    request_body=_body(SearchRequest, required=False),
    responses={202: JobView, 409: ErrorBody},
)
def submit_search(path: CollectionPath, header: IdempotencyHeader) -> Response:
    """Search a collection by a text, a picture, both, or an example item; the result is at /searches/{job id}."""
    query, picture = _query_of(request, SearchRequest)
    query, picture = likeness.resolve(current_actor(), query, picture)
    view = submissions.search(
        current_actor(), path.collection_id, query, picture=picture, idempotency_key=header.idempotency_key
    )
    return accepted(view)


@api.post(
    "/searches", tags=TAGS, request_body=_body(SeveralRequest, required=True), responses={202: JobView, 409: ErrorBody}
)
def submit_search_of_several(header: IdempotencyHeader) -> Response:
    """Search several collections together, or all; like a search of one, and each result names its collection."""
    query, picture = _query_of(request, SeveralRequest)
    query, picture = likeness.resolve(current_actor(), query, picture)
    key = header.idempotency_key
    return accepted(submissions.search_of_several(current_actor(), query, picture=picture, idempotency_key=key))


def _query_of(request: Request, model: type[Query]) -> tuple[Query, QueryPicture | None]:
    """Return the query of this request, and its picture if it has one."""
    if request.mimetype != "multipart/form-data":
        return strictly(model, request.get_data() or "{}"), None
    refuse_other_parts(form={"query"}, files={"picture", "query"}, once=True)
    query = strictly(model, request.form.get("query") or _text_of_file(request, "query") or "{}")
    upload = request.files.get("picture")
    return query, cast("BinaryIO", upload.stream) if upload else None


def _text_of_file(request: Request, name: str) -> bytes | None:
    """Return the content of a file part; some clients send JSON parts as files."""
    part = request.files.get(name)
    if part is None:
        return None
    limit = services().settings.max_text_chars * 6 + (1 << 16)
    text = part.stream.read(limit + 1)
    if len(text) > limit:
        raise InvalidInput("The part `query` is too long.", fields=[{"field": name, "message": "too long"}])
    return text


@api.get("/searches/<uuid:search_id>", tags=TAGS, responses={200: SearchView})
def get_search(path: SearchPath) -> Response:
    """Return a search and its candidates in order; `provisional` until the final order is stored."""
    with transaction(services().sessions) as session:
        return answer(search_view(session, path.search_id, services().settings, actor=current_actor()))


@api.get("/searches/<uuid:search_id>/candidates/<uuid:item_id>/trace", tags=TAGS, responses={200: TraceView})
def get_trace(path: CandidatePath) -> Response:
    """Return the trace of one candidate, if the search was submitted with `trace`."""
    with transaction(services().sessions) as session:
        return answer(TraceView(trace_of(session, path.search_id, path.item_id, actor=current_actor())))


@api.get("/searches/<uuid:search_id>/picture", tags=TAGS, responses={200: PICTURE, 304: None})
def get_query_picture(path: SearchPath) -> Response:
    """Return the original query picture of a search, as an attachment.

    Who may not see where the items of the collection were made gets a copy without what the file says of itself.
    """
    key, etag = _query_picture(path.search_id)
    with transaction(services().sessions) as session:
        among = coarse.collections_of(session, job_for(session, current_actor(), path.search_id))
        is_original = all(gets_originals(session, current_actor(), one) for one in among)
    if not is_original:
        copy = pictures.plain_copy(key, etag, copies.key_beside(key, services().settings))
        return pictures.send_plain_copy(copy, f"query-{path.search_id}")
    return pictures.send_original(key, etag, f"query-{path.search_id}")


@api.get("/searches/<uuid:search_id>/rendition", tags=TAGS, responses={200: RENDITION, 304: None})
def get_query_rendition(path: SearchPath) -> Response:
    """Return the query picture for display: WebP, upright, without metadata, longer side at most 1600 pixels."""
    return pictures.send_query_rendition(*_query_picture(path.search_id))


@api.get("/searches/<uuid:search_id>/thumbnail", tags=TAGS, responses={200: RENDITION, 304: None})
def get_query_thumbnail(path: SearchPath) -> Response:
    """Return a thumbnail of the query picture, as WebP."""
    return pictures.send_query_thumbnail(*_query_picture(path.search_id))


def _query_picture(search_id: UUID) -> tuple[str, str]:
    """Return the storage key of the query picture, and its ETag."""
    with transaction(services().sessions) as session:
        job_for(session, current_actor(), search_id)
        row = session.execute(
            sa.select(Search.query_picture_key, Search.query_picture_sha256).where(Search.id == search_id)
        ).first()
    if row is None or row[0] is None:
        raise NotFound("This search has no picture.")
    return row[0], row[1] or str(search_id)
