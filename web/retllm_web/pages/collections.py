"""Collections: the list, one collection with its items and forms, and its actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from sqlalchemy.orm import Session

from retllm.db.enums import GOING_ON, OVER_JOBS, JobKind, Role, Stage
from retllm.db.jobs import Job
from retllm.db.session import transaction
from retllm.db.tables import DEFAULT_LANGUAGE, Collection
from retllm.db.vectors import usable_index
from retllm.errors import InvalidInput, RetllmError
from retllm.history.file_counts import file_counts
from retllm.history.job_views import JobView, job_view
from retllm.identity.access import Right, collection_for, right_in, sees_positions
from retllm.indexing.indexed import current_model, embedder_of
from retllm.indexing.vector_indexes import EXACT_LIMIT
from retllm.ocr.views import has_unread
from retllm.queue import pauses
from retllm.queue.pauses import Pause
from retllm.queue.routing import QUEUE_OF
from retllm.search.languages import languages
from retllm_web.actions import catalog, imports, item_lists, page_uploads, same_names, submissions
from retllm_web.actions.collection_views import CollectionChange, CollectionRequest, CollectionView, collection_views
from retllm_web.actions.item_lists import ItemPage
from retllm_web.actions.item_views import item_views
from retllm_web.actions.mosaic import mosaics
from retllm_web.http.auth import current_actor
from retllm_web.http.conditional import unchanged
from retllm_web.http.errors import invalid
from retllm_web.http.paging import cut, key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused, wants_fragment
from retllm_web.pages.facets import facets_shown
from retllm_web.pages.forms import Form
from retllm_web.pages.gallery import Size, rendering, shape
from retllm_web.pages.item_list import ItemListFilters
from retllm_web.pages.search_form import search_form
from retllm_web.pages.undo import flash_with_undo

_COLLECTIONS = 24
_ITEMS = 48


@pages.get("/collections")
def collections() -> ResponseReturnValue:
    """Show the collections that this account may see."""
    return _list(Form())


def _list(form: Form, status: int = 200) -> ResponseReturnValue:
    after = key_or_none(request.args.get("after"), "page")
    with transaction(services().sessions) as session:
        page, following = cut(catalog.page(session, current_actor(), after=after, limit=_COLLECTIONS + 1), _COLLECTIONS)
        found = collection_views(session, page)
        tiles = mosaics(session, {view.id: view.items for view in found})
        known = languages(session)
        newest = [view.last_job.id for view in found if view.last_job and view.last_job.kind is JobKind.UPLOAD]
        files = file_counts(session, newest) if newest else {}
    may_make = current_actor().role is not Role.VIEWER
    shown = {"collections": found, "tiles": tiles, "next": following, "after": after, "form": form, "languages": known}
    return render_template("collections.html", **shown, last_files=files, may_make=may_make), status


@pages.post("/collections")
def create_collection() -> ResponseReturnValue:
    """Create a collection and redirect to it."""
    form = Form.sent()
    try:
        if not form.text("name"):
            raise InvalidInput("Enter a name for the collection.", field="name")
        try:
            language = form.text("language") or DEFAULT_LANGUAGE
            asked = CollectionRequest(name=form.text("name"), description=form.text("description"), language=language)
        except ValidationError as error:
            raise invalid(error) from error
        with transaction(services().sessions) as session:
            created = catalog.create(session, current_actor(), asked.name, asked.description, asked.language)
    except RetllmError as error:
        form.refuse(error, otherwise="name")
        return _list(form, error.http_status)
    return redirect(url_for("pages.collection", collection_id=created.id))


@dataclass
class FormFeedback:
    """The result of a form of the collection's page, for showing the page again."""

    search: Form | None = None
    text: Form = field(default_factory=Form)
    importing: Form = field(default_factory=Form)
    upload_error: str | None = None
    status: int = 200


def collection_page(collection_id: UUID, feedback: FormFeedback | None = None) -> ResponseReturnValue:
    """Return the page of a collection, with the result of a form.

    Raises:
        NotFound: no such collection.
    """
    feedback = feedback or FormFeedback()
    filters = ItemListFilters.of(request.args)
    with transaction(services().sessions) as session:
        found = collection_for(session, current_actor(), collection_id)
        job, shown = _job_and_counts(session, found)
        right = right_in(session, current_actor(), found)
        listed = items_shown(session, found, filters)
        if filters.facets:
            listed |= facets_shown(session, found, filters)
        pause = _pause(session, job)
        lacks_index = _lacks_index(session, found, job, shown)
        upload = page_uploads.last_upload(session, current_actor(), collection_id)
        known = languages(session)
        may_change = right is not None and right >= Right.CHANGE
        may_see_places = sees_positions(session, current_actor(), found)
        changeable = catalog.changeable(session, current_actor()) if may_change else []
        text_out_of_date = found.ocr_chosen_at is not None and has_unread(session, collection_id)
    page = render_template(
        "collection.html",
        collection=shown,
        **rights(right),
        **listed,
        may_see_places=may_see_places,
        targets=[one for one in changeable if one.id != collection_id],
        job=job,
        pause=pause,
        lacks_index=lacks_index,
        feedback=feedback,
        upload=upload,
        import_roots=imports.roots(current_actor()),
        languages=known,
        text_out_of_date=text_out_of_date,
        search=feedback.search or search_form(request.args),
        settings=services().settings,
    )
    return page, feedback.status


def rights(right: Right | None) -> dict[str, bool]:
    """Return which controls a page of a collection shows."""
    return {
        "may_change": right is not None and right >= Right.CHANGE,
        "may_manage": right is not None and right >= Right.MANAGE,
    }


