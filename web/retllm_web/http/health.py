"""Health checks: liveness and readiness of this process."""

from __future__ import annotations

from typing import Any

import psycopg
import redis
import structlog
from flask import Blueprint, Response, jsonify

from retllm_web.http.services import services

log = structlog.get_logger(__name__)
blueprint = Blueprint("health", __name__)

_TIMEOUT_SECONDS = 2.0


@blueprint.get("/healthz")
def healthz() -> Response:
    """Return 200: the process is alive."""
    return jsonify({"alive": True})


@blueprint.get("/readyz")
def readyz() -> tuple[Response, int]:
    """Return 200 if the database and Redis answer, else 503, with the result of each check."""
    checks: dict[str, Any] = {"database": _run(_database), "redis": _run(_redis)}
    ready = all(check["ok"] for check in checks.values())
    return jsonify({"ready": ready, "checks": checks}), 200 if ready else 503


def _run(check: Any) -> dict[str, Any]:
    try:
        check()
    except (psycopg.Error, redis.RedisError, LookupError, OSError) as error:
        # log the server's address and account, but do not show them to the client
        log.warning("not_ready", check=check.__name__, reason=str(error))
        return {"ok": False, "reason": "not configured" if isinstance(error, LookupError) else "unreachable"}
    return {"ok": True}


def _database() -> None:
    # a connection of its own, since requests may hold all of the pool
    url = services().sessions.kw["bind"].url.set(drivername="postgresql")
    address = url.render_as_string(hide_password=False)
    with psycopg.connect(address, connect_timeout=int(_TIMEOUT_SECONDS)) as connection:
        connection.execute("SELECT 1")


def _redis() -> None:
    url = services().settings.redis_url
    if not url:
        raise LookupError("REDIS_URL is not set")
    with redis.Redis.from_url(
        url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
    ) as connection:
        connection.ping()
