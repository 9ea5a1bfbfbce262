"""Answers that take long to make or to send: an account has few at a time, and most hold no slot of the server.

An export reads the database in many short transactions, so that it holds neither a connection nor a lock while its
client reads. A stored file is only read and sent; slow clients are bounded by the server (``stack.gunicorn_worker``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar
from uuid import UUID

from flask import Flask, Response, current_app

from retllm.errors import Busy
from retllm_web.http.auth import current_actor
from retllm_web.http.lines import Places
from retllm_web.http.waiting import without_slot

Piece = TypeVar("Piece", str, bytes)

_RETRY_SECONDS = 5
_EXPORTS, _WAITS, _COMPARES = "retllm_exports", "retllm_waits", "retllm_compares"


def exports_at_once(threads: int) -> int:
    """Return how many exports a server with so many threads makes at a time; an account may have half of them."""
    return max(2, threads // 2)


def install(app: Flask, threads: int) -> None:
    """Give ``app`` places for exports, for requests that wait and for filters, by the threads of its server."""
    app.extensions[_EXPORTS] = Places(exports_at_once(threads))
    app.extensions[_WAITS] = Places(max(2, threads))
    # these hold slots, and leave some to others
    app.extensions[_COMPARES] = Places(max(1, threads * 3 // 4))


def export(pieces: Iterator[Piece], media_type: str, name: str) -> Response:
    """Return an answer with an attachment that is made while it is sent; nothing of ``pieces`` is read before.

    Raises:
        Busy: too many exports are made already, of this account or of all.
    """
    places: Places = current_app.extensions[_EXPORTS]
    account = current_actor().id
    if not places.take(account):
        raise Busy("Other exports are still being made: try again in a few seconds.", retry_after=_RETRY_SECONDS)
    over = ExitStack()
    over.callback(places.leave, account)
    response = Response(_until(over, outside(pieces)), mimetype=media_type)
    # what is closed before it begins, such as the answer to HEAD, never comes to its end
    response.call_on_close(over.close)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _until(over: ExitStack, pieces: Iterator[Piece]) -> Iterator[Piece]:
    with over:
        yield from pieces


def outside(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Return the pieces of an answer, which are made and sent without a slot of the server."""
    holds_no_slot = without_slot()

    def sent() -> Iterator[Piece]:
        with holds_no_slot:
            yield from pieces

    return sent()


@contextmanager
def waiting(account: UUID) -> Iterator[bool]:
    """Hold a place to wait inside the context, without a slot of the server; yield False if none is free.

    The body of the request must have been read before.
    """
    places: Places = current_app.extensions[_WAITS]
    if not places.take(account):
        yield False
        return
    try:
        with without_slot():
            yield True
    finally:
        places.leave(account)


@contextmanager
def comparing(account: UUID) -> Iterator[None]:
    """Hold a place to compare items with a filter inside the context.

    Raises:
        Busy: too many are compared already, by this account or by all.
    """
    places: Places = current_app.extensions[_COMPARES]
    if not places.take(account):
        raise Busy("Other filters are still being compared with items: try again soon.", retry_after=_RETRY_SECONDS)
    try:
        yield
    finally:
        places.leave(account)
