"""Uploads through the pages: a form of files, the requests of the script, outcomes, and typed texts."""

from __future__ import annotations

from typing import Annotated, BinaryIO, cast
from uuid import UUID

from flask import flash, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from retllm.db.session import transaction
from retllm.errors import InvalidInput, RetllmError
from retllm.media.ingest import IncomingFile
from retllm.uploads.offers import Offer
from retllm_web.actions import contents, page_uploads, upload_parts, uploads
from retllm_web.actions.page_uploads import Unsent
from retllm_web.http import conditional, downloads
from retllm_web.http.auth import current_actor
from retllm_web.http.errors import invalid
from retllm_web.http.services import services
from retllm_web.pages.blueprint import pages, refused
from retllm_web.pages.collections import FormFeedback, collection_page
from retllm_web.pages.forms import Form

_WAIT_SECONDS = 20.0
_MAX_OFFERED = 200
_MAX_NOTED = 200
_MESSAGES = {
    "added": "Text added.",
    "duplicate": "The collection already contains this text.",
    "updated": "Text updated.",
}
_Name = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _OfferedFile(_Body):
    name: _Name
    size: int = Field(ge=0, le=1 << 50)
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None
    earlier: int = Field(default=0, ge=0, le=1 << 30)


class _Clutter(_Body):
    name: _Name
    count: int = Field(ge=1, le=1 << 30)


class _Offers(_Body):
    """What the script is about to send, and what it never sends."""

    files: list[_OfferedFile] = Field(default=[], max_length=_MAX_OFFERED)
    clutter: list[_Clutter] = Field(default=[], max_length=_MAX_NOTED)
    unreadable: list[_Name] = Field(default=[], max_length=_MAX_NOTED)

    @classmethod
    def sent(cls) -> _Offers:
        """Return the body of this request; a beacon has none.

        Raises:
            InvalidInput: it is malformed.
        """
        try:
            return cls.model_validate(request.get_json(silent=True) or {})
        except ValidationError as error:
            raise invalid(error) from error

    def offers(self) -> list[Offer]:
        return [Offer(file.name, file.size, file.sha256, file.earlier) for file in self.files]

    def unsent(self) -> Unsent:
        return Unsent([(place.name, place.count) for place in self.clutter], self.unreadable)


def _files() -> list[IncomingFile]:
    # a browser's empty file field is a part without a name
    parts = [part for part in request.files.getlist("file") if part.filename]
    return [IncomingFile(part.filename or "", cast("BinaryIO", part.stream)) for part in parts]


@pages.post("/collections/<uuid:collection_id>/upload")
def upload(collection_id: UUID) -> ResponseReturnValue:
    """Upload the files of a form: show their outcomes if they are soon known, else the page of the upload's job."""
    files = _files()
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
    job = uploads.begin(current_actor(), collection_id, texts=texts, idempotency_key=key)
    addresses = {
        "offer": url_for("pages.offer_files", upload_id=job.id),
        "files": url_for("pages.send_files", upload_id=job.id),
        "close": url_for("pages.close_upload", upload_id=job.id),
    }
    return jsonify(addresses), 201


@pages.post("/uploads/<uuid:upload_id>/offer")
def offer_files(upload_id: UUID) -> ResponseReturnValue:
    """Return for each file whether it need not be sent, and note what is never sent."""
    offers = _Offers.sent()
    return jsonify(known=page_uploads.offer(current_actor(), upload_id, offers.offers(), offers.unsent()))


@pages.post("/uploads/<uuid:upload_id>/files")
def send_files(upload_id: UUID) -> ResponseReturnValue:
    """Receive files; those that arrived before are not taken twice."""
    files = _files()
    if not files:
        raise InvalidInput("The form contains no file.", field="file")
    page_uploads.add(current_actor(), upload_id, files)
    return "", 204


@pages.post("/uploads/<uuid:upload_id>/close")
def close_upload(upload_id: UUID) -> ResponseReturnValue:
    """Close an upload, and return for each of the files whether it arrived."""
    return jsonify(known=page_uploads.close(current_actor(), upload_id, _Offers.sent().offers()))


@pages.get("/collections/<uuid:collection_id>/last-upload")
def last_upload(collection_id: UUID) -> ResponseReturnValue:
    """Return the last upload of this account as a page fragment; 304 if nothing changed."""
    with transaction(services().sessions) as session:
        found = page_uploads.last_upload(session, current_actor(), collection_id)
    if found is not None:
        state = found.state
        same = conditional.unchanged(
            found.job_id, found.job_state, state.closed_at, state.processed, sorted(state.counts.items())
        )
        if same is not None:
            return same
    return render_template("_last_upload.html", upload=found, collection_id=collection_id)


@pages.post("/uploads/<uuid:upload_id>/retry")
def retry_files(upload_id: UUID) -> ResponseReturnValue:
    """Try the rejected files of an upload again whose bytes are kept."""
    here = url_for("pages.job", job_id=upload_id)
    try:
        upload_parts.retry_rejected(current_actor(), upload_id)
    except RetllmError as error:
        return refused(error, here)
    return redirect(here)


@pages.get("/uploads/<uuid:upload_id>/files.csv")
def export_files(upload_id: UUID) -> ResponseReturnValue:
    """Export what became of every file of an upload."""
    return downloads.outcomes(upload_parts.every_file(current_actor(), upload_id, ()))


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
