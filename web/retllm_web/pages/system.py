"""Workers, queues and dead units."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.enums import Role
from retllm.db.session import snapshot, transaction
from retllm.errors import InvalidInput, NotFound, RetllmError
from retllm.operations import activity, failures, queues, workers
from retllm.operations.failures import FailureCursor, FailureFilters, Requeued
from retllm.queue.notifications import hints
from retllm_web.actions import catalog, operations
from retllm_web.http.auth import current_actor
from retllm_web.http.conditional import unchanged
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.states import WORKER_STATES

_DEAD = 30
# collections that the filter offers
_OFFERED = 200
_REASON = 500


def _state() -> dict[str, Any]:
    """Return the template variables of the live part."""
    hint_counts = hints(services().settings.redis_url, services().routing.queues)
    with snapshot(services().sessions) as session:
        depths = queues.depths(session, services().routing)
        shown = workers.every(session, current_actor())
    return {
        "queues": depths,
        "hints": hint_counts,
        "workers": shown,
        "served": workers.serving(shown),
        "states": WORKER_STATES,
        "max_counted": queues.MAX_COUNTED,
        "may_pause": current_actor().role is Role.ADMIN,
    }


def _filters(values: Any) -> FailureFilters:
    """Return the filters of the list of dead units from an address or a form."""
    queue = values.get("queue")
    text = str(values.get("text", "")).replace("\0", "").strip()
    collection = key_or_none(values.get("collection"), "collection")
    routing = services().routing
    return FailureFilters(queue if queue in routing.queues else None, collection, text, routing)


def _address(filters: FailureFilters) -> dict[str, str]:
    values = {"queue": filters.queue, "collection": filters.collection_id, "text": filters.text}
    return {name: str(value) for name, value in values.items() if value}


@pages.get("/system")
def system() -> ResponseReturnValue:
    """Show queues, workers and dead units."""
    filters = _filters(request.args)
    with transaction(services().sessions) as session:
        rows = failures.page(session, current_actor(), filters, after=_after(), limit=_DEAD + 1)
        offered = catalog.page(session, current_actor(), after=None, limit=_OFFERED)
        matching, possible = failures.count(session, current_actor(), filters)
    dead = rows[:_DEAD]
    return render_template(
        "system.html",
        **_state(),
        dead=dead,
        next=str(dead[-1].place) if len(rows) > _DEAD else None,
        after=request.args.get("after"),
        matching=matching,
        possible=possible,
        max_dead=failures.MAX_COUNTED,
        filters=filters,
        address=_address(filters),
        collections=offered,
    )


def _after() -> FailureCursor | None:
    """Return where the page of the list begins.

    Raises:
        NotFound: the position is malformed.
    """
    text = request.args.get("after")
    try:
        return FailureCursor.parse(text) if text else None
    except InvalidInput as error:
        raise NotFound("There is no such page of the list.") from error


@pages.get("/system/live")
def system_live() -> ResponseReturnValue:
    """Return the live part of the page; 304 if nothing changed."""
    with transaction(services().sessions) as session:
        values = *activity.stamp(session), workers.usage_stamp(session)
    return unchanged(*values) or render_template("_system_live.html", **_state())


@pages.post("/system/queues/<path:queue>/pause")
def pause_queue(queue: str) -> ResponseReturnValue:
    """Pause a queue."""
    here = url_for("pages.system")
    reason = request.form.get("reason", "").replace("\0", "").strip()[:_REASON]
    try:
        done = operations.pause(current_actor(), queue, reason)
    except RetllmError as error:
        return refused(error, here)
    flash(f"Queue {queue} paused." if done else f"Queue {queue} is already paused.", "success")
    return redirect(here)


@pages.post("/system/queues/<path:queue>/resume")
def resume_queue(queue: str) -> ResponseReturnValue:
    """Resume a queue."""
    here = url_for("pages.system")
    try:
        done = operations.resume(current_actor(), queue)
    except RetllmError as error:
        return refused(error, here)
    flash(f"Queue {queue} resumed." if done else f"Queue {queue} was not paused.", "success")
    return redirect(here)


@pages.post("/system/dead-units/requeue")
def requeue_units() -> ResponseReturnValue:
    """Retry dead units: the selected ones, or all that match the filters."""
    filters = _filters(request.form)
    chosen = _address(filters)
    here = url_for(
        "pages.system",
        _anchor="dead",
        queue=chosen.get("queue"),
        collection=chosen.get("collection"),
        text=chosen.get("text"),
    )
    if "all" in request.form:
        return _report(operations.requeue_all(current_actor(), filters), here)
    units = [key for key in map(_key, request.form.getlist("unit")) if key is not None][:_DEAD]
    if not units:
        flash("Select the units to retry.", "warning")
        return redirect(here)
    return _report(operations.requeue(current_actor(), units), here)


def _key(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _report(done: Requeued, here: str) -> ResponseReturnValue:
    units = "1 unit" if done.number == 1 else f"{done.number:,} units"
    skipped = "".join(f" {number:,} skipped: {reason}." for reason, number in done.refused.items())
    flash(f"Retrying {units}.{skipped}", "success" if done.number else "warning")
    return redirect(here)
