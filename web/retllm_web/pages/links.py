"""Links that open a collection or a result without an account: the forms that make and revoke them."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from flask import flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError

from retllm.errors import Conflict, InvalidInput
from retllm.identity import links as targets
from retllm_web.actions import links
from retllm_web.actions.links import FindTarget, LinkRequest
from retllm_web.http.errors import invalid
from retllm_web.pages.blueprint import local_path, pages
from retllm_web.pages.forms import Form
from retllm_web.pages.job import job_page
from retllm_web.pages.link_list import LinkFeedback
from retllm_web.pages.members import members_page


@pages.post("/collections/<uuid:collection_id>/links")
def make_link(collection_id: UUID) -> ResponseReturnValue:
    """Make a link to a collection; only this answer shows its address."""
    return _made(targets.collection_target, collection_id, members_page)


@pages.post("/jobs/<uuid:job_id>/links")
def make_result_link(job_id: UUID) -> ResponseReturnValue:
    """Make a link to the result of a search; only this answer shows its address."""
    return _made(targets.search_target, job_id, job_page)


def _made(
    find: FindTarget, key: UUID, page: Callable[[UUID, LinkFeedback], ResponseReturnValue]
) -> ResponseReturnValue:
    form = Form.sent()
    try:
        made = links.make(find, key, _asked(form))
    except (InvalidInput, Conflict) as error:
        form.refuse(error, otherwise="purpose")
        return page(key, LinkFeedback(form, status=error.http_status))
    return page(key, LinkFeedback(made=made.address))


def _asked(form: Form) -> LinkRequest:
    if not form.text("purpose"):
        raise InvalidInput("Say what the link is for.", field="purpose")
    try:
        return LinkRequest.model_validate(
            {"name": form.text("purpose"), "days": form.text("days") or None, "downloads": bool(form.text("downloads"))}
        )
    except ValidationError as error:
        raise invalid(error) from error


@pages.post("/links/<uuid:link_id>/revoke")
def revoke_link(link_id: UUID) -> ResponseReturnValue:
    """Revoke a link, and go back to the list that the form names."""
    revoked = links.revoke(link_id)
    flash(f"Revoked “{revoked.name}”. It opens nothing any more.", "success")
    return redirect(local_path(request.form.get("back")) or url_for("pages.overview"))
