"""The trash: deleted collections, and the deleted items of a collection; restore them, or delete them for good."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.session import transaction
from retllm.errors import InvalidInput, RetllmError
from retllm.identity.access import Right, collection_for
from retllm.media.skipped import Skipped
from retllm_web.actions import chosen
from retllm_web.actions import trash as actions
from retllm_web.actions.chosen import Result
from retllm_web.actions.trash import Trashed
from retllm_web.http.auth import current_actor
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import local_path, pages, refused
from retllm_web.pages.chosen import skipped_text

_ITEMS, _COLLECTIONS = 60, 50
_WHY = {
    Skipped.DUPLICATE: "the collection has the same content by now",
    Skipped.NOT_FOUND: "no longer in the trash",
    Skipped.NOT_TRIED: "not reached",
}


@pages.get("/trash")
def trash() -> ResponseReturnValue:
    """Show what is in the trash of a collection, or deleted collections and which collections have deleted items."""
    collection_id = key_or_none(request.args.get("collection"), "collection")
    after = key_or_none(request.args.get("after"), "entry")
    actor = current_actor()
    with transaction(services().sessions) as session:
        if collection_id is None:
            deleted, following = actions.collections(session, actor, after=after, limit=_COLLECTIONS)
            having = actions.collections_with_items(session, actor)
            return render_template("trash.html", deleted=deleted, having=having, next=following, after=after)
        collection = collection_for(session, actor, collection_id, Right.CHANGE)
        items, following = actions.page(session, collection_id, after=after, limit=_ITEMS)
    return render_template("trash_items.html", collection=collection, items=items, next=following, after=after)


@pages.post("/collections/<uuid:collection_id>/trash")
def change_trash(collection_id: UUID) -> ResponseReturnValue:
    """Restore items, or delete them for good, which is confirmed first."""
    here = url_for("pages.trash", collection=collection_id)
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), collection_id, Right.CHANGE)
    deed = request.form.get("deed")
    confirmed = request.form.get("confirmed") == "1"
    try:
        keys, moments = _keys(), _moments()
        if deed == "restore_all":
            return _restored(Trashed(collection_id), here)
        if deed == "empty":
            if not confirmed:
                return render_template("trash_confirm.html", collection=collection, keys=[], back=here)
            actions.empty(current_actor(), collection_id)
            flash("The trash was emptied.", "success")
            return redirect(here)
        if deed not in ("restore", "remove"):
            raise InvalidInput("Choose what to do with the items.")
        if moments and deed == "restore":
            # the page with the button; what lists items has them at this place
            back = local_path(request.form.get("back")) or url_for("pages.collection", collection_id=collection_id)
            return _restored(Trashed(collection_id, moments=moments), f"{back.partition('#')[0]}#items")
        if not keys:
            flash("Select items first.", "info")
            return redirect(here)
        if deed == "restore":
            return _restored(Trashed(collection_id, keys), here)
        if not confirmed:
            return render_template("trash_confirm.html", collection=collection, keys=keys, back=here)
        _tell(actions.remove(current_actor(), collection_id, keys), "deleted for good")
    except RetllmError as error:
        return refused(error, here)
    return redirect(here)


@pages.post("/collections/<uuid:collection_id>/restore")
def restore_collection(collection_id: UUID) -> ResponseReturnValue:
    """Restore a collection."""
    try:
        before, name = actions.restore_collection(current_actor(), collection_id)
    except RetllmError as error:
        return refused(error, url_for("pages.trash"))
    renamed = "" if name == before else f" under the name “{name}”, since another one has its name by now"
    flash(f"Collection “{before}” restored{renamed}.", "success")
    return redirect(url_for("pages.collection", collection_id=collection_id))


@pages.post("/collections/<uuid:collection_id>/remove")
def remove_collection(collection_id: UUID) -> ResponseReturnValue:
    """Delete a collection in the trash for good."""
    try:
        name = actions.remove_collection(current_actor(), collection_id)
    except RetllmError as error:
        return refused(error, url_for("pages.trash"))
    flash(f"Collection “{name}” deleted for good.", "success")
    return redirect(url_for("pages.trash"))


def _restored(these: Trashed, back: str) -> ResponseReturnValue:
    result = actions.restore(current_actor(), these)
    _tell(result, "restored")
    if result.next is not None:
        flash("That is as many as can be restored at once: restore the rest in the same way.", "info")
    return redirect(back)


def _keys() -> list[UUID]:
    keys = [key for key in (key_or_none(text, "item") for text in request.form.getlist("item")) if key]
    if len(keys) > chosen.MAX:
        raise InvalidInput(f"Select at most {chosen.MAX:,} items.")
    return keys


def _moments() -> list[datetime]:
    """Return the times at which the items to restore came into the trash.

    Raises:
        InvalidInput: one is malformed, or there are too many.
    """
    try:
        moments = [datetime.fromisoformat(text) for text in request.form.getlist("at")]
    except ValueError as error:
        raise InvalidInput("What was deleted is not known any more: look for it in the trash.") from error
    if len(moments) > chosen.MAX or any(moment.tzinfo is None for moment in moments):
        raise InvalidInput("What was deleted is not known any more: look for it in the trash.")
    return moments


def _tell(result: Result, done: str) -> None:
    number = len(result.done)
    count = "No item was" if not number else "1 item was" if number == 1 else f"{number:,} items were"
    flash(f"{count} {done}.", "success" if number else "info")
    if result.skipped:
        flash(skipped_text(result, done, _WHY), "warning")
    if result.error is not None:
        flash(f"Then it ended: {result.error.message}", "danger")
