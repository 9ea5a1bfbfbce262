"""Uploads through the pages: files and typed texts."""

from __future__ import annotations

from typing import BinaryIO, cast
from uuid import UUID

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from retllm.errors import RetllmError
from retllm.media.ingest import IncomingFile
from retllm_web.actions import contents
from retllm_web.http.auth import current_actor
from retllm_web.pages.blueprint import pages, wants_fragment
from retllm_web.pages.collections import FormFeedback, collection_page
from retllm_web.pages.forms import Form

_WAIT_SECONDS = 20.0
_MESSAGES = {
    "added": "Text added.",
    "duplicate": "The collection already contains this text.",
    "updated": "Text updated.",
}


@pages.post("/collections/<uuid:collection_id>/upload")
def upload(collection_id: UUID) -> ResponseReturnValue:
    """Add files; the response lists the outcome of each. A script sends them in parts and indexes after the last."""
    # a browser's empty file field is a part without a name
    parts = [part for part in request.files.getlist("file") if part.filename]
    files = [IncomingFile(part.filename or "", cast("BinaryIO", part.stream)) for part in parts]
    if not files:
        missing = "Choose at least one file."
        return (
            (missing, 422)
            if wants_fragment()
            else collection_page(collection_id, FormFeedback(upload_error=missing, status=422))
        )
    index = request.form.get("index") != "later"
    texts = request.form.get("texts") == "true"
    result = contents.add_files(current_actor(), collection_id, files, index=index, texts=texts, wait=_WAIT_SECONDS)
    if wants_fragment():
        return render_template("_outcomes.html", outcomes=result.outcomes)
    return collection_page(collection_id, FormFeedback(outcomes=result.outcomes))


@pages.post("/collections/<uuid:collection_id>/texts")
def add_text(collection_id: UUID) -> ResponseReturnValue:
    """Add one text."""
    form = Form.sent()
    try:
        text = contents.Text(form.text("text"), form.text("name") or None)
        result = contents.add_texts(current_actor(), collection_id, [text])
    except RetllmError as error:
        if error.http_status in (404, 500):
            raise
        form.refuse(error, otherwise="text")
        return collection_page(collection_id, FormFeedback(text=form, status=error.http_status))
    (outcome,) = result.outcomes
    if outcome.error is not None:
        form.errors["text"] = outcome.error.message
        return collection_page(collection_id, FormFeedback(text=form, status=422))
    flash(_MESSAGES[outcome.status], "info" if outcome.status == "duplicate" else "success")
    return redirect(url_for("pages.collection", collection_id=collection_id))
