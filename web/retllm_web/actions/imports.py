"""Imports that workers do; shared by the API and the pages."""

from __future__ import annotations

from uuid import UUID

from retllm.history.job_views import JobView
from retllm.identity.access import is_admin
from retllm.identity.actor import Actor
from retllm.imports.submit import ImportRequest, submit_import
from retllm_web.actions import submissions
from retllm_web.http.services import services


def begin(actor: Actor, collection_id: UUID, asked: ImportRequest, *, idempotency_key: str | None = None) -> JobView:
    """Submit an import.

    Raises:
        The errors of :func:`retllm.imports.submit.submit_import`.
    """
    settings = services().settings
    return submissions.submit(
        actor,
        lambda session: submit_import(session, actor, collection_id, asked, settings, idempotency_key),
    )


def roots(actor: Actor) -> tuple[str, ...]:
    """Return the places that this account may import from: none for those who are no administrators."""
    return services().settings.import_roots if is_admin(actor) else ()
