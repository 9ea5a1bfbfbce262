"""The bodies of requests, where the server and the framework leave gaps: those in chunks, whose length none claims."""

from __future__ import annotations

from typing import IO, Protocol, cast

import flask
from werkzeug.utils import cached_property
from werkzeug.wsgi import LimitedStream, get_input_stream

ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
"""The pattern of one line of text with something to see on it."""


class Request(flask.Request):
    """A request whose body is never longer than ``max_content_length``, claimed or not, and never a fault of ours."""

    @cached_property
    def stream(self) -> IO[bytes]:
        """What is left of the body."""
        body, limit = _Body(self.environ["wsgi.input"]), self.max_content_length
        if self.content_length is None and limit is not None and "wsgi.input_terminated" in self.environ:
            return cast("IO[bytes]", _Chunks(cast("IO[bytes]", body), limit, is_max=True))
        return get_input_stream({**self.environ, "wsgi.input": body}, max_content_length=limit)


class _Chunks(LimitedStream):
    """Refuses what is longer also where all is read at once; werkzeug cuts it there, and half of it is believed."""

    def readall(self) -> bytes:
        data = super().readall()
        if self.is_exhausted:
            self.on_exhausted()
        return data


class _Readable(Protocol):
    def read(self, size: int = -1) -> bytes: ...


class _Body:
    """What the server reads. Where the chunks are broken Gunicorn raises errors of its own, which nobody else knows."""

    def __init__(self, inner: _Readable) -> None:
        self._inner = inner

    def read(self, size: int = -1) -> bytes:
        """``size`` bytes at most.

        Raises:
            OSError: there is no more, or it can't be read; the framework takes it for the client's fault.
        """
        try:
            return self._inner.read(size)
        except OSError:
            raise
        except Exception as error:
            raise OSError("the body can't be read") from error
