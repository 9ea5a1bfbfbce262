"""Submitting a search."""

from __future__ import annotations

from contextlib import ExitStack
from typing import BinaryIO, cast
from uuid import UUID

import sqlalchemy as sa
from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from retllm.access import job_for
from retllm.db.session import transaction
from retllm.db.tables import Search
from retllm.errors import RetllmError
from retllm_web import submissions
from retllm_web.auth import current_user
from retllm_web.pages.asking import request_of
from retllm_web.pages.blueprint import key_or_none, pages
from retllm_web.pages.collections import Said, collection_page
from retllm_web.pages.forms import Form
from retllm_web.services import services


def _picture(form: Form, stack: ExitStack) -> BinaryIO | None:
    """The picture that was sent, or that of the earlier search whose picture is to be used again."""
    upload = request.files.get("picture")
    if upload is not None and upload.filename:
        return cast("BinaryIO", upload.stream)
    earlier = key_or_none(form.text("again"), "search")
    if earlier is None:
        return None
    with transaction(services().sessions) as session:
        job_for(session, current_user(), earlier)
        key = session.scalar(sa.select(Search.query_picture_key).where(Search.id == earlier))
    return stack.enter_context(services().storage.open(key)) if key else None


@pages.post("/collections/<uuid:collection_id>/search")
def search(collection_id: UUID) -> ResponseReturnValue:
    """Submit a search and go to its job."""
    form = Form.sent(several=("kinds",))
    try:
        with ExitStack() as stack:
            asked = request_of(form)
            job = submissions.search(current_user(), collection_id, asked, picture=_picture(form, stack))
    except RetllmError as error:
        if error.http_status in (404, 500, 503):
            raise
        form.refuse(error, otherwise="picture" if error.code == "media_rejected" else "text")
        return collection_page(collection_id, Said(search=form, status=error.http_status))
    return redirect(url_for("pages.job", job_id=job.id))
