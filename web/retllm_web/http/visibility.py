"""The check that the objects named in an address exist and are visible, before the body is validated."""

from __future__ import annotations

from flask import request
from sqlalchemy.orm import Session

from retllm.db.session import transaction
from retllm.identity.access import collection_for, item_for, job_for
from retllm.review.runs import run_for
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services


def require_visible() -> None:
    """Reject a request whose address names an object that this account may not see.

    Without this check, an invalid body would give 422 where 404 is right. The route itself checks the right to do what
    the request asks.

    Raises:
        NotFound: there is no such object that this account may see.
    """
    if request.view_args:
        with transaction(services().sessions) as session:
            _check(session)


def _check(session: Session) -> None:
    user, keys = current_actor(), request.view_args or {}
    if "collection_id" in keys:
        collection_for(session, user, keys["collection_id"])
    for name in ("job_id", "search_id", "upload_id"):
        if name in keys:
            # the route looks up an item in the same address among the candidates
            job_for(session, user, keys[name])
            return
    if "item_id" in keys:
        item_for(session, user, keys["item_id"])
    if "run_id" in keys:
        run_for(session, user, keys["run_id"])
