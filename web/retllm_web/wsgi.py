"""The WSGI entry point: ``gunicorn retllm_web.wsgi:app``."""

from __future__ import annotations

from retllm import logs
from retllm.operations.log_sender import send_lines
from retllm.settings import get_settings
from retllm_web.app import create_app

logs.configure(get_settings().log_level, get_settings().log_format)
send_lines(get_settings().redis_url, "web")
app = create_app()
