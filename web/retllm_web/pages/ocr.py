"""The text in the pictures of a collection: what is read, and the button that lets a job read it."""

from __future__ import annotations

from uuid import UUID

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.db.enums import OVER_JOBS
from retllm.db.session import transaction
from retllm.errors import RetllmError
from retllm.identity.access import collection_for, right_in
from retllm.ocr.views import state_of
from retllm_web.actions import ocr as actions
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.collections import rights


@pages.get("/collections/<uuid:collection_id>/ocr")
def ocr(collection_id: UUID) -> ResponseReturnValue:
    """Show how far the text in the pictures of a collection is read."""
    with transaction(services().sessions) as session:
        collection = collection_for(session, current_actor(), collection_id)
        state = state_of(session, collection)
        right = right_in(session, current_actor(), collection)
    return render_template(
        "ocr.html",
        collection=collection,
        state=actions.ocr_view(state),
        job=state.job,
        working=state.job is not None and state.job.state not in OVER_JOBS,
        **rights(right),
    )


@pages.post("/collections/<uuid:collection_id>/ocr")
def read_text(collection_id: UUID) -> ResponseReturnValue:
    """Submit a job that reads the text in pictures, with `again` in all of them."""
    try:
        job = actions.read(current_actor(), collection_id, again=request.form.get("again") == "1")
    except RetllmError as error:
        return refused(error, url_for("pages.ocr", collection_id=collection_id))
    return redirect(url_for("pages.job", job_id=job.id))
