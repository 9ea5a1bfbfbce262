"""What the address of a request names must be there for the account that asks, before anything is said of its body."""

from __future__ import annotations

from flask import request
from sqlalchemy.orm import Session

from retllm.db.session import transaction
from retllm.identity.access import collection_for, item_for, job_for
from retllm.review.runs import run_for
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services


def require_visible() -> None:
    """Refuse a request whose address names something that this account may not see.

    A route that finds a fault in what was sent before it looks for the thing would answer 422 for what is a 404. The
    right to do what the request asks for is still the route's to demand.

    Raises:
        NotFound: there is no such thing that this account may see.
    """
    if request.view_args:
        with transaction(services().sessions) as session:
            _look(session)


def _look(session: Session) -> None:
    user, keys = current_actor(), request.view_args or {}
    if "collection_id" in keys:
        collection_for(session, user, keys["collection_id"])
    for name in ("job_id", "search_id"):
        if name in keys:
            # an item that is named beside it is looked for among the candidates
            job_for(session, user, keys[name])
            return
    if "item_id" in keys:
        item_for(session, user, keys["item_id"])
    if "run_id" in keys:
        run_for(session, user, keys["run_id"])
