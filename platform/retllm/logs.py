"""Logging to stderr: one line for each event, with ``job_id`` and ``unit_id``, or ``request_id``.

Secrets are redacted (:mod:`retllm.redaction`).
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
    """Writes to the current ``sys.stderr``, even after it has been replaced."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


class _RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Redacts the complete line, including tracebacks and messages of libraries."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


_SHARED: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


_others: list[logging.Handler] = []


def handler(log_format: Format = "console") -> logging.Handler:
    """Return a handler that writes to stderr, as text for people or as one JSON object a line."""
    stream_handler = _Stderr()
    stream_handler.setFormatter(formatter(log_format))
    return stream_handler


def formatter(log_format: Format, *before: structlog.types.Processor) -> logging.Formatter:
    """Return what makes a line without secrets of a record; ``before`` changes what a line has before that."""
    renderers: list[structlog.types.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    return _RedactingFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *before, *renderers],
    )


def add_handler(other: logging.Handler) -> None:
    """Give every line to another handler too, from now on; it must not block."""
    _others.append(other)
    logging.getLogger().addHandler(other)


def configure(level: str, log_format: Format = "console") -> None:
    """Send the log lines of structlog and of libraries to stderr in one format, from ``level`` up."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    root = logging.getLogger()
    root.handlers = [handler(log_format), *_others]
    root.setLevel(level)
    sys.excepthook = _report_crash
    threading.excepthook = _report_thread_crash
    if log_format == "json":
        logging.captureWarnings(True)
    # clients of the model hubs log one line for each file, which adds nothing to our own lines
    for noisy in ("httpx", "httpcore", "urllib3", "open_clip", "PIL"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def _report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught exception as Python does, with secrets redacted."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
    record = logging.LogRecord("retllm", logging.CRITICAL, __file__, 0, "crashed", (), (kind, error, trace))
    for other in _others:
        other.handle(record)


def _report_thread_crash(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None and not issubclass(crash.exc_type, SystemExit):
        _report_crash(crash.exc_type, crash.exc_value, crash.exc_traceback)


def carried(call: Callable[Arguments, ResultT]) -> Callable[Arguments, ResultT]:
    """Wrap ``call`` for use in another thread, so that its log lines have the context of this one."""
    context = contextvars.copy_context()

    def in_context(*args: Arguments.args, **kwargs: Arguments.kwargs) -> ResultT:
        # a copy for each call: a context can be entered by one thread only
        return context.copy().run(call, *args, **kwargs)

    return in_context
