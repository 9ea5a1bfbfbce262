"""Workers, queues, and what was given up."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.enums import Role
from retllm.db.session import transaction
from retllm.errors import InvalidInput, NotFound, RetllmError
from retllm.operations import activity, failures, queues, workers
from retllm.operations.failures import FailureCursor, FailureFilters, Requeued
from retllm.operations.workers import WorkerStatus
from retllm.queue.notifications import hints
from retllm_web.actions import catalog, operations
from retllm_web.http.auth import current_actor
from retllm_web.http.conditional import unchanged
from retllm_web.http.paging import key_or_none
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused

_DEAD = 30
# collections that the filter offers
_OFFERED = 200
_REASON = 500

# label, icon, Bootstrap's colour
STANDINGS = {
    WorkerStatus.ALIVE: ("alive", "heart-pulse", "success"),
    WorkerStatus.SILENT: ("silent", "question-circle", "danger"),
    WorkerStatus.STOPPED: ("stopped", "stop-circle", "secondary"),
}


def _state() -> dict[str, Any]:
    """What the live part shows."""
    told = hints(services().settings.redis_url, queues.QUEUES)
    with transaction(services().sessions) as session:
        found = queues.depths(session)
        living = workers.every(session, current_actor())
    served = {queue for one in living if one.standing is WorkerStatus.ALIVE for queue in one.queues}
    return {
        "queues": found,
        "hints": told,
        "workers": living,
        "served": served,
        "standings": STANDINGS,
        "max_counted": queues.MAX_COUNTED,
        "may_pause": current_actor().role is Role.ADMIN,
    }


def _filters(values: Any) -> FailureFilters:
    """The filters of the list of dead units, out of an address or a form."""
    queue = values.get("queue")
    text = str(values.get("text", "")).replace("\0", "").strip()
    collection = key_or_none(values.get("collection"), "collection")
    return FailureFilters(queue if queue in queues.QUEUES else None, collection, text)


def _address(filters: FailureFilters) -> dict[str, str]:
    named = {"queue": filters.queue, "collection": filters.collection_id, "text": filters.text}
    return {name: str(value) for name, value in named.items() if value}


@pages.get("/system")
def system() -> ResponseReturnValue:
    """The page."""
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
    """Where the page of the list begins; a place that is none is not there."""
    text = request.args.get("after")
    try:
        return FailureCursor.parse(text) if text else None
    except InvalidInput as error:
        raise NotFound("There is no such page of the list.") from error


@pages.get("/system/live")
def system_live() -> ResponseReturnValue:
    """The part of the page that changes by itself."""
    with transaction(services().sessions) as session:
        stamp = activity.stamp(session)
    return unchanged(*stamp) or render_template("_system_live.html", **_state())


@pages.post("/system/queues/<queue>/pause")
def pause_queue(queue: str) -> ResponseReturnValue:
    """Pause a queue."""
    here = url_for("pages.system")
    reason = request.form.get("reason", "").replace("\0", "").strip()[:_REASON]
    try:
        done = operations.pause(current_actor(), queue, reason)
    except RetllmError as error:
        return refused(error, here)
    flash(f"The queue {queue} is paused." if done else f"The queue {queue} is paused already.", "success")
    return redirect(here)


@pages.post("/system/queues/<queue>/resume")
def resume_queue(queue: str) -> ResponseReturnValue:
    """Let a queue go on."""
    here = url_for("pages.system")
    try:
        done = operations.resume(current_actor(), queue)
    except RetllmError as error:
        return refused(error, here)
    flash(f"The queue {queue} goes on." if done else f"The queue {queue} was not paused.", "success")
    return redirect(here)


@pages.post("/system/dead-units/requeue")
def requeue_units() -> ResponseReturnValue:
    """Give dead units new attempts: the selected ones, or all that match the filters."""
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
        return _told(operations.requeue_all(current_actor(), filters), here)
    units = [key for key in map(_key, request.form.getlist("unit")) if key is not None][:_DEAD]
    if not units:
        flash("Nothing was selected. Tick the units that shall have new attempts.", "warning")
        return redirect(here)
    return _told(operations.requeue(current_actor(), units), here)


def _key(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _told(done: Requeued, here: str) -> ResponseReturnValue:
    units = "1 unit has" if done.number == 1 else f"{done.number:,} units have"
    left = "".join(f" {number:,} left: {reason}." for reason, number in done.refused.items())
    flash(f"{units} new attempts.{left}", "success" if done.number else "warning")
    return redirect(here)
