"""The pages: rendered on the server, usable without JavaScript, live with it (design: dashboard)."""

from __future__ import annotations

from flask import Blueprint, Flask
from flask_bootstrap import Bootstrap5

from retllm import charts
from retllm_web.pages import (
    access,
    account,
    attempts,
    audit,
    chosen,
    collections,
    compare,
    duplicates,
    evaluations,
    evidence,
    exports,
    facets,
    formats,
    imports,
    items,
    job,
    job_actions,
    jobs,
    links,
    maps,
    members,
    models,
    ocr,
    overview,
    people,
    places,
    quality,
    review,
    saved_views,
    search_page,
    searches,
    shared,
    system,
    system_logs,
    trash,
    uploads,
)
from retllm_web.pages.blueprint import pages

__all__ = [
    "access",
    "account",
    "attempts",
    "audit",
    "chosen",
    "collections",
    "compare",
    "duplicates",
    "evaluations",
    "evidence",
    "exports",
    "facets",
    "imports",
    "items",
    "job",
    "job_actions",
    "jobs",
    "links",
    "maps",
    "members",
    "models",
    "ocr",
    "overview",
    "people",
    "places",
    "quality",
    "register",
    "review",
    "saved_views",
    "search_page",
    "searches",
    "shared",
    "system",
    "system_logs",
    "trash",
    "uploads",
]


def register(app: Flask) -> None:
    """Register the pages, their assets and their formats on ``app``."""
    app.config["BOOTSTRAP_SERVE_LOCAL"] = True
    Bootstrap5(app)
    app.register_blueprint(
        Blueprint("charts", charts.__name__, static_folder="static", static_url_path="/static/charts")
    )
    formats.install(app)
    app.register_blueprint(pages)
    app.register_blueprint(shared.shared)
