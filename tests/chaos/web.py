"""The web server of the tests: the real application, with crashes on demand."""

from __future__ import annotations

from tests.chaos import crash

from retllm_web.wsgi import app

__all__ = ["app"]

crash.install("change")
