"""Review of near-duplicates: groups side by side, each with what to keep, and what to do with the rest."""

from __future__ import annotations

from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.enums import OVER_JOBS
from retllm.db.session import transaction
from retllm.duplicates import views
from retllm.errors import Conflict, InvalidInput, NotFound, RetllmError
from retllm.identity.access import Right, collection_for, right_in
from retllm.media.decoding.perceptual import HASH_BITS
from retllm_web.actions import duplicates as actions
from retllm_web.actions.chosen import Chosen
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.chosen import ChosenForm, Deed, confirm
from retllm_web.pages.collections import rights
from retllm_web.pages.item_list import ItemListFilters

_GROUPS = 10


@pages.get("/collections/<uuid:collection_id>/duplicates")
def duplicates(collection_id: UUID) -> ResponseReturnValue:
    """Show the groups of near-duplicates of a collection, from the one on that the address names."""
    at = key_or_none(request.args.get("at"), "page")
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), collection_id)
        state = views.state_of(session, collection_id)
        found = views.groups_from(session, collection_id, at=at, limit=_GROUPS + 1)
        groups = actions.group_views(session, collection, found[:_GROUPS])
        right = right_in(session, current_actor(), collection)
    return render_template(
        "duplicates.html",
        collection=collection,
        state=state,
        working=state.job is not None and state.job.state not in OVER_JOBS,
        groups=groups,
        counted=views.COUNTED,
        bits=HASH_BITS,
        at=at,
        next=found[_GROUPS].id if len(found) > _GROUPS else None,
        **rights(right),
    )


@pages.post("/collections/<uuid:collection_id>/duplicates")
def look_for_duplicates(collection_id: UUID) -> ResponseReturnValue:
    """Submit a job that looks for near-duplicates."""
    try:
        job = actions.look(current_actor(), collection_id)
    except RetllmError as error:
        return refused(error, _address(collection_id))
    return redirect(url_for("pages.job", job_id=job.id))


@pages.post("/collections/<uuid:collection_id>/duplicates/<uuid:group_id>/keep")
def keep_of_group(collection_id: UUID, group_id: UUID) -> ResponseReturnValue:
    """Ask whether to delete all pictures of a group but the chosen ones."""
    try:
        return confirm(_deletion(collection_id, group_id))
    except RetllmError as error:
        return refused(error, _address(collection_id, group_id))


def _deletion(collection_id: UUID, group_id: UUID) -> ChosenForm:
    """Return the form that deletes the pictures of a group that are not to be kept.

    Raises:
        NotFound, Forbidden: this account may not change the collection.
        Conflict: there is no such group (any more).
        InvalidInput: nothing is kept, or nothing is deleted.
    """
    kept = {key for key in (key_or_none(text, "item") for text in request.form.getlist("keep")) if key}
    with transaction(services().sessions) as session:
        collection_for(session, current_actor(), collection_id, Right.CHANGE)
        group = views.group_in(session, collection_id, group_id)
    if group is None:
        raise Conflict("There is no such group of near-duplicates: it may have been decided meanwhile.")
    keys = [picture.item.id for picture in group.pictures]
    remaining = [key for key in keys if key in kept]
    others = [key for key in keys if key not in kept]
    if not remaining:
        raise InvalidInput("Choose at least one picture of the group to keep.")
    if not others:
        raise InvalidInput("All pictures of the group are kept: nothing is left to delete. Or are they no duplicates?")
    # the pictures are in the order in which they are worth keeping
    into = remaining[0] if request.form.get("merge") == "1" else None
    these = Chosen(collection_id, others)
    return ChosenForm(Deed.DELETE, {}, these, ItemListFilters(), group=group_id, into=into)


@pages.post("/collections/<uuid:collection_id>/duplicates/<uuid:group_id>/dismiss")
def dismiss_duplicates(collection_id: UUID, group_id: UUID) -> ResponseReturnValue:
    """Note that the pictures of a group are no duplicates."""
    here = _address(collection_id, group_id)
    try:
        number = actions.dismiss(current_actor(), collection_id, group_id)
    except NotFound as error:
        # the collection is there, so it is the group
        flash(error.message, "info")
        return redirect(here)
    flash(f"Noted: these {number} pictures are no duplicates.", "success")
    return redirect(here)


@pages.post("/collections/<uuid:collection_id>/duplicates/restore")
def restore_duplicates(collection_id: UUID) -> ResponseReturnValue:
    """Let the next job bring back all groups that were dismissed."""
    here = _address(collection_id)
    try:
        number = actions.restore(current_actor(), collection_id)
    except RetllmError as error:
        return refused(error, here)
    flash(f"{number:,} pictures are compared with each other again by the next search for near-duplicates.", "success")
    return redirect(here)


def _address(collection_id: UUID, group_id: UUID | None = None) -> str:
    return url_for("pages.duplicates", collection_id=collection_id, at=group_id)
