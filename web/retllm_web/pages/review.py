"""Reviewing a search: marks on its results, and items that it should have found."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Response, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.enums import ItemState
from retllm.db.session import run_transaction, transaction
from retllm.db.tables import Item
from retllm.errors import InvalidInput, RetllmError
from retllm.review import marks
from retllm.review.measures import Verdict
from retllm.review.search import Review
from retllm.review.search import review_of as read_review
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused, wants_piece

MARKS = {"relevant": True, "not": False, "none": None}
VERDICTS = {
    # label, icon, Bootstrap's colour, meaning
    Verdict.HIT: ("hit", "bullseye", "success", "A relevant item is first."),
    Verdict.FINE_MISS: (
        "fine miss",
        "sort-down",
        "warning",
        "A relevant item is among the candidates, and the fine stage put another one first.",
    ),
    Verdict.COARSE_MISS: (
        "coarse miss",
        "x-octagon",
        "danger",
        "Relevant items are known, and the coarse stage found none of them: more candidates or another embedder may.",
    ),
    Verdict.UNKNOWN: ("not known", "question-circle", "secondary", "No relevant item is marked yet."),
}


def review_of(search_id: UUID) -> Review:
    """The review of a search, read once for each request."""
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
    """Mark an item as relevant to what a search asks or not, or take its mark away."""
    try:
        said = request.form.get("mark", "")
        if said not in MARKS:
            raise InvalidInput("A mark is one of: relevant, not, none.", field="mark")
        run_transaction(
            services().sessions,
            lambda session: marks.set_mark(session, current_actor(), job_id, item_id, MARKS[said]),
        )
        with transaction(services().sessions) as session:
            item = session.get_one(Item, item_id)
    except RetllmError as error:
        if wants_piece():
            return Response(error.message, error.http_status, mimetype="text/plain")
        return refused(error, url_for("pages.job", job_id=job_id))
    if wants_piece():
        return render_template(
            "_marked.html", search_id=job_id, item=item, ready=item.state is ItemState.READY, review=review_of(job_id)
        )
    return redirect(url_for("pages.job", job_id=job_id, _anchor=f"mark-{item_id}"))


@pages.get("/jobs/<uuid:job_id>/missing")
def missing(job_id: UUID) -> ResponseReturnValue:
    """Find an item that the search should have found, to mark it; a script gets what was found alone."""
    wanted = request.args.get("find", "").replace("\0", "").strip()[:300]
    with transaction(services().sessions) as session:
        asked = marks.asked_by(session, current_actor(), job_id)
        found = marks.find_items(session, asked, wanted) if wanted else []
    template = "_found.html" if wants_piece() else "missing.html"
    return render_template(template, search_id=job_id, found=found, find=wanted, review=review_of(job_id))
