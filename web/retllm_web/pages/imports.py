"""The form that imports files which lie where the platform reaches them."""

from __future__ import annotations

from uuid import UUID

from flask import redirect, url_for
from flask.typing import ResponseReturnValue

from retllm.errors import RetllmError
from retllm.imports.submit import ImportRequest
from retllm_web.actions import imports
from retllm_web.http.auth import current_actor
from retllm_web.pages.blueprint import pages
from retllm_web.pages.collections import FormFeedback, collection_page
from retllm_web.pages.forms import Form


@pages.post("/collections/<uuid:collection_id>/imports")
def import_files(collection_id: UUID) -> ResponseReturnValue:
    """Begin an import, and show its job."""
    form = Form.sent()
    asked = ImportRequest(
        form.text("address").strip(),
        reference=form.text("reference") == "true",
        texts=form.text("texts") == "true",
        retry_rejected=form.text("retry_rejected") == "true",
    )
    try:
        job = imports.begin(current_actor(), collection_id, asked)
    except RetllmError as error:
        if error.http_status in (404, 500) or not imports.roots(current_actor()):
            raise
        form.refuse(error, otherwise="address")
        return collection_page(collection_id, FormFeedback(importing=form, status=error.http_status))
    return redirect(url_for("pages.job", job_id=job.id), 303)
