"""The web application."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask_openapi.openapi import OpenAPI
from werkzeug.middleware.proxy_fix import ProxyFix

from retllm.db.session import sessions_of
from retllm.identity.secret_key import secret_key
from retllm.job_kinds import register_handlers
from retllm.media.storage import Storage, get_storage
from retllm.queue.notifications import Notifier
from retllm.queue.routing import routing_of
from retllm.settings import Settings, get_settings
from retllm_web import api, pages
from retllm_web.api.spec import INFO, SECURITY_SCHEMES, ErrorBody
from retllm_web.http import auth, bodies, decoding, errors, health, long_answers, metrics, middleware
from retllm_web.http.services import Notifying, Services

# form parts that are not files: the query of a search, the CSRF token
_OTHER_PARTS = 100
# UTF-8 needs at most 4 bytes a character, JSON escapes up to 6
_BYTES_PER_CHAR = 6
_MIN_FORM_MEMORY = 500_000


def create_app(
    settings: Settings | None = None, *, storage: Storage | None = None, notifier: Notifying | None = None
) -> OpenAPI:
    """Return the app: health checks, metrics, the REST API under /api/v1, and the pages.

    ``storage`` and ``notifier`` come from the settings unless given.

    Raises:
        StackError: no database is configured, or the secret key is easy to guess or cannot be stored.
    """
    settings = settings or get_settings()
    register_handlers()
    app = OpenAPI(
        __name__,
        info=INFO,
        security_schemes=SECURITY_SCHEMES,
        validation_error_model=ErrorBody,
        validation_error_callback=errors.raise_invalid,
        # the UI pages load scripts from other hosts or need a plugin; api.spec serves the document itself
        doc_ui=False,
    )
    app.request_class = bodies.Request
    app.config.update(_config(settings))
    _behind_proxies(app, settings.proxies)
    app.extensions["retllm"] = Services(
        # one connection for each thread of the server
        sessions=sessions_of(settings, pool_size=settings.web_threads),
        storage=storage or get_storage(settings),
        notifier=notifier or Notifier(settings.redis_url, routing_of(settings)),
        settings=settings,
    )
    middleware.install(app)
    errors.install(app)
    auth.install(app, settings.redis_url)
    decoding.install(app, settings.decoders_at_once)
    long_answers.install(app, settings.web_threads)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics.blueprint)
    api.register(app)
    pages.register(app)
    return app


def _behind_proxies(app: OpenAPI, number: int) -> None:
    """Trust the address, scheme and host that the last ``number`` proxies report, and nobody else's."""
    if number:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]  # as Flask documents it
            app.wsgi_app, x_for=number, x_proto=number, x_host=number, x_prefix=0
        )


def _config(settings: Settings) -> dict[str, Any]:
    return {
        "SECRET_KEY": secret_key(settings),
        "MAX_CONTENT_LENGTH": settings.max_request_bytes,
        "MAX_FORM_PARTS": settings.max_archive_files + _OTHER_PARTS,
        "MAX_FORM_MEMORY_SIZE": max(_MIN_FORM_MEMORY, _BYTES_PER_CHAR * settings.max_text_chars),
        "SESSION_COOKIE_NAME": "retllm_session",
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_SECURE": settings.secure_cookies,
        # the row of a session says when it expires; the cookie's signature must not expire earlier
        "PERMANENT_SESSION_LIFETIME": timedelta(days=3650),
        # the blueprints check it, after what can be checked without the body
        "WTF_CSRF_CHECK_DEFAULT": False,
        # a CSRF token is valid as long as its session
        "WTF_CSRF_TIME_LIMIT": None,
    }
