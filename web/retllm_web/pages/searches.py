"""Submission of a search, from the search page or from any other page."""

from __future__ import annotations

from typing import BinaryIO, cast
from uuid import UUID

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.session import transaction
from retllm.errors import Conflict, InvalidInput, MediaRejected, NotFound, RetllmError, TooLarge
from retllm.identity.access import collection_for
from retllm_web.actions import likeness, submissions
from retllm_web.actions.submissions import EarlierPicture, QueryPicture
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, wants_fragment
from retllm_web.pages.search_form import SearchForm, request_of
from retllm_web.pages.search_page import picture_key, render_search_page


@pages.post("/search")
def search_anywhere() -> ResponseReturnValue:
    """Submit a search of the collection that the form names, and redirect to its job."""
    form = SearchForm.posted()
    collection_id = key_or_none(form.text("collection"), "collection")
    if collection_id is None:
        form.errors["collection"] = "Choose the collection to search."
        return _refused(form, None, InvalidInput.http_status)
    try:
        with transaction(services().sessions) as session:
            collection_for(session, current_actor(), collection_id)
    except NotFound as error:
        # it was deleted or made private while the form was open; keep the input for another collection
        form.errors["collection"] = "This collection is no longer available. Choose another one."
        return _refused(form, None, error.http_status)
    return _submit(form, collection_id)


@pages.post("/collections/<uuid:collection_id>/search")
def search(collection_id: UUID) -> ResponseReturnValue:
    """Submit a search of this collection and redirect to its job."""
    return _submit(SearchForm.posted(), collection_id)


def _submit(form: SearchForm, collection_id: UUID) -> ResponseReturnValue:
    try:
        asked, picture = likeness.resolve(current_actor(), request_of(form), _picture(form))
        job = submissions.search(current_actor(), collection_id, asked, picture=picture)
    except RetllmError as error:
        if error.http_status in (401, 403, 404) or error.http_status >= 500:
            raise
        form.refuse(error, otherwise=_field_of(error))
        return _refused(form, collection_id, error.http_status)
    address = url_for("pages.job", job_id=job.id)
    # a script follows the location itself, so that a rejected form keeps its picture
    return ("", 201, {"Location": address}) if wants_fragment() else redirect(address)


def _field_of(error: RetllmError) -> str:
    """Return the field that shows an error which names none."""
    if isinstance(error, Conflict):
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
    return EarlierPicture(key) if key else None
