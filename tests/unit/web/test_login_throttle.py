"""Failed log-ins: at most 20 per account or address in a time window."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, Caller

from retllm.errors import TooManyTries
from retllm.settings import Settings
from retllm_web.app import create_app
from retllm_web.http import login_throttle
from retllm_web.http.login_throttle import MAX_WRONG, LoginThrottle

WRONG = "wrong wrong wrong"


def _try(app: OpenAPI, name: str, password: str = WRONG, address: str = "192.0.2.1") -> Any:
    """Return the response to a log-in of a new browser."""
    client = app.test_client()
    return client.post("/login", data={"name": name, "password": password}, environ_overrides={"REMOTE_ADDR": address})


@pytest.fixture
def app(app: OpenAPI) -> OpenAPI:
    """The app without CSRF protection."""
    app.config["WTF_CSRF_ENABLED"] = False
    return app


def test_after_20_wrong_tries_from_an_address_it_is_429_for_a_while(app: OpenAPI, ada: Caller) -> None:
    # each at another name
    tries = [_try(app, f"somebody{number}").status_code for number in range(MAX_WRONG)]
    assert tries == [401] * 20
    stopped = _try(app, "ada", PASSWORD)
    assert stopped.status_code == 429
    # on a busy machine the first may be minutes old
    assert 10 * 60 < int(stopped.headers["Retry-After"]) <= 15 * 60
    # from other addresses, log-ins work
    assert _try(app, "ada", PASSWORD, "192.0.2.2").status_code == 302


@pytest.mark.parametrize("name", ["ada", "ADA ", "nobody"])
def test_after_20_wrong_tries_at_a_name_from_anywhere_it_is_429_whether_it_is_known_or_not(
    app: OpenAPI, ada: Caller, name: str
) -> None:
    answers = [_try(app, name, WRONG, f"192.0.2.{number}") for number in range(MAX_WRONG + 1)]
    assert [one.status_code for one in answers] == [401] * 20 + [429]
    assert _try(app, name.strip().lower(), PASSWORD, "198.51.100.7").status_code == 429


def test_the_owner_gets_in_where_they_were_before_whoever_else_tries_the_name(app: OpenAPI, ada: Caller) -> None:
    home = "203.0.113.9"
    assert _try(app, "ada", PASSWORD, home).status_code == 302
    for number in range(MAX_WRONG):
        assert _try(app, "ada", WRONG, f"192.0.2.{number}").status_code == 401
    assert _try(app, "ada", PASSWORD, "198.51.100.7").status_code == 429
    assert _try(app, "ada", PASSWORD, home).status_code == 302


def test_a_right_password_clears_the_account_and_not_the_address(app: OpenAPI, ada: Caller, bob: Caller) -> None:
    # logging in to another account does not reset the address
    for _ in range(MAX_WRONG - 1):
        _try(app, "bob")
        assert _try(app, "ada", PASSWORD).status_code == 302
    assert _try(app, "bob").status_code == 401
    assert _try(app, "ada", PASSWORD).status_code == 429
    # a successful log-in resets the owner's own failures
    for number in range(MAX_WRONG - 1):
        _try(app, "ada", WRONG, f"198.51.100.{number}")
    assert _try(app, "ada", PASSWORD, "203.0.113.1").status_code == 302
    assert _try(app, "ada", WRONG, "203.0.113.2").status_code == 401
    assert _try(app, "ada", PASSWORD, "203.0.113.3").status_code == 302


def _ask(client: FlaskClient, token: str, address: str = "192.0.2.1") -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return client.get("/api/v1/me", headers=headers, environ_overrides={"REMOTE_ADDR": address})


def test_after_20_wrong_tokens_from_an_address_it_is_429_and_right_ones_go_on(client: FlaskClient, ada: Caller) -> None:
    assert [_ask(client, f"rlm_{number}").status_code for number in range(MAX_WRONG)] == [401] * 20
    stopped = _ask(client, "rlm_x")
    assert stopped.status_code == 429
    assert stopped.json["error"]["code"] == "too_many_tries"
    assert int(stopped.headers["Retry-After"]) == stopped.json["error"]["detail"]["retry_after"] > 0
    assert _ask(client, ada.token).status_code == 200
    assert _ask(client, "rlm_x", "192.0.2.2").status_code == 401


def test_a_program_with_an_old_token_shuts_nobody_out_of_the_pages(
    app: OpenAPI, client: FlaskClient, ada: Caller
) -> None:
    for _ in range(MAX_WRONG + 1):
        _ask(client, "rlm_old")
    assert _try(app, "ada", PASSWORD).status_code == 302


def test_all_processes_count_together(settings: Settings, ada: Caller) -> None:
    apps = [create_app(settings) for _ in range(3)]
    for app in apps:
        app.config["WTF_CSRF_ENABLED"] = False
    turns = itertools.cycle(apps)
    assert [_try(next(turns), "ada").status_code for _ in range(MAX_WRONG + 1)] == [401] * 20 + [429]


def test_the_limit_holds_without_redis(settings: Settings, ada: Caller) -> None:
    app = create_app(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    app.config["WTF_CSRF_ENABLED"] = False
    assert [_try(app, "ada").status_code for _ in range(MAX_WRONG + 1)] == [401] * 20 + [429]


def test_a_name_or_an_address_can_not_be_read_off_the_counters(redis_url: str) -> None:
    import redis

    counters = LoginThrottle(redis_url, "the secret of one server")
    counters.count_failure(login_throttle.account("quokka"), login_throttle.address("203.0.113.77"))
    with redis.Redis.from_url(redis_url) as connection:
        names = b" ".join(connection.keys("*"))
    assert b"quokka" not in names
    assert b"203.0.113.77" not in names


def test_a_try_that_is_refused_does_not_prolong_the_wait() -> None:
    counters = LoginThrottle(None, "secret")
    source = login_throttle.account("ada")
    for _ in range(MAX_WRONG):
        counters.count_failure(source)
    first = counters.wait(source)
    for _ in range(50):
        counters.count_failure(source)
    assert counters.wait(source) <= first
    with pytest.raises(TooManyTries):
        counters.check(source)
    counters.reset(source)
    assert counters.wait(source) == 0


def test_who_has_a_whole_network_of_ipv6_has_no_more_tries(app: OpenAPI, ada: Caller) -> None:
    tries = [_try(app, f"n{number}", WRONG, f"2001:db8:1:2::{number:x}").status_code for number in range(MAX_WRONG + 1)]
    assert tries == [401] * 20 + [429]
    assert _try(app, "ada", PASSWORD, "2001:db8:1:3::1").status_code == 302


@pytest.mark.parametrize(
    ("redis_url", "storage"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://away/1", "rediss://away/1"),
        ("unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
    ],
)
def test_the_counters_are_where_redis_is(redis_url: str, storage: str) -> None:
    assert login_throttle._storage_url(redis_url) == storage
