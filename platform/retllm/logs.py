"""Logs: one line an event, on stderr, each carrying its subject (``job_id`` or ``request_id``)."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time, also after something has put another stream in its place."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


def configure(level: str) -> None:
    """Send structlog's and the libraries' log lines to stderr in one format, from ``level`` up."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # requests of the model hubs' clients, one line for each file, say nothing that our own lines don't
    for noisy in ("httpx", "httpcore", "urllib3", "open_clip", "PIL"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
