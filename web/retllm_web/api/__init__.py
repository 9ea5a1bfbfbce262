"""The REST API under /api/v1 (design: API)."""

from __future__ import annotations

from flask_openapi.openapi import OpenAPI

from retllm_web.api import (
    account,
    archives,
    attempts,
    chosen,
    collections,
    duplicates,
    embedders,
    evaluations,
    imports,
    items,
    jobs,
    links,
    log_lines,
    maps,
    members,
    ocr,
    people,
    places,
    review,
    searches,
    system,
    trash,
    tus,
    uploads,
)
from retllm_web.api.blueprint import api
from retllm_web.api.spec import serve

__all__ = [
    "account",
    "archives",
    "attempts",
    "chosen",
    "collections",
    "duplicates",
    "embedders",
    "evaluations",
    "imports",
    "items",
    "jobs",
    "links",
    "log_lines",
    "maps",
    "members",
    "ocr",
    "people",
    "places",
    "register",
    "review",
    "searches",
    "system",
    "trash",
    "tus",
    "uploads",
]


def register(app: OpenAPI) -> None:
    """Register the routes of the API and its OpenAPI document on ``app``."""
    app.register_api(api)
    serve(app)
