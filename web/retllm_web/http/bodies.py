"""Bodies of requests: without a Content-Length, which server and framework do not limit, and forms with old names."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import IO, BinaryIO, Protocol, cast
from urllib.parse import unquote_to_bytes

import flask
from werkzeug import formparser
from werkzeug.datastructures import Headers
from werkzeug.sansio.multipart import MultipartDecoder
from werkzeug.utils import cached_property
from werkzeug.wsgi import LimitedStream, get_input_stream

from retllm.media.name_encodings import decoded
from retllm.media.outcomes import IncomingFile

ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
"""The pattern of a line of text with at least one visible character."""


class Request(flask.Request):
    """A request that enforces ``max_content_length`` without a Content-Length, and blames the client for a bad body."""

    @cached_property
    def stream(self) -> IO[bytes]:
        """Return the unread part of the body."""
        body, limit = _Body(self.environ["wsgi.input"]), self.max_content_length
        if not self.content_length and limit is not None and "wsgi.input_terminated" in self.environ:
            return cast("IO[bytes]", _Chunks(cast("IO[bytes]", body), limit + 1, is_max=True))
        return get_input_stream({**self.environ, "wsgi.input": body}, max_content_length=limit)


def sent_files(*, quoted: bool = False) -> list[IncomingFile]:
    """Return the files of the form of this request.

    Args:
        quoted: whether their names are percent-encoded; otherwise ``%22``, ``%0D`` and ``%0A`` in a name are taken for
            the characters that browsers write so.
    """
    name_of = _unquoted if quoted else _name_of_form
    # a browser sends an empty file field as a part without name and content
    parts = [part for part in flask.request.files.getlist("file") if part.filename]
    return [IncomingFile(name_of(part.filename or ""), cast("BinaryIO", part.stream)) for part in parts]


def _unquoted(name: str) -> str:
    (text,) = decoded([unquote_to_bytes(name)])
    return text


def _name_of_form(name: str) -> str:
    # the parser has decoded quotation marks
    return name.replace("%0D", "\r").replace("%0A", "\n")


# browsers write backslashes as they are, and quotation marks as %22; other programs write \" for these
_PLAIN_BACKSLASH = re.compile(r"\\(?!\"(?!\s*(?:;|$)))", re.MULTILINE)
# a name of a file as some programs write it: without quotation marks, or with its encoding (RFC 5987); what is in
# quotation marks is passed over
_NAME = re.compile(
    rb"""
    "(?:\\"(?![ \t]*(?:;|[\r\n]|$))|[^"\r\n])*"
    | (;[ \t]*filename) (?: [ \t]*=[ \t]* ([^\s";][^\r\n";]*)
                           | \*[ \t]*=[ \t]* "?([\w.:+-]*)'[\w-]*'([^\s";]*)"? )
    """,
    re.IGNORECASE | re.VERBOSE,
)


# others take a time that grows with the square of the length, or are no encodings of text
_CHARSETS = re.compile(
    rb"utf-?8|us-ascii|iso-8859-\d+|windows-\d+|cp\d+|shift_jis|euc-\w+|gb\w+|big5\w*|koi8-\w|tis-620", re.IGNORECASE
)


class _Decoder(MultipartDecoder):
    """Reads headers of parts as browsers write them, also those that are not UTF-8, as some programs send names."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        (text,) = decoded([_NAME.sub(_quoted_name, bytes(data))])
        return super()._parse_headers(_PLAIN_BACKSLASH.sub(r"\\\\", text).encode())


def _quoted_name(found: re.Match[bytes]) -> bytes:
    """Return a parameter ``filename`` as browsers write it."""
    begin, plain, charset, quoted = found.groups()
    if begin is None:
        return found[0]
    name = plain.rstrip() if quoted is None else _name_in(charset, quoted)
    return bytes(begin) + b'="' + name.replace(b'"', b"%22") + b'"'


def _name_in(charset: bytes, quoted: bytes) -> bytes:
    """Return a percent-encoded name in UTF-8 if it is in the encoding that it says, else as it is."""
    name = unquote_to_bytes(quoted)
    if _CHARSETS.fullmatch(charset):
        with suppress(LookupError, ValueError):
            name = name.decode(charset.decode()).encode()
    # a line would end the header
    return name.replace(b"\r", b"%0D").replace(b"\n", b"%0A")


# the parser of forms has no other place for it; it would drop the whole form
formparser.MultipartDecoder = _Decoder  # type: ignore[attr-defined]


class _Chunks(LimitedStream):
    """Rejects a body that reaches the limit, where werkzeug would silently truncate it."""

    def readinto(self, buffer: bytearray) -> int | None:  # type: ignore[override]  # werkzeug's own is as narrow
        count = super().readinto(buffer)
        if self.is_exhausted:
            self.on_exhausted()
        return count

    def readall(self) -> bytes:
        data = super().readall()
        if self.is_exhausted:
            self.on_exhausted()
        return data


class _Readable(Protocol):
    def read(self, size: int = -1) -> bytes: ...


class _Body:
    """The server's input stream; turns Gunicorn's own exceptions for malformed chunks into OSError."""

    def __init__(self, inner: _Readable) -> None:
        self._inner = inner

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes.

        Raises:
            OSError: the body ended early or is malformed; the framework answers 400.
        """
        try:
            return self._inner.read(size)
        except OSError:
            raise
        except Exception as error:
            raise OSError("the body is malformed") from error
