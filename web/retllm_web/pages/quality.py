"""How good the results are, by the reviews and by evaluations."""

from __future__ import annotations

from flask import render_template
from flask.typing import ResponseReturnValue

from retllm_web.pages.blueprint import pages


@pages.get("/quality")
def quality() -> ResponseReturnValue:
    """The page."""
    return render_template("quality.html")
