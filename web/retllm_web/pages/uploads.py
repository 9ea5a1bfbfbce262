"""Uploads through the pages: a form of files, the requests of the script, outcomes, and typed texts."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from flask import flash, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from retllm.db.enums import FileStatus
from retllm.db.session import snapshot
from retllm.db.state_words import again_words
from retllm.errors import InvalidInput, RetllmError
from retllm.media.names import clean_names, sent_name
from retllm.uploads.offers import MAX_NAME, Offer
from retllm_web.actions import contents, page_uploads, upload_parts, uploads
from retllm_web.http import conditional, downloads
from retllm_web.http.auth import current_actor
from retllm_web.http.bodies import sent_files
from retllm_web.http.errors import invalid
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.collections import FormFeedback, collection_page
from retllm_web.pages.forms import Form

_WAIT_SECONDS = 20.0
_MAX_OFFERED = 200
_MOST = 1 << 30
_MAX_NAMES = 20_000
_ROUTES = {
    "expected": "api.expect_files",
    "known": "api.announce_files",
    "unsent": "api.note_unsent_files",
    "large": "api.create_large_file",
    "files": "pages.send_files",
    "close": "pages.close_upload",
    "state": "api.get_upload",
}
"""The routes that the script sends an upload to."""
_CLOSED = "Not sent: the upload was closed on the page of its job. Upload the same files again to send the rest."
_MESSAGES = {
    "added": "Text added.",
    "duplicate": "The collection already contains this text as “{}”.",
    "updated": "Text updated.",
}


class _Closing(BaseModel):
    """How the script ends an upload: the files of which it wants to know whether they came, and why others don't."""

    model_config = ConfigDict(extra="forbid")

    files: list[Offer] = Field(default=[], max_length=_MAX_OFFERED)
    reason: str | None = Field(default=None, min_length=1, max_length=1000)

    @classmethod
    def sent(cls) -> _Closing:
        """Return the body of this request; a beacon has a form.

        Raises:
            InvalidInput: it is malformed.
        """
        try:
            return cls.model_validate(request.get_json(silent=True) or {"reason": request.form.get("reason")})
        except ValidationError as error:
            raise invalid(error) from error


class _Names(BaseModel):
    """Names of files in one folder."""

    model_config = ConfigDict(extra="forbid")

    names: list[Annotated[str, StringConstraints(max_length=MAX_NAME)]] = Field(max_length=_MAX_NAMES)


@pages.post("/collections/<uuid:collection_id>/upload")
def upload(collection_id: UUID) -> ResponseReturnValue:
    """Upload the files of a form: show their outcomes if they are soon known, else the page of the upload's job."""
    files = sent_files()
    if not files:
        return collection_page(collection_id, FormFeedback(upload_error="Choose at least one file.", status=422))
    texts = request.form.get("texts") == "true"
    result = contents.add_files(current_actor(), collection_id, files, texts=texts, wait=_WAIT_SECONDS)
    if result.processed or result.job is None:
        return collection_page(collection_id)
    return redirect(url_for("pages.job", job_id=result.job.id), 303)


@pages.post("/collections/<uuid:collection_id>/uploads")
def open_upload(collection_id: UUID) -> ResponseReturnValue:
    """Open an upload; a repeated request with the same idempotency key returns the same one."""
    texts = request.form.get("texts") == "true"
    key = request.headers.get("Idempotency-Key", "")[:200] or None
    expected = min(max(0, request.form.get("files", 0, type=int)), _MOST)
    job = uploads.begin(current_actor(), collection_id, texts=texts, expected=expected, idempotency_key=key)
    return jsonify({name: url_for(route, upload_id=job.id) for name, route in _ROUTES.items()}), 201


@pages.post("/uploads/names")
def tell_names_apart() -> ResponseReturnValue:
    """Return the names of files that are sent together, such that those which look the same differ."""
    try:
        names = _Names.model_validate(request.get_json(silent=True)).names
    except ValidationError as error:
        raise invalid(error) from error
    return jsonify(names=list(map(sent_name, names, clean_names(names))))


@pages.post("/uploads/<uuid:upload_id>/files")
def send_files(upload_id: UUID) -> ResponseReturnValue:
    """Receive files, whose names are percent-encoded; those that arrived before are not taken twice."""
    files = sent_files(quoted=True)
    if not files:
        raise InvalidInput("The form contains no file.", field="file")
    uploads.add(current_actor(), upload_id, files, repeated=True)
    return "", 204


@pages.post("/uploads/<uuid:upload_id>/close")
def close_upload(upload_id: UUID) -> ResponseReturnValue:
    """Close an upload, and return for each of the files whether it arrived; expected ones that did not are listed."""
    closing = _Closing.sent()
    return jsonify(known=uploads.close(current_actor(), upload_id, closing.files, closing.reason))


@pages.post("/uploads/<uuid:upload_id>/end")
def end_upload(upload_id: UUID) -> ResponseReturnValue:
    """Close an upload that waits for files in vain."""
    here = url_for("pages.job", job_id=upload_id)
    try:
        uploads.close(current_actor(), upload_id, reason=_CLOSED)
    except RetllmError as error:
        return refused(error, here)
    return redirect(here)


@pages.get("/collections/<uuid:collection_id>/last-upload")
def last_upload(collection_id: UUID) -> ResponseReturnValue:
    """Return the last upload of this account as a page fragment; 304 if nothing changed."""
    with snapshot(services().sessions) as session:
        found = page_uploads.last_upload(session, current_actor(), collection_id)
    if found is not None:
        state = found.state
        before = [(one.job_id, sorted(one.files.counts.items())) for one in found.before]
        same = conditional.unchanged(
            found.job_id, found.job_state, state.closed_at, state.processed, sorted(state.counts.items()), before
        )
        if same is not None:
            return same
    return render_template("_last_upload.html", upload=found, collection_id=collection_id)


@pages.post("/uploads/<uuid:upload_id>/retry")
def retry_files(upload_id: UUID) -> ResponseReturnValue:
    """Try the rejected files of an upload again whose bytes are kept."""
    here = url_for("pages.job", job_id=upload_id)
    try:
        again = upload_parts.retry_rejected(current_actor(), upload_id).again
    except RetllmError as error:
        return refused(error, here)
    flash(again_words(**again.model_dump()), "info")
    return redirect(here)


@pages.get("/uploads/<uuid:upload_id>/files.csv")
def export_files(upload_id: UUID) -> ResponseReturnValue:
    """Export what became of the files of an upload: of every one, or of those with one outcome."""
    statuses = [status for status in FileStatus if status.value == request.args.get("status")]
    return downloads.outcomes(upload_id, upload_parts.every_file(current_actor(), upload_id, statuses), mark=True)


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
    flash(_MESSAGES[outcome.status].format(outcome.item_name), "info" if outcome.status == "duplicate" else "success")
    return redirect(url_for("pages.collection", collection_id=collection_id))
