"""Metrics for Prometheus. They cover all accounts, so the endpoint needs its own token, and is off without one."""

from __future__ import annotations

import hmac
from functools import partial

from flask import Blueprint, Response, abort, request

from retllm.errors import Unauthorized
from retllm.operations import scrape
from retllm.queue.notifications import hints
from retllm_web.http.services import services

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the metrics in the text format of Prometheus.

    Raises:
        NotFound: the setting RETLLM_METRICS_TOKEN is not set.
        Unauthorized: the request does not send it as bearer token.
    """
    settings, routing = services().settings, services().routing
    if not settings.metrics_token:
        abort(404)
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    fits = hmac.compare_digest(given.strip().encode(), settings.metrics_token.encode())
    if scheme.lower() != "bearer" or not fits:
        raise Unauthorized("Send the value of RETLLM_METRICS_TOKEN as bearer token.")
    body = scrape.page(services().sessions, routing, partial(hints, settings.redis_url, routing.queues))
    return Response(body, content_type=scrape.CONTENT_TYPE)
