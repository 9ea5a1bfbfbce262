"""The page to search from."""

from __future__ import annotations

from flask import render_template
from flask.typing import ResponseReturnValue

from retllm_web.pages.blueprint import pages


@pages.get("/search")
def search_page() -> ResponseReturnValue:
    """The page."""
    return render_template("search_page.html")
