"""Conditional responses for page fragments that scripts poll: 304 without a body if nothing changed."""

from __future__ import annotations

import hashlib
import json

from flask import Response, after_this_request, request

from retllm_web.http.auth import current_actor


def unchanged(*values: object) -> Response | None:
    """Return a 304 response if the client has the fragment for these values; None if it must be rendered.

    Call it before reading the fragment from the database: a change in between is then shown by the next request;
    otherwise it would never be shown. The response that follows gets the values as its ETag.

    Args:
        values: values that change whenever the fragment changes, such as counts and the newest times. The account of
            the request and its role are always included.
    """
    user = current_actor()
    text = json.dumps([str(user.id), user.role, *values], default=str)
    etag = hashlib.sha256(text.encode()).hexdigest()[:32]
    # weak, because the CSRF token in a form differs in every response
    if request.if_none_match.contains_weak(etag):
        answer = Response(status=304)
        del answer.headers["Content-Type"]
        answer.set_etag(etag, weak=True)
        return answer

    @after_this_request
    def _tagged(response: Response) -> Response:
        # no ETag for errors
        if response.status_code == 200:
            response.set_etag(etag, weak=True)
        return response

    return None
