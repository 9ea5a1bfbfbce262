"""Logs: one line an event, on stderr, each carrying its subject (``job_id`` and ``unit_id``, or ``request_id``).

No line tells a secret (:mod:`retllm.redaction`).
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Literal, ParamSpec, TextIO, TypeVar

import structlog

from retllm.redaction import redact

Arguments = ParamSpec("Arguments")
ResultT = TypeVar("ResultT")
Format = Literal["console", "json"]


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time, also after something has put another stream in its place."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


class _Discreet(structlog.stdlib.ProcessorFormatter):
    """Hides secrets in the finished line, so that none slips by in a traceback or a library's message."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


_SHARED: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def handler(log_format: Format = "console") -> logging.Handler:
    """What writes lines of every logger to stderr: for people, or (``json``) each one JSON object."""
    made = _Stderr()
    rendered: list[structlog.types.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    made.setFormatter(
        _Discreet(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    return made


def configure(level: str, log_format: Format = "console") -> None:
    """Send structlog's and the libraries' log lines to stderr in one format, from ``level`` up."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [handler(log_format)]
    root.setLevel(level)
    sys.excepthook = _tell_crash
    threading.excepthook = _tell_crash_of_thread
    if log_format == "json":
        logging.captureWarnings(True)
    # requests of the model hubs' clients, one line for each file, say nothing that our own lines don't
    for noisy in ("httpx", "httpcore", "urllib3", "open_clip", "PIL"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def _tell_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nobody caught, as Python does, but for secrets."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _tell_crash_of_thread(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None and not issubclass(crash.exc_type, SystemExit):
        _tell_crash(crash.exc_type, crash.exc_value, crash.exc_traceback)


def carried(call: Callable[Arguments, ResultT]) -> Callable[Arguments, ResultT]:
    """``call`` for another thread, whose log lines then carry the same subject; a thread by itself begins with none."""
    context = contextvars.copy_context()

    def there(*args: Arguments.args, **kwargs: Arguments.kwargs) -> ResultT:
        # a copy each time: two threads can't be in one context at once
        return context.copy().run(call, *args, **kwargs)

    return there
