"""Items: upload, list, read, delete, and their pictures."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, BinaryIO, cast
from uuid import UUID

from flask import Response, request
from flask_openapi.models.data_type import DataType
from flask_openapi.models.media_type import MediaType
from flask_openapi.models.request_body import RequestBody
from flask_openapi.models.schema import Schema
from flask_openapi.utils import parse_body
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from retllm.db.enums import ItemKind
from retllm.db.session import transaction
from retllm.db.tables import Item
from retllm.errors import InvalidInput
from retllm.identity.access import Right, collection_for
from retllm.media.ingest import FileOutcome, IncomingFile
from retllm_web.actions import contents
from retllm_web.actions.item_views import ItemView, item_view
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import api, refuse_other_parts, strictly
from retllm_web.api.collections import CollectionPath
from retllm_web.api.spec import BINARY, PICTURE, RENDITION, tags
from retllm_web.http import pictures
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import PageQuery, optional
from retllm_web.http.services import services

TAGS = tags("items")


class NewText(BaseModel):
    """A text to take in."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, StringConstraints(min_length=1)]
    name: str | None = Field(default=None, description="without one the text goes by its beginning")


class NewTexts(BaseModel):
    """Texts to take in; pictures come as a form."""

    model_config = ConfigDict(extra="forbid")

    items: list[NewText] = Field(min_length=1, max_length=10_000)


class UploadQuery(BaseModel):
    """What to do with an upload."""

    model_config = ConfigDict(extra="forbid")

    index: bool = Field(default=True, description="also submit an index job if anything was added or updated")


class UploadView(BaseModel):
    """What came of an upload."""

    outcomes: list[FileOutcome] = Field(description="one for each picture, text or row of captions")
    added: int
    updated: int
    duplicate: int
    rejected: int
    job_id: UUID | None = Field(description="the index job that follows, if any")


class ItemQuery(PageQuery):
    """Which items to list."""

    kind: ItemKind | None = optional("only items of this kind")
    state: contents.IndexState | None = optional("only items that are indexed, that are not yet, or that could not be")
    q: Annotated[str, StringConstraints(max_length=200)] | None = optional(
        "only items with this in their name, text or caption, in any case"
    )


class ItemList(BaseModel):
    """A page of items, in the order they came."""

    items: list[ItemView]
    next: UUID | None = Field(description="send as `after` for the next page; null at the end")


class ItemPath(BaseModel):
    """The key of an item."""

    item_id: UUID


_JSON, _SCHEMAS = parse_body(NewTexts)
api.components_schemas.update(_SCHEMAS)
_BODY = RequestBody(
    description="A form of files: pictures, .txt, captions as .csv or .jsonl, .zip of all of these; or texts as JSON.",
    content={
        "multipart/form-data": MediaType(
            schema=Schema(
                type=DataType.OBJECT,
                properties={"file": Schema(type=DataType.ARRAY, items=BINARY, minItems=1)},
                required=["file"],
                additionalProperties=False,
            )
        ),
        **_JSON,
    },
)


@api.post("/collections/<uuid:collection_id>/items", tags=TAGS, request_body=_BODY, responses={200: UploadView})
def upload_items(path: CollectionPath, query: UploadQuery) -> Response:
    """Take in pictures, texts, captions and archives. What is refused is named with its reason; the rest goes in."""
    user = current_actor()
    with transaction(services().sessions) as session:
        # before the upload is read: gigabytes for nothing help nobody
        collection_for(session, user, path.collection_id, Right.CHANGE)
    taken = contents.take(user, path.collection_id, files=_files(), texts=_texts(), index=query.index)
    counts = Counter(outcome.status for outcome in taken.outcomes)
    return answer(
        UploadView(
            outcomes=taken.outcomes,
            added=counts["added"],
            updated=counts["updated"],
            duplicate=counts["duplicate"],
            rejected=counts["rejected"],
            job_id=taken.job.id if taken.job else None,
        )
    )


def _files() -> list[IncomingFile]:
    if request.mimetype != "multipart/form-data":
        return []
    refuse_other_parts(form=set(), files={"file"})
    # a browser's empty file field is a part without name and content
    uploads = [part for part in request.files.getlist("file") if part.filename]
    if not uploads:
        raise InvalidInput("No file came with this form.", fields=[{"field": "file", "message": "missing"}])
    return [IncomingFile(part.filename or "", cast("BinaryIO", part.stream)) for part in uploads]


def _texts() -> list[contents.Text]:
    if request.mimetype == "multipart/form-data":
        return []
    asked = strictly(NewTexts, request.get_data() or "{}")
    return [contents.Text(one.text, one.name) for one in asked.items]


@api.get("/collections/<uuid:collection_id>/items", tags=TAGS, responses={200: ItemList})
def list_items(path: CollectionPath, query: ItemQuery) -> Response:
    """The items of a collection, in the order they came."""
    settings = services().settings
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), path.collection_id)
        filters = contents.ItemFilters(query.kind, query.state, query.q or "")
        rows = contents.page(session, collection, settings, filters, after=query.after, limit=query.limit + 1)
    shown = [item_view(item, indexed) for item, indexed in rows[: query.limit]]
    return answer(ItemList(items=shown, next=shown[-1].id if len(rows) > query.limit else None))


@api.get("/items/<uuid:item_id>", tags=TAGS, responses={200: ItemView})
def get_item(path: ItemPath) -> Response:
    """One item."""
    with transaction(services().sessions) as session:
        return answer(item_view(*contents.item_for(session, current_actor(), path.item_id, services().settings)))


@api.delete("/items/<uuid:item_id>", tags=TAGS, responses={204: None})
def remove_item(path: ItemPath) -> Response:
    """Delete an item's content; old results still name it."""
    contents.delete(current_actor(), path.item_id)
    return nothing()


@api.get("/items/<uuid:item_id>/thumbnail", tags=TAGS, responses={200: RENDITION, 304: None})
def get_thumbnail(path: ItemPath) -> Response:
    """A small version of the item's picture, as WebP."""
    item = _pictured(path.item_id)
    return pictures.send_small(item.thumbnail_key or "", f"{item.content_sha256}-thumbnail")


@api.get("/items/<uuid:item_id>/rendition", tags=TAGS, responses={200: RENDITION, 304: None})
def get_rendition(path: ItemPath) -> Response:
    """The item's picture to be shown: as WebP, upright, without metadata, its longer side 1600 pixels at most."""
    item = _pictured(path.item_id)
    return pictures.send_rendition(item.picture_key or "", item.content_sha256)


@api.get("/items/<uuid:item_id>/picture", tags=TAGS, responses={200: PICTURE, 304: None})
def get_picture(path: ItemPath) -> Response:
    """The item's picture as it was uploaded, to be saved."""
    item = _pictured(path.item_id)
    return pictures.send_original(
        item.picture_key or "", item.content_sha256, item.name, media_type=item.media_type, size=item.size_bytes
    )


def _pictured(item_id: UUID) -> Item:
    with transaction(services().sessions) as session:
        return contents.pictured(session, current_actor(), item_id)
