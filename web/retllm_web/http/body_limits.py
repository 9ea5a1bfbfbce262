"""The size that the body of a request may have, by its route.

Every request is checked in this order: who sends it, what they may see and change, how large its body may be, and only
then what the body says. Nobody can thus make the server read or parse what they may not send.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import ijson
from flask import current_app, request

from retllm.errors import TooLarge
from retllm.review.reports import MAX_BYTES as REPORT_BYTES
from retllm.settings import Settings
from retllm_web.http.services import services

_KIB, _MIB = 1 << 10, 1 << 20
# texts in JSON are read into memory; files come as multipart, which is streamed
_TEXTS = 32 * _MIB
# lists of the names of files, at most 1,000 of them, or 20,000 of at most 1,000 characters
_NAMES = 32 * _MIB
# a value or the name of a member in JSON; a body of this many takes about a second
_NODES = 500_000
# UTF-8 has at most 4 bytes for a character, each of which a form writes as %XX
_FORM_BYTES_PER_CHAR = 12


@dataclass(frozen=True)
class Limit:
    """What a route takes.

    Attributes:
        size: of the body, in bytes; None is that of the settings for uploads.
        parts: of a form; None is that of the settings for uploads.
        changes: whether the sender needs the right to change the collection, which is checked before the body is read.
    """

    size: int | None
    parts: int | None = 1000
    changes: bool = False


WITHOUT_ACCOUNT = Limit(64 * _KIB, 10)
# a form with all settings of a search, whose sender's session has ended
_ENDED = Limit(64 * _KIB, 100)
ORDINARY = Limit(256 * _KIB)
_FILES = Limit(None, None, changes=True)

_BY_ROUTE = {
    "api.upload_items": _FILES,
    "api.send_files": _FILES,
    "api.append_part": _FILES,
    "pages.upload": _FILES,
    "pages.send_files": _FILES,
    "api.announce_files": Limit(_NAMES, changes=True),
    "api.note_unsent_files": Limit(_NAMES, changes=True),
    "api.expect_files": Limit(_NAMES, changes=True),
    "pages.close_upload": Limit(_NAMES, changes=True),
    "pages.tell_names_apart": Limit(_NAMES),
    "api.add_evaluation": Limit(REPORT_BYTES + _KIB),
    "pages.upload_run": Limit(REPORT_BYTES + _MIB),
}
_WITH_PICTURE = ("api.submit_search", "api.submit_search_of_several", "pages.search", "pages.search_anywhere")


def limit_of(endpoint: str | None, settings: Settings) -> Limit:
    """Return what a route takes from an account."""
    text = _FORM_BYTES_PER_CHAR * settings.max_text_chars
    if endpoint in _WITH_PICTURE:
        return Limit(settings.max_file_bytes + text + _MIB)
    if endpoint == "pages.add_text":
        return Limit(ORDINARY.size + text if ORDINARY.size else None)
    if endpoint == "pages.change_item":
        # what it was before comes with it, in JSON
        return Limit(ORDINARY.size + 3 * text if ORDINARY.size else None)
    return _BY_ROUTE.get(endpoint or "", ORDINARY)


def is_large() -> bool:
    """Return whether the route of this request takes so much that the right to send it is checked first."""
    return limit_of(request.endpoint, services().settings).changes


def restrict(*, known: bool) -> None:
    """Limit the body of this request; reading more gives 413.

    Args:
        known: whether an account sends it.
    """
    if known:
        limit = limit_of(request.endpoint, services().settings)
    else:
        limit = _ENDED if request.endpoint in ("pages.search", "pages.search_anywhere") else WITHOUT_ACCOUNT
    most: int = current_app.config["MAX_CONTENT_LENGTH"]
    size = limit.size
    if size is None:
        size = min(most, _TEXTS) if request.is_json else most
    request.max_content_length = min(most, size)
    if limit.parts is not None:
        request.max_form_parts = limit.parts


def require_few_nodes(body: bytes) -> None:
    """Reject JSON that is long in memory; one that is malformed is left to the parser.

    Raises:
        TooLarge: it has too many values.
    """
    if len(body) <= (ORDINARY.size or 0):
        return
    try:
        for number, _ in enumerate(ijson.basic_parse(io.BytesIO(body), use_float=True)):
            if number > _NODES:
                raise TooLarge(f"The body has more than {_NODES:,} values: send it in parts.", limit=_NODES)
    except (ijson.JSONError, ValueError, OverflowError):
        return
