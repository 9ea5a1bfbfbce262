"""Items: upload, list, read, delete, and their pictures."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal
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
from retllm.db.tables import Collection, Item
from retllm.filters import MAX_CHARS, parse
from retllm.identity.access import Right, collection_for, gets_originals
from retllm.media.ingest import FileOutcome
from retllm_web.actions import contents, item_lists
from retllm_web.actions.item_changes import ItemChange
from retllm_web.actions.item_views import ItemView, item_view, item_views, look_at_original, reference_keys
from retllm_web.api.answers import answer, nothing
from retllm_web.api.blueprint import api, strictly
from retllm_web.api.collections import CollectionPath
from retllm_web.api.spec import BINARY, PICTURE, RENDITION, WHOLE, ErrorBody, tags
from retllm_web.api.uploads import form_files
from retllm_web.http import pictures
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import PageQuery, optional
from retllm_web.http.services import services

TAGS = tags("items")


class NewText(BaseModel):
    """A text to add."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, StringConstraints(min_length=1)]
    name: str | None = Field(default=None, description="default: the beginning of the text")


class NewTexts(BaseModel):
    """Texts to add; pictures are sent as a form."""

    model_config = ConfigDict(extra="forbid")

    items: list[NewText] = Field(min_length=1, max_length=10_000)


class UploadQuery(BaseModel):
    """Options of an upload."""

    model_config = ConfigDict(extra="forbid")

    index: bool = Field(default=True, description="also index what was added or updated")
    texts: bool = Field(default=False, description="add the rows of a sheet that name no picture as texts")
    wait: float = Field(
        default=20, ge=0, le=60, description="how long to wait for the outcomes of the files, in seconds"
    )


class UploadView(BaseModel):
    """The result of an upload."""

    processed: bool = Field(description="whether all outcomes are known; otherwise ask for them later by the job")
    outcomes: list[FileOutcome] = Field(description="one for each file, entry, page, frame and row of a sheet")
    added: int
    updated: int
    duplicate: int
    ignored: int = Field(description="clutter, one outcome for each folder, and captions beside which another counts")
    rejected: int
    read: int = Field(description="sheets, archives and files of several pictures, whose content has outcomes")
    job_id: UUID | None = Field(
        description="the job that processes and indexes the files; of texts the index job, if anything is new"
    )


class ItemFilterQuery(BaseModel):
    """Filters of items, all optional."""

    model_config = ConfigDict(extra="forbid")

    kind: ItemKind | None = optional("only items of this kind")
    state: item_lists.IndexState | None = optional(
        "only items that are indexed, not yet indexed, or whose embedding failed"
    )
    q: Annotated[str, StringConstraints(max_length=200)] | None = optional(
        "only items with this text in name, text or caption; capital letters and accents do not count"
    )
    filter: Annotated[str, StringConstraints(max_length=MAX_CHARS)] | None = optional(
        'only items that match, such as `taken >= 1998 and folder ~ "Italy/"`'
    )


class ItemQuery(ItemFilterQuery, PageQuery):
    """Which items to list."""

    sort: Literal["added", "-added", "name", "-name", "taken", "-taken"] = Field(
        default="added", description="by what to sort; `-` is for backwards. Items without a value come last"
    )


class ItemList(BaseModel):
    """A page of items."""

    items: list[ItemView]
    next: UUID | None = Field(
        description="pass as `after` to get the next page; null on the last page. With filters, a page may have few "
        "items or none although there are more pages"
    )


class ItemPath(BaseModel):
    """The key of an item."""

    item_id: UUID


