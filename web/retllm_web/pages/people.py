"""Accounts and their roles."""

from __future__ import annotations

from flask import render_template
from flask.typing import ResponseReturnValue

from retllm_web.pages.blueprint import pages


@pages.get("/people")
def people() -> ResponseReturnValue:
    """The page."""
    return render_template("people.html")
