"""Gunicorn's configuration, from the platform's settings; ``--config python:retllm.stack.gunicorn_conf``.

One process with threads: requests wait for the database and for uploads, not for the processor.
"""

from __future__ import annotations

from retllm.settings import get_settings
from retllm.stack import gunicorn_answers

_settings = get_settings()
gunicorn_answers.install()

bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
workers = 1
worker_class = "gthread"
threads = _settings.web_threads
# of the whole process, not of a request: gthread's heart beats while its threads work
timeout = 120
graceful_timeout = 10
keepalive = 5
loglevel = _settings.log_level.lower()
# in the form of all other lines; the requests log themselves, with their id
logconfig_dict = {
    "handlers": {"ours": {"()": "retllm.logs.handler", "log_format": _settings.log_format}},
    "root": {"level": _settings.log_level, "handlers": ["ours"]},
    "loggers": {"gunicorn.error": {"level": _settings.log_level, "handlers": [], "propagate": True}},
}
# it would be one file for every server of this account
control_socket_disable = True
