"""Gunicorn's configuration from the platform's settings: ``--config python:retllm.stack.gunicorn_conf``.

One process with threads: requests wait for the database and for uploads rather than for the CPU.
"""

from __future__ import annotations

import resource
import sys

from retllm.private import keep_private
from retllm.settings import get_settings
from retllm.stack import gunicorn_answers

_settings = get_settings()
keep_private(_settings)
gunicorn_answers.install()

_CONNECTIONS = 1000
# file descriptors: one for each connection, more for temporary files of uploads, the database and the decoders
_FILES_PER_CONNECTION = 3
_OTHER_FILES = 200


# A thread that comes back from the database waits so long for each other one that computes, and a request comes back
# from there ten times. With 5 ms, Python's usual value, a short request waits for all long ones
_SWITCH_SECONDS = 0.0005


def post_worker_init(_worker: object) -> None:
    """Let threads take turns often."""
    sys.setswitchinterval(_SWITCH_SECONDS)


def _connections() -> int:
    """Return the maximum number of connections, and raise the soft limit of file descriptors for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    required = _CONNECTIONS * _FILES_PER_CONNECTION + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < required:
        soft = required if hard == resource.RLIM_INFINITY else min(hard, required)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return _CONNECTIONS
    return max(_settings.web_threads + 1, min(_CONNECTIONS, (soft - _OTHER_FILES) // _FILES_PER_CONNECTION))


bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
workers = 1
worker_class = "retllm.stack.gunicorn_worker.Worker"
threads = _settings.web_threads
worker_connections = _connections()
# of the whole process, not of a request: gthread sends heartbeats while its threads work
timeout = 120
graceful_timeout = 10
# longer than proxies keep an unused connection to a server (nginx: 60 s), and than people think between two clicks: a
# request that is sent while the server closes the connection is lost. Idle connections are the first to make room
keepalive = 65
# what a client says of proxies counts by RETLLM_PROXIES alone (the app's ProxyFix); Gunicorn would believe every client
# of this machine its scheme, and its SCRIPT_NAME
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
# files are sent by ClientSocket, which drops clients that do not read
sendfile = False
loglevel = _settings.log_level.lower()
# the format of all other lines; the application logs requests, with their ids
logconfig_dict = {
    "handlers": {"ours": {"()": "retllm.logs.handler", "log_format": _settings.log_format}},
    "root": {"level": _settings.log_level, "handlers": ["ours"]},
    "loggers": {"gunicorn.error": {"level": _settings.log_level, "handlers": [], "propagate": True}},
}
# all servers of this account would share one socket file
control_socket_disable = True
