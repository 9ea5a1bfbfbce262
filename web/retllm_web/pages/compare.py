"""Searches side by side."""

from __future__ import annotations

from flask import redirect, url_for
from flask.typing import ResponseReturnValue

from retllm_web.pages.blueprint import pages


@pages.get("/compare")
def compare() -> ResponseReturnValue:
    """Two to six searches side by side."""
    return redirect(url_for("pages.jobs"))
