"""Pieces of pages that scripts ask for again and again: what did not change is answered with 304 and no body."""

from __future__ import annotations

import hashlib
import json

from flask import Response, after_this_request, request

from retllm_web.http.auth import current_actor


def unchanged(*stamp: object) -> Response | None:
    """The answer 304 if the asker has the piece with this stamp already; None if it must be made anew.

    Call it before the piece is read from the database: a change in between then shows one request later, instead of
    never. The answer that follows carries the stamp as its ETag.

    Args:
        stamp: values that change with everything that the piece shows, such as counts and the newest times. The account
            that asks and its role are part of it anyway.
    """
    user = current_actor()
    told = json.dumps([str(user.id), user.role, *stamp], default=str)
    etag = hashlib.sha256(told.encode()).hexdigest()[:32]
    # weak: the token of a form is another one in every answer
    if request.if_none_match.contains_weak(etag):
        answer = Response(status=304)
        del answer.headers["Content-Type"]
        answer.set_etag(etag, weak=True)
        return answer

    @after_this_request
    def _tagged(response: Response) -> Response:
        # an error is no state of the piece
        if response.status_code == 200:
            response.set_etag(etag, weak=True)
        return response

    return None
