"""Submission of a search, from the search page or from any other page."""

from __future__ import annotations

from typing import BinaryIO, Literal, cast
from uuid import UUID

import sqlalchemy as sa
from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.many import one_of
from retllm.db.session import transaction
from retllm.db.tables import Collection
from retllm.errors import Conflict, InvalidInput, MediaRejected, NotFound, RetllmError, TooLarge
from retllm.identity.access import visible_collections
from retllm_web.actions import likeness, submissions
from retllm_web.actions.submissions import EarlierPicture, QueryPicture
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, wants_fragment
from retllm_web.pages.search_form import SearchForm, collections_of, request_of, several_of
from retllm_web.pages.search_page import picture_key, render_search_page


@pages.post("/search")
def search_anywhere() -> ResponseReturnValue:
    """Submit a search of the collections that the form names, and redirect to its job."""
    form = SearchForm.posted()
    collections = collections_of(form)
    if not collections:
        form.errors["collection"] = "Choose the collection to search."
        return _refused(form, None, InvalidInput.http_status)
    gone = [] if isinstance(collections, str) else _gone(collections)
    if gone:
        # deleted or made private while the form was open; keep the input for other collections
        form.values["also"] = [key for key in form.values["also"] if key not in gone]
        form.errors["collection"] = (
            "This collection is no longer available. Choose another one."
            if len(collections) == 1
            else "Some of these collections are no longer available. Choose again."
        )
        return _refused(form, None, NotFound.http_status)
    return _submit(form, collections)


def _gone(keys: list[UUID]) -> list[str]:
    """Return those collections that this account may not see."""
    seen = sa.select(Collection.id).where(one_of(Collection.id, keys), visible_collections(current_actor()))
    with transaction(services().sessions) as session:
        return [str(key) for key in set(keys).difference(session.scalars(seen))]


@pages.post("/collections/<uuid:collection_id>/search")
def search(collection_id: UUID) -> ResponseReturnValue:
    """Submit a search of this collection and redirect to its job."""
    return _submit(SearchForm.posted(), [collection_id])


def _submit(form: SearchForm, collections: list[UUID] | Literal["all"]) -> ResponseReturnValue:
    try:
        request = several_of(request_of(form), collections)
        asked, picture = likeness.resolve(current_actor(), request, _picture(form))
        job = submissions.search_of_several(current_actor(), asked, picture=picture)
    except RetllmError as error:
        if error.http_status in (401, 403, 404) or error.http_status >= 500:
            raise
        form.refuse(error, otherwise=_field_of(error))
        return _refused(form, None if isinstance(collections, str) else collections[0], error.http_status)
    address = url_for("pages.job", job_id=job.id)
    # a script follows the location itself, so that a rejected form keeps its picture
    return ("", 201, {"Location": address}) if wants_fragment() else redirect(address)


def _field_of(error: RetllmError) -> str:
    """Return the field that shows an error which names none."""
    if isinstance(error, Conflict) or error.detail.get("field") == "collections":
        return "collection"
    return "picture" if isinstance(error, MediaRejected | TooLarge) else "text"


def _refused(form: SearchForm, collection_id: UUID | None, status: int) -> ResponseReturnValue:
    form.widen()
    upload = request.files.get("picture")
    # a page cannot fill a file field; the script keeps the file
    form.picture_lost = upload is not None and bool(upload.filename)
    return render_search_page(form, collection_id, status)


def _picture(form: SearchForm) -> QueryPicture | None:
    """Return the uploaded picture, else the picture of the earlier search if it is to be used again."""
    upload = request.files.get("picture")
    if upload is not None and upload.filename:
        return cast("BinaryIO", upload.stream)
    earlier = key_or_none(form.text("again"), "search")
    if earlier is None:
        return None
    with transaction(services().sessions) as session:
        key = picture_key(session, earlier)
    return EarlierPicture(key, earlier) if key else None
