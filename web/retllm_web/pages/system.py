"""Workers and queues."""

from __future__ import annotations

from flask import render_template
from flask.typing import ResponseReturnValue

from retllm_web.pages.blueprint import pages


@pages.get("/system")
def system() -> ResponseReturnValue:
    """The page."""
    return render_template("system.html")
