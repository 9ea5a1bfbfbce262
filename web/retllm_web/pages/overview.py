"""The first page: what there is, what is at work, what failed."""

from __future__ import annotations

from flask import render_template
from flask.typing import ResponseReturnValue

from retllm_web.pages.blueprint import pages


@pages.get("/")
def overview() -> ResponseReturnValue:
    """The page."""
    return render_template("overview.html")
