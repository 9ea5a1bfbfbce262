"""Gunicorn's configuration, from the platform's settings; ``--config python:retllm.stack.gunicorn_conf``.

One process with threads: requests wait for the database and for uploads, not for the processor.
"""

from __future__ import annotations

import resource

from retllm.settings import get_settings
from retllm.stack import gunicorn_answers

_settings = get_settings()
gunicorn_answers.install()

_CONNECTIONS = 1000
# each connection has a file descriptor, and an upload temporary files; the database and the decoders need some too
_FILES_PER_CONNECTION = 3
_OTHER_FILES = 200


def _connections() -> int:
    """As many connections as there are file descriptors for; the soft limit is raised as far as that needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS * _FILES_PER_CONNECTION + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return _CONNECTIONS
    return max(_settings.web_threads + 1, min(_CONNECTIONS, (soft - _OTHER_FILES) // _FILES_PER_CONNECTION))


bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
workers = 1
worker_class = "retllm.stack.gunicorn_worker.Worker"
threads = _settings.web_threads
worker_connections = _connections()
# of the whole process, not of a request: gthread's heart beats while its threads work
timeout = 120
graceful_timeout = 10
keepalive = 5
# files are sent through the worker's own socket, which gives up on clients that do not read
sendfile = False
loglevel = _settings.log_level.lower()
# in the form of all other lines; the requests log themselves, with their id
logconfig_dict = {
    "handlers": {"ours": {"()": "retllm.logs.handler", "log_format": _settings.log_format}},
    "root": {"level": _settings.log_level, "handlers": ["ours"]},
    "loggers": {"gunicorn.error": {"level": _settings.log_level, "handlers": [], "propagate": True}},
}
# it would be one file for every server of this account
control_socket_disable = True
