"""The review of a search: marks on its candidates, and on items that it should have found."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Response, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.enums import ItemState
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Item
from retllm.errors import InvalidInput, RetllmError
from retllm.media.came_in import archives_of
from retllm.review import marks
from retllm.review.measures import Verdict
from retllm.review.search import Review
from retllm.review.search import review_of as read_review
from retllm_web.actions import same_names
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused, wants_fragment

MARKS = {"relevant": True, "not": False, "none": None}
VERDICTS = {
    # label, icon, Bootstrap's colour, meaning
    Verdict.HIT: ("hit", "bullseye", "success", "A relevant item is first."),
    Verdict.FINE_MISS: (
        "fine miss",
        "sort-down",
        "warning",
        "A relevant item is among the candidates, but the fine stage ranked another one first.",
    ),
    Verdict.COARSE_MISS: (
        "coarse miss",
        "x-octagon",
        "danger",
        "The coarse stage found none of the relevant items. Try more candidates (k) or another embedder.",
    ),
    Verdict.UNKNOWN: ("unknown", "question-circle", "secondary", "No item is marked as relevant yet."),
}


def review_of(search_id: UUID) -> Review:
    """Return the review of a search, read once for each request."""
    read: dict[UUID, Review] = g.setdefault("reviews", {})
    if search_id not in read:
        with transaction(services().sessions) as session:
            read[search_id] = read_review(session, current_actor(), search_id)
    return read[search_id]


@pages.app_context_processor
def _in_templates() -> dict[str, Any]:
    return {"review_of": review_of, "VERDICTS": VERDICTS}


@pages.post("/jobs/<uuid:job_id>/marks/<uuid:item_id>")
def mark(job_id: UUID, item_id: UUID) -> ResponseReturnValue:
    """Mark an item as relevant or not relevant to the query of a search, or remove its mark."""
    try:
        value = request.form.get("mark", "")
        if value not in MARKS:
            raise InvalidInput("The mark must be one of: relevant, not, none.", field="mark")
        run_transaction(
            services().sessions,
            lambda session: marks.set_mark(session, current_actor(), job_id, item_id, MARKS[value]),
        )
        with transaction(services().sessions) as session:
            item = session.get_one(Item, item_id)
    except RetllmError as error:
        if wants_fragment():
            return Response(error.message, error.http_status, mimetype="text/plain")
        return refused(error, url_for("pages.job", job_id=job_id))
    if wants_fragment():
        return render_template(
            "_marked.html", search_id=job_id, item=item, ready=item.state is ItemState.READY, review=review_of(job_id)
        )
    return redirect(url_for("pages.job", job_id=job_id, _anchor=f"mark-{item_id}"))


@pages.get("/jobs/<uuid:job_id>/missing")
def missing(job_id: UUID) -> ResponseReturnValue:
    """Find an item that the search should have found, to mark it; a script gets only the found items."""
    text = request.args.get("find", "").replace("\0", "").strip()[:300]
    with transaction(services().sessions) as session:
        asked = marks.asked_by(session, current_actor(), job_id)
        found = marks.find_items(session, asked, text) if text else []
        came_in = archives_of(session, [item.id for item in found])
        archives = same_names.archives((item.id, item.name, came_in.get(item.id)) for item in found)
    template = "_found.html" if wants_fragment() else "missing.html"
    return render_template(
        template, search_id=job_id, found=found, archives=archives, find=text, review=review_of(job_id)
    )
