"""What is checked of the caller before the request is validated: their role, and that they see what it names."""

from __future__ import annotations

from flask import request
from sqlalchemy.orm import Session

from retllm.db.enums import Role
from retllm.db.session import transaction
from retllm.identity.access import Right, collection_for, item_for, job_for, require_role
from retllm.review.runs import run_for
from retllm_web.http import body_limits
from retllm_web.http.auth import current_actor
from retllm_web.http.services import services

_ADMIN, _EDITOR = (Role.ADMIN,), (Role.ADMIN, Role.EDITOR)
_ROLES = {
    "api.list_users": _ADMIN,
    "api.create_user": _ADMIN,
    "api.get_user": _ADMIN,
    "api.change_user": _ADMIN,
    "api.give_password": _ADMIN,
    "api.list_audit": _ADMIN,
    "api.list_log_lines": _ADMIN,
    "api.pause_queue": _ADMIN,
    "api.resume_queue": _ADMIN,
    "api.create_collection": _EDITOR,
    "api.add_evaluation": _EDITOR,
    "pages.people": _ADMIN,
    "pages.create_person": _ADMIN,
    "pages.person": _ADMIN,
    "pages.change_role": _ADMIN,
    "pages.lock_person": _ADMIN,
    "pages.unlock_person": _ADMIN,
    "pages.give_password": _ADMIN,
    "pages.audit": _ADMIN,
    "pages.audit_export": _ADMIN,
    "pages.system_logs": _ADMIN,
    "pages.system_logs_live": _ADMIN,
    "pages.pause_queue": _ADMIN,
    "pages.resume_queue": _ADMIN,
    "pages.create_collection": _EDITOR,
    "pages.upload_run": _EDITOR,
}

# routes about collections in the trash
_OF_TRASHED = {f"{part}.{name}_collection" for part in ("api", "pages") for name in ("restore", "remove")}


def require_role_of_route() -> None:
    """Reject a request for a route that the role of this account may not use, whatever the request says.

    Raises:
        Forbidden: the account has another role, or the token a smaller scope.
    """
    if roles := _ROLES.get(request.endpoint or ""):
        require_role(current_actor(), *roles)


def require_visible() -> None:
    """Reject a request whose address names an object that this account may not see.

    Without this check, an invalid body would give 422 where 404 is right. The route itself checks the right to do what
    the request asks; that to send a large body is checked here too, since the body is read before the route begins.

    Raises:
        NotFound: there is no such object that this account may see.
        Forbidden: the route takes large bodies, and this account may not change the collection.
    """
    if request.view_args:
        with transaction(services().sessions) as session:
            _check(session, Right.CHANGE if body_limits.is_large() else Right.SEE)


def _check(session: Session, right: Right) -> None:
    user, keys = current_actor(), request.view_args or {}
    if "collection_id" in keys:
        collection_for(session, user, keys["collection_id"], right, trashed=request.endpoint in _OF_TRASHED)
    for name in ("job_id", "search_id", "upload_id"):
        if name in keys:
            # the route looks up an item in the same address among the candidates
            job = job_for(session, user, keys[name])
            if right > Right.SEE:
                collection_for(session, user, job.one_collection, right)
            return
    if "item_id" in keys:
        item_for(session, user, keys["item_id"])
    if "run_id" in keys:
        run_for(session, user, keys["run_id"])
