"""The REST API under /api/v1 (design: API)."""

from __future__ import annotations

from flask_openapi.openapi import OpenAPI

from retllm_web.api import (
    account,
    attempts,
    collections,
    embedders,
    evaluations,
    items,
    jobs,
    members,
    people,
    review,
    searches,
    system,
)
from retllm_web.api.blueprint import api
from retllm_web.api.spec import serve
from retllm_web.http.auth import csrf

__all__ = [
    "account",
    "attempts",
    "collections",
    "embedders",
    "evaluations",
    "items",
    "jobs",
    "members",
    "people",
    "register",
    "review",
    "searches",
    "system",
]


def register(app: OpenAPI) -> None:
    """Put every route of the API, and its description, on ``app``."""
    # the API checks for itself: tokens need no CSRF token, sessions do
    csrf.exempt(api)
    app.register_api(api)
    serve(app)
