"""Failed logins: at most 20 per account or address in a time window, and few at a time."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from flask_openapi import OpenAPI
from tests.unit.web.conftest import PASSWORD, Caller

from retllm.errors import TooManyTries
from retllm.identity import passwords
from retllm.settings import Settings
from retllm_web.app import create_app
from retllm_web.http import login_throttle
from retllm_web.http.lines import Line
from retllm_web.http.login_throttle import MAX_WRONG, LoginThrottle

WRONG = "wrong wrong wrong"


def _log_in(app: OpenAPI, name: str, password: str = WRONG, address: str = "192.0.2.1") -> Any:
    """Return the response to a login in a new browser."""
    return _log_in_with(app.test_client(), name, password, address)


def _log_in_with(client: FlaskClient, name: str, password: str = WRONG, address: str = "192.0.2.1") -> Any:
    return client.post("/login", data={"name": name, "password": password}, environ_overrides={"REMOTE_ADDR": address})


@pytest.fixture
def app(app: OpenAPI) -> OpenAPI:
    """The app without CSRF protection."""
    app.config["WTF_CSRF_ENABLED"] = False
    return app


def test_an_address_is_blocked_for_up_to_15_minutes_after_20_failed_logins(app: OpenAPI, ada: Caller) -> None:
    # each with another name
    tries = [_log_in(app, f"somebody{number}").status_code for number in range(MAX_WRONG)]
    assert tries == [401] * 20
    stopped = _log_in(app, "ada", PASSWORD)
    assert stopped.status_code == 429
    # on a busy machine the first may be minutes old
    assert 10 * 60 < int(stopped.headers["Retry-After"]) <= 15 * 60
    # logins from other addresses work
    assert _log_in(app, "ada", PASSWORD, "192.0.2.2").status_code == 302


@pytest.mark.parametrize("name", ["ada", "ADA ", "nobody"])
def test_a_name_is_blocked_at_all_addresses_after_20_failed_logins_whether_it_exists_or_not(
    app: OpenAPI, ada: Caller, name: str
) -> None:
    answers = [_log_in(app, name, WRONG, f"192.0.2.{number}") for number in range(MAX_WRONG + 1)]
    assert [one.status_code for one in answers] == [401] * 20 + [429]
    assert _log_in(app, name.strip().lower(), PASSWORD, "198.51.100.7").status_code == 429


def test_a_blocked_account_can_log_in_from_an_address_that_it_used_before(app: OpenAPI, ada: Caller) -> None:
    home = "203.0.113.9"
    assert _log_in(app, "ada", PASSWORD, home).status_code == 302
    for number in range(MAX_WRONG):
        assert _log_in(app, "ada", WRONG, f"192.0.2.{number}").status_code == 401
    assert _log_in(app, "ada", PASSWORD, "198.51.100.7").status_code == 429
    assert _log_in(app, "ada", PASSWORD, home).status_code == 302


def test_a_successful_login_resets_the_failures_of_the_account_but_not_of_the_address(
    app: OpenAPI, ada: Caller, bob: Caller
) -> None:
    # logging in to another account does not reset the address
    for _ in range(MAX_WRONG - 1):
        _log_in(app, "bob")
        assert _log_in(app, "ada", PASSWORD).status_code == 302
    assert _log_in(app, "bob").status_code == 401
    assert _log_in(app, "ada", PASSWORD).status_code == 429
    # a successful login resets the failures of the account
    for number in range(MAX_WRONG - 1):
        _log_in(app, "ada", WRONG, f"198.51.100.{number}")
    assert _log_in(app, "ada", PASSWORD, "203.0.113.1").status_code == 302
    assert _log_in(app, "ada", WRONG, "203.0.113.2").status_code == 401
    assert _log_in(app, "ada", PASSWORD, "203.0.113.3").status_code == 302


def _get_me(client: FlaskClient, token: str, address: str = "192.0.2.1") -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return client.get("/api/v1/me", headers=headers, environ_overrides={"REMOTE_ADDR": address})


def test_20_invalid_tokens_block_further_invalid_tokens_from_the_address_but_not_valid_ones(
    client: FlaskClient, ada: Caller
) -> None:
    assert [_get_me(client, f"rlm_{number}").status_code for number in range(MAX_WRONG)] == [401] * 20
    stopped = _get_me(client, "rlm_x")
    assert stopped.status_code == 429
    assert stopped.json["error"]["code"] == "too_many_tries"
    assert int(stopped.headers["Retry-After"]) == stopped.json["error"]["detail"]["retry_after"] > 0
    assert _get_me(client, ada.token).status_code == 200
    assert _get_me(client, "rlm_x", "192.0.2.2").status_code == 401


def test_invalid_tokens_do_not_block_logins_from_the_same_address(
    app: OpenAPI, client: FlaskClient, ada: Caller
) -> None:
    for _ in range(MAX_WRONG + 1):
        _get_me(client, "rlm_old")
    assert _log_in(app, "ada", PASSWORD).status_code == 302


def test_failed_logins_are_counted_across_app_instances(settings: Settings, ada: Caller) -> None:
    apps = [create_app(settings) for _ in range(3)]
    for app in apps:
        app.config["WTF_CSRF_ENABLED"] = False
    turns = itertools.cycle(apps)
    assert [_log_in(next(turns), "ada").status_code for _ in range(MAX_WRONG + 1)] == [401] * 20 + [429]


def test_the_login_limit_holds_without_redis(settings: Settings, ada: Caller) -> None:
    app = create_app(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    app.config["WTF_CSRF_ENABLED"] = False
    assert [_log_in(app, "ada").status_code for _ in range(MAX_WRONG + 1)] == [401] * 20 + [429]


def test_redis_keys_contain_no_names_or_addresses(redis_url: str) -> None:
    import redis

    counters = LoginThrottle(redis_url, "the secret of one server")
    counters.count_failure(login_throttle.account("quokka"), *login_throttle.addresses("203.0.113.77"))
    with redis.Redis.from_url(redis_url) as connection:
        names = b" ".join(connection.keys("*"))
    assert b"quokka" not in names
    assert b"203.0.113.77" not in names


def test_failures_while_blocked_do_not_prolong_the_wait_and_a_reset_ends_it() -> None:
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


def test_ipv6_addresses_with_the_same_64_bit_prefix_share_one_limit(app: OpenAPI, ada: Caller) -> None:
    tries = [
        _log_in(app, f"n{number}", WRONG, f"2001:db8:1:2::{number:x}").status_code for number in range(MAX_WRONG + 1)
    ]
    assert tries == [401] * 20 + [429]
    assert _log_in(app, "ada", PASSWORD, "2001:db8:1:3::1").status_code == 302


@pytest.mark.parametrize(
    ("redis_url", "storage"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://away/1", "rediss://away/1"),
        ("unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
    ],
)
def test_the_storage_url_is_derived_from_the_redis_url(redis_url: str, storage: str) -> None:
    assert login_throttle._storage_url(redis_url) == storage


def _known_browser(app: OpenAPI, name: str, address: str = "192.0.2.1") -> FlaskClient:
    """A browser that somebody logged in with, and out."""
    browser = app.test_client()
    assert _log_in_with(browser, name, PASSWORD, address).status_code == 302
    browser.delete_cookie("retllm_session")
    return browser


def test_a_browser_that_was_logged_in_stays_open_to_its_owner_at_an_address_that_others_blocked(
    app: OpenAPI, ada: Caller
) -> None:
    browser = _known_browser(app, "ada")
    for _ in range(MAX_WRONG + 1):
        _log_in(app, "ada")
    assert _log_in(app, "ada", PASSWORD).status_code == 429
    assert _log_in_with(browser, "ada", WRONG).status_code == 401
    assert _log_in_with(browser, "ADA ", PASSWORD, "198.51.100.4").status_code == 302


def test_a_known_browser_has_a_limit_of_its_own_which_blocks_nobody_else(app: OpenAPI, ada: Caller) -> None:
    browser = _known_browser(app, "ada")
    answers = [_log_in_with(browser, "ada").status_code for _ in range(MAX_WRONG + 1)]
    assert answers == [401] * 20 + [429]
    assert _log_in_with(browser, "ada", PASSWORD).status_code == 429
    assert _log_in(app, "ada", PASSWORD).status_code == 302


@pytest.mark.parametrize("cookie", [None, "", "e30.x.y", "WyJhIixbXV0.aaaaaa.bbbb"])
def test_a_browser_is_known_for_its_accounts_only_and_its_cookie_cannot_be_forged(
    app: OpenAPI, ada: Caller, bob: Caller, cookie: str | None
) -> None:
    browser = _known_browser(app, "bob")
    if cookie is not None:
        browser.set_cookie("retllm_device", cookie)
    for _ in range(MAX_WRONG):
        assert _log_in_with(browser, "ada").status_code == 401
    assert _log_in_with(browser, "ada", PASSWORD).status_code == 429


def test_the_cookie_of_a_browser_tells_no_name_and_is_for_the_server_only(app: OpenAPI, ada: Caller) -> None:
    app.config["SESSION_COOKIE_SECURE"] = True
    (set_cookie,) = [
        one for one in _log_in(app, "ada", PASSWORD).headers.getlist("Set-Cookie") if one.startswith("retllm_device")
    ]
    assert {"HttpOnly", "Secure", "SameSite=Lax"} <= set(set_cookie.split("; "))
    assert "ada" not in set_cookie.casefold().partition("expires")[0]


def test_a_live_session_changes_its_password_whatever_others_do_at_its_address(app: OpenAPI, ada: Caller) -> None:
    browser = app.test_client()
    assert _log_in_with(browser, "ada", PASSWORD).status_code == 302
    for number in range(MAX_WRONG + 1):
        _log_in(app, f"somebody{number}")
        _log_in(app, "ada", WRONG, f"198.51.100.{number}")

    def change(old: str) -> int:
        sent = {"old": old, "new": "a new long phrase", "again": "a new long phrase"}
        return browser.post("/account/password", data=sent, environ_overrides={"REMOTE_ADDR": "192.0.2.1"}).status_code

    assert change(WRONG) == 422
    assert change(PASSWORD) == 302
    # somebody else at this computer has as few tries as anywhere
    assert [change(WRONG) for _ in range(MAX_WRONG + 1)] == [422] * MAX_WRONG + [429]


@pytest.mark.parametrize("address", ["192.0.2.{}".format, "2001:db8:1:{:x}::1".format])
def test_many_addresses_of_one_network_have_a_limit_together(
    app: OpenAPI, ada: Caller, address: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_throttle, "MAX_WRONG_IN_NETWORK", 30)
    answers = [_log_in(app, f"n{number}", WRONG, address(number)).status_code for number in range(31)]
    assert answers == [401] * 30 + [429]
    assert _log_in(app, "ada", PASSWORD, "203.0.113.1").status_code == 302


def test_few_passwords_are_checked_at_a_time_and_known_browsers_have_a_line_of_their_own(
    app: OpenAPI, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = _known_browser(app, "ada")
    places, waiting = 1, 2
    lines = {known: Line(places, waiting, 7) for known in (True, False)}
    app.extensions["retllm_password_lines"] = lines
    entered, go_on, real = threading.Semaphore(0), threading.Event(), passwords.matches

    def slow(stored: str | None, password: str) -> bool:
        entered.release()
        assert go_on.wait(120)
        return real(stored, password)

    with ThreadPoolExecutor(places + waiting) as threads, monkeypatch.context() as patch:
        patch.setattr(passwords, "matches", slow)
        inside = [threads.submit(_log_in, app, f"n{number}") for number in range(places + waiting)]
        assert entered.acquire(timeout=120)
        deadline = time.monotonic() + 120
        while lines[False]._room._value:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        answer = _log_in(app, "ada", PASSWORD, "198.51.100.1")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "7"
        assert "too much to do" in answer.text
        patch.setattr(passwords, "matches", real)
        assert _log_in_with(browser, "ada", PASSWORD).status_code == 302
        go_on.set()
        assert Counter(one.result().status_code for one in inside) == {401: places + waiting}
    assert _log_in(app, "ada", PASSWORD, "198.51.100.1").status_code == 302


def test_all_ways_to_type_a_name_are_counted_together() -> None:
    assert len({login_throttle.account(name) for name in ("admin", "ADMIN ", "ａｄｍｉｎ", "admİn", "𝐚𝐝𝐦𝐢𝐧")}) == 1