_JSON, _SCHEMAS = parse_body(NewTexts)
api.components_schemas.update(_SCHEMAS)
_BODY = RequestBody(
    description="A form with files (pictures, PDFs, films, .txt, captions as .csv or .jsonl, .zip or .tar of all) or "
    "texts as JSON.",
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


@api.post(
    "/collections/<uuid:collection_id>/items",
    tags=TAGS,
    request_body=_BODY,
    responses={200: UploadView, 202: UploadView},
)
def upload_items(path: CollectionPath, query: UploadQuery) -> Response:
    """Add pictures, texts, captions and archives. Rejected files are listed with the reason; all others are added.

    Files are processed by a job. The answer is 200 with all outcomes if it has processed them within `wait` seconds,
    and 202 otherwise.
    """
    user = current_actor()
    with transaction(services().sessions) as session:
        # check before reading an upload of gigabytes
        collection_for(session, user, path.collection_id, Right.CHANGE)
    if request.mimetype == "multipart/form-data":
        result = contents.add_files(
            user, path.collection_id, form_files(), index=query.index, texts=query.texts, wait=query.wait
        )
    else:
        result = contents.add_texts(user, path.collection_id, _texts(), index=query.index)
    counts: Counter[str] = Counter()
    for outcome in result.outcomes:
        counts[outcome.status] += outcome.count
    view = UploadView(
        processed=result.processed,
        outcomes=result.outcomes,
        added=counts["added"],
        updated=counts["updated"],
        duplicate=counts["duplicate"],
        ignored=counts["ignored"],
        rejected=counts["rejected"],
        read=counts["read"],
        job_id=result.job.id if result.job else None,
    )
    return answer(view, 200 if result.processed else 202)


def _texts() -> list[contents.Text]:
    asked = strictly(NewTexts, request.get_data() or "{}")
    return [contents.Text(text.text, text.name) for text in asked.items]


@api.get("/collections/<uuid:collection_id>/items", tags=TAGS, responses={200: ItemList})
def list_items(path: CollectionPath, query: ItemQuery) -> Response:
    """List the items of a collection."""
    settings = services().settings
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), path.collection_id)
        filters = item_lists.ItemFilters(query.kind, query.state, query.q or "", parse(query.filter or ""))
        order = item_lists.Order.of(query.sort)
        page = item_lists.page(
            session, collection, settings, filters, order=order, after=query.after, limit=query.limit
        )
        return answer(ItemList(items=item_views(session, page.items), next=page.next))


@api.get("/items/<uuid:item_id>", tags=TAGS, responses={200: ItemView})
def get_item(path: ItemPath) -> Response:
    """Return one item."""
    with transaction(services().sessions) as session:
        item, indexed = contents.item_for(session, current_actor(), path.item_id, services().settings)
        view, keys = item_view(session, item, indexed), reference_keys(session, item)
    return answer(look_at_original(view, keys))


@api.patch("/items/<uuid:item_id>", tags=TAGS, responses={200: ItemView, 409: ErrorBody})
def change_item(path: ItemPath, body: ItemChange) -> Response:
    """Change an item: only what the request has. A changed text or caption is embedded by the next index job."""
    body = strictly(type(body), request.get_data())
    contents.change(current_actor(), path.item_id, body.given())
    with transaction(services().sessions) as session:
        found = contents.item_for(session, current_actor(), path.item_id, services().settings)
        return answer(item_view(session, *found))


@api.delete("/items/<uuid:item_id>", tags=TAGS, responses={204: None})
def remove_item(path: ItemPath) -> Response:
    """Move an item to the trash, from which it can be restored; earlier results still show its name."""
    contents.delete(current_actor(), path.item_id)
    return nothing()


@api.get("/items/<uuid:item_id>/thumbnail", tags=TAGS, responses={200: RENDITION, 304: None})
def get_thumbnail(path: ItemPath) -> Response:
    """Return a thumbnail of the item's picture, as WebP; to those who may restore it also if it is in the trash."""
    item = _pictured(path.item_id, trashed=True)
    return pictures.send_small(item.thumbnail_key or "", f"{item.content_sha256}-thumbnail")


@api.get("/items/<uuid:item_id>/rendition", tags=TAGS, responses={200: RENDITION, 304: None})
def get_rendition(path: ItemPath) -> Response:
    """Return the picture for display: JPEG or WebP, upright, without metadata, longer side at most 1600 pixels."""
    return pictures.send_item_rendition(_pictured(path.item_id))


@api.get("/items/<uuid:item_id>/picture", tags=TAGS, responses={200: PICTURE, 304: None})
def get_picture(path: ItemPath) -> Response:
    """Return the item's original picture, as an attachment.

    Who may not see where the items of the collection were made gets a copy without what the file says of itself:
    upright, as JPEG or WebP, in the size of working copies.
    """
    with transaction(services().sessions) as session:
        item = contents.pictured(session, current_actor(), path.item_id)
        is_original = gets_originals(session, current_actor(), session.get_one(Collection, item.collection_id))
    return pictures.send_item_picture(item, is_original=is_original)


@api.get("/items/<uuid:item_id>/source", tags=TAGS, responses={200: WHOLE, 304: None})
def get_item_source(path: ItemPath) -> Response:
    """Return the whole file that the item is a page or frame of, as an attachment.

    It is refused to who may not see where the items of the collection were made.
    """
    with transaction(services().sessions) as session:
        source = contents.source_of(session, current_actor(), path.item_id)
    return pictures.send_source(source)


def _pictured(item_id: UUID, *, trashed: bool = False) -> Item:
    with transaction(services().sessions) as session:
        return contents.pictured(session, current_actor(), item_id, trashed=trashed)