@pages.get("/collections/<uuid:collection_id>")
def collection(collection_id: UUID) -> ResponseReturnValue:
    """Show one collection; a script gets only the next items."""
    if not wants_fragment():
        return collection_page(collection_id)
    filters = ItemListFilters.of(request.args)
    with transaction(services().sessions) as session:
        found = collection_for(session, current_actor(), collection_id)
        right = right_in(session, current_actor(), found)
        listed = items_shown(session, found, filters)
    return render_template("_items.html", collection=found, **rights(right), **listed)


def items_shown(session: Session, found: Collection, filters: ItemListFilters) -> dict[str, Any]:
    """Return what the template of items shows of one page of them."""
    page = ItemPage([], None)
    if filters.refused is None:
        try:
            page = item_lists.page(
                session,
                found,
                services().settings,
                filters.items,
                order=filters.sort,
                after=filters.after,
                limit=_ITEMS,
            )
        except InvalidInput as error:
            filters.refused = error.message
    items = item_views(session, page.items)
    kept: dict[str, Any] = filters.address()
    return {
        "items": items,
        "archives": same_names.archives((item.id, item.name, item.archive) for item in items),
        "next": page.next,
        "more_url": url_for("pages.collection", collection_id=found.id, after=page.next, **kept),
        "filters": filters,
        "Size": Size,
        "shape": shape,
        "rendering": partial(rendering, size=filters.size, thumbnail_side=services().settings.thumbnail_size),
        "max_compared": item_lists.MAX_COMPARED,
    }


def _job_and_counts(session: Session, found: Collection) -> tuple[JobView | None, CollectionView]:
    """Return the index job and the collection with its counts.

    The job is read first. If it were read last, it could end in between, and the page would keep the old counts: it
    stops polling once the job is over.
    """
    job = _index_job(session, found.id)
    return job, collection_views(session, [found])[0]


def _index_job(session: Session, collection_id: UUID) -> JobView | None:
    """Return the newest upload or index job that runs, else one that is queued, else the newest one."""
    kinds = Job.kind.in_([JobKind.UPLOAD, JobKind.INDEX])
    query = sa.select(Job).where(Job.collection_id == collection_id, kinds)
    recent = session.scalars(query.order_by(Job.id.desc()).limit(catalog.RECENT_JOBS)).all()
    going_on = (job for state in GOING_ON for job in recent if job.state is state)
    chosen = next(going_on, recent[0] if recent else None)
    return job_view(session, chosen) if chosen else None


def _lacks_index(session: Session, found: Collection, job: JobView | None, shown: CollectionView) -> bool:
    """Return whether a collection is large, has no vector index, and no job goes on that builds one at its end."""
    if shown.items_indexed <= EXACT_LIMIT or (job is not None and job.state not in OVER_JOBS):
        return False
    model = current_model(session, embedder_of(found, services().settings))
    return model is not None and usable_index(session, model.id, found.id) is None


def _pause(session: Session, job: JobView | None) -> Pause | None:
    """Return the pause that holds up this index job."""
    if job is None or job.state in OVER_JOBS:
        return None
    return pauses.paused(session).get(QUEUE_OF[Stage.EMBED])


@pages.get("/collections/<uuid:collection_id>/live")
def collection_live(collection_id: UUID) -> ResponseReturnValue:
    """Return the index state of the collection as a page fragment."""
    with transaction(services().sessions) as session:
        same = unchanged(*catalog.index_etag(session, current_actor(), collection_id))
        if same is not None:
            return same
        found = collection_for(session, current_actor(), collection_id)
        job, shown = _job_and_counts(session, found)
        right = right_in(session, current_actor(), found)
        pause = _pause(session, job)
        lacks_index = _lacks_index(session, found, job, shown)
    return render_template(
        "_index_state.html", collection=shown, job=job, pause=pause, lacks_index=lacks_index, **rights(right)
    )


@pages.post("/collections/<uuid:collection_id>/index")
def index_collection(collection_id: UUID) -> ResponseReturnValue:
    """Submit an index job."""
    here = url_for("pages.collection", collection_id=collection_id)
    try:
        submissions.index(current_actor(), collection_id)
    except RetllmError as error:
        return refused(error, here)
    return redirect(here)


@pages.post("/collections/<uuid:collection_id>/change")
def change_collection(collection_id: UUID) -> ResponseReturnValue:
    """Change the name, the description and the language."""
    here = url_for("pages.collection", collection_id=collection_id)
    form = Form.sent()
    try:
        try:
            language = form.text("language") or None
            asked = CollectionChange(name=form.text("name"), description=form.text("description"), language=language)
        except ValidationError as error:
            raise invalid(error) from error
        with transaction(services().sessions) as session:
            found = collection_for(session, current_actor(), collection_id, Right.CHANGE)
            catalog.change(session, found, name=asked.name, description=asked.description, language=asked.language)
    except RetllmError as error:
        return refused(error, here)
    flash("Saved.", "success")
    return redirect(here)


@pages.post("/collections/<uuid:collection_id>/delete")
def delete_collection(collection_id: UUID) -> ResponseReturnValue:
    """Delete a collection if its name was typed to confirm."""
    with transaction(services().sessions) as session:
        name = collection_for(session, current_actor(), collection_id, Right.MANAGE).name
    if " ".join(request.form.get("confirm", "").split()) != " ".join(name.split()):
        flash(f"Not deleted. Type the name “{name}” to confirm.", "danger")
        return redirect(url_for("pages.collection", collection_id=collection_id))
    catalog.delete(current_actor(), collection_id)
    if services().settings.trash_days:
        undo = url_for("pages.restore_collection", collection_id=collection_id)
        flash_with_undo(f"Collection “{name}” moved to the trash.", undo)
    else:
        flash(f"Collection “{name}” deleted.", "success")
    return redirect(url_for("pages.collections"))
