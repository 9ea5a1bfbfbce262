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
    tus,
    uploads,
)
from retllm_web.api.blueprint import api
from retllm_web.api.spec import serve

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
    "tus",
    "uploads",
]


def register(app: OpenAPI) -> None:
    """Register the routes of the API and its OpenAPI document on ``app``."""
    app.register_api(api)
    serve(app)
